"""What operators change: dead letters replayed and purged, what is scheduled, history replayed, a group dropped.

Everything that is only asked is `inspector.py`. Each of these looks first, and refuses what would lose an event without
having been asked to: a replay to a group that is not there, the removal of a group that works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from streamtask import envelope as envelopes
from streamtask.errors import InUseError, NotFoundError
from streamtask.inspector import Inspector
from streamtask.references import DeadLetterReference
from streamtask.rows import DeadLetterFilter

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A dead letter that was handed to its group again."""

    id: str
    entry_id: str


@dataclass(slots=True)
class Replay:
    """What became of the dead letters that were to be replayed."""

    count: int = 0
    #: Left where they are, by (stream, group): the group is not there, nobody would handle them.
    left: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """History that was handed to a group."""

    stream: str
    group: str
    #: Events that the group will see.
    events: int
    #: The group did not exist before.
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A group that was removed."""

    stream: str
    group: str
    pending: int
    unread: int | None


class Operations:
    """Changes what one connected transport holds."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    # ── dead letters ──────────────────────────────────────────────────────────────────────────────────────────

    async def replay_dead(self, reference: DeadLetterReference) -> Replayed:
        """Hand one dead letter to the group that failed, and to no other.

        Raises:
            NotFoundError: there is no such dead letter (any more), or no such group to hand it to.
        """
        letters = self._inspector.dead_letters
        letter = await letters.get(reference.stream, reference.dead_id)
        if letter is None or letter.group != reference.group:
            raise no_such_letter(reference)
        if not await self._inspector.transport.stats(reference.stream, reference.group):
            raise NotFoundError(
                f"there is no group {reference.group!r} on stream {reference.stream!r} any more, so nobody would "
                "handle it: start a worker of that group first"
            )
        entry_id = await letters.replay(reference.stream, reference.dead_id)
        if entry_id is None:
            raise no_such_letter(reference)
        return Replayed(id=str(reference), entry_id=entry_id)

    async def replay_all_dead(self, wanted: DeadLetterFilter, progress: Progress) -> Replay:
        """Hand every dead letter that is meant, and stands there now, to its group.

        `progress` is called with the number of letters that were looked at since the last call.
        """
        done = Replay()
        present = {(stats.stream, stats.group) for stats in await self._inspector.stats(wanted.stream)}
        async for page in self._inspector.dead_pages(wanted):
            for letter in filter(wanted.matches, page):
                if (letter.stream, letter.group) not in present:
                    done.left[letter.stream, letter.group] += 1
                elif await self._inspector.dead_letters.replay(letter.stream, letter.dead_id) is not None:
                    done.count += 1
            progress(len(page))
        if not done.count and not done.left:
            await self._inspector.stats(wanted.stream, wanted.group)  # none because there is no such group?
        return done

    async def purge_all_dead(self, wanted: DeadLetterFilter, progress: Progress) -> int:
        """Remove every dead letter that is meant, and stands there now, for good; returns how many."""
        removed = 0
        async for page in self._inspector.dead_pages(wanted):
            meant = [letter.dead_id for letter in page if wanted.matches(letter)]
            removed += await self._inspector.dead_letters.purge(page[0].stream, meant)
            progress(len(page))
        if not removed:
            await self._inspector.stats(wanted.stream, wanted.group)
        return removed

    async def purge_dead(self, reference: DeadLetterReference) -> None:
        """Remove one dead letter for good. Raises NotFoundError where there is no such one (any more)."""
        letters = self._inspector.dead_letters
        letter = await letters.get(reference.stream, reference.dead_id)
        if letter is None or letter.group != reference.group:
            raise no_such_letter(reference)
        if not await letters.purge(reference.stream, [reference.dead_id]):
            raise no_such_letter(reference)

    # ── what is scheduled ─────────────────────────────────────────────────────────────────────────────────────

    async def cancel_scheduled(self, stream: str, event_id: str) -> None:
        """Forget an event that is not due yet. Raises NotFoundError where it does not wait (any more)."""
        if not await self._inspector.schedule.cancel(stream, event_id):
            raise _not_scheduled(stream, event_id)

    async def reschedule(self, stream: str, event_id: str, *, delay: float | None, at: datetime | None) -> None:
        """Have an event that is not due yet come `delay` seconds from now, or at a moment.

        Raises:
            NotFoundError: it does not wait (any more).
        """
        if not await self._inspector.schedule.reschedule(stream, event_id, delay=delay, at=at):
            raise _not_scheduled(stream, event_id)

    # ── groups and history ────────────────────────────────────────────────────────────────────────────────────

    async def drop_group(self, stream: str, group: str) -> Dropped:
        """Remove a group that is gone for good; its dead letters stay.

        Raises:
            InUseError: it has living workers. They would make it anew, and begin with all of history.
        """
        [stats] = await self._inspector.stats(stream, group)
        [member] = await self._inspector.memberships(stream, group)
        if member.alive:
            raise InUseError(
                f"group {group!r} on stream {stream!r} has living workers (`streamtask inspect workers`): stop them "
                "first, or they make it anew and handle all of history again"
            )
        if not await self._inspector.inspection.drop_group(stream, group):
            raise NotFoundError(f"there is no group {group!r} on stream {stream!r} any more")
        return Dropped(stream=stream, group=group, pending=stats.pending, unread=stats.lag)

    async def replay_history(self, stream: str, group: str, since: str | datetime) -> History:
        """Hand history to a group: to one that exists as copies that it alone handles, to a new one as it is."""
        await self._inspector.streams(stream)
        known = {stats.group for stats in await self._inspector.transport.stats(stream)}
        events = await self._inspector.inspection.replay_history(
            stream, group, since=since, generation=envelopes.new_event_id()
        )
        return History(stream=stream, group=group, events=events, created=group not in known)


def _not_scheduled(stream: str, event_id: str) -> NotFoundError:
    return NotFoundError(
        f"no event {event_id} waits beside stream {stream!r} (any more): it has come, was cancelled, or was never "
        "there; `streamtask inspect scheduled` shows what waits"
    )


def no_such_letter(reference: DeadLetterReference) -> NotFoundError:
    """The error for a dead letter that is not there."""
    return NotFoundError(
        f"there is no dead letter {reference} (any more): it was replayed, purged, or never there; "
        "`streamtask dead list` shows what there is"
    )
