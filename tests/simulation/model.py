"""The model of a stream and its groups: what an engine must say and do, in plain dicts and lists.

It has no clock: a delay is none at all or longer than any test. Ids are the engine's; what becomes of them is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from streamtask.transport.values import (
    Dead,
    Delivery,
    Done,
    Mark,
    Outcome,
    Outgoing,
    Release,
    Retry,
    Skip,
    Verdict,
    Wait,
)

PARKED = "~parked"
WAITING = "~waiting"
#: Seconds that never pass in a test.
LONG = 3600.0


@dataclass(slots=True)
class Held:
    """A pending entry."""

    owner: str
    deliveries: int
    failures: int = 0
    uncharged: int = 0
    #: Parked or waiting: whether its time has come.
    is_due: bool = False
    #: Not renewed for longer than a lease.
    is_stale: bool = False
    #: Checkpointed by any of its owners.
    state: bytes | None = None
    #: Delivery count and number of that.
    saved: tuple[int, int] = (0, 0)

    @property
    def counts(self) -> tuple[int, int, int]:
        """What a delivery of it shows."""
        return self.deliveries, self.failures, self.uncharged


@dataclass(slots=True)
class Group:
    """One group's reading: what is neither unread nor pending is finished."""

    is_there: bool = True
    unread: list[str] = field(default_factory=list)
    pending: dict[str, Held] = field(default_factory=dict)
    #: Names of marks that stand.
    marks: set[str] = field(default_factory=set)
    #: What would be unread if the group vanished: of all that ever came, all from here on.
    checkpoint: int = 0

    def of(self, owner: str) -> dict[str, Held]:
        """What an owner holds."""
        return {entry_id: held for entry_id, held in self.pending.items() if held.owner == owner}

    def holds(self, delivery: Delivery) -> bool:
        """Whether the fence lets this delivery do something."""
        held = self.pending.get(delivery.entry_id)
        return held is not None and (held.owner, held.deliveries) == (delivery.owner, delivery.deliveries)

    def park(self, entry_id: str, *, due: bool) -> None:
        """Nobody's."""
        held = self.pending[entry_id]
        held.owner, held.is_due, held.is_stale = PARKED, due, False


class Model:
    """A stream and its groups."""

    def __init__(self, groups: Collection[str]) -> None:
        #: Every entry that ever came, in order, and those that are still there.
        self.ever: list[str] = []
        self.log: list[str] = []
        self.groups = {name: Group() for name in groups}
        #: Group and entry of each dead letter.
        self.letters: Counter[tuple[str, str]] = Counter()
        #: Event ids that handlers emitted.
        self.emitted: list[str] = []
        #: Event ids of events that are not due yet, and of those that are and were not promoted.
        self.later: set[str] = set()
        self.due: set[str] = set()

    def append(self, entry_id: str) -> None:
        """An event comes to the stream."""
        self.ever.append(entry_id)
        self.log.append(entry_id)
        for group in self.groups.values():
            group.unread.append(entry_id)

    def fetch(self, name: str, owner: str, count: int) -> list[str]:
        """New entries for an owner."""
        group = self.groups[name]
        taken, group.unread = group.unread[:count], group.unread[count:]
        group.pending |= {entry_id: Held(owner, 1) for entry_id in taken}
        return taken

    def settle(self, delivery: Delivery, outcome: Outcome) -> Verdict:
        """What the engine must answer to one outcome."""
        group = self.groups[delivery.group]
        if not group.is_there or not group.holds(delivery):
            return Verdict.LOST
        held = group.pending[delivery.entry_id]
        match outcome:
            case Retry(delay=delay, failed=True):
                held.failures += 1
                group.park(delivery.entry_id, due=delay == 0)
                return Verdict.SETTLED
            case Release(delay=delay, charged=True):
                group.park(delivery.entry_id, due=delay == 0)
                return Verdict.SETTLED
            case Retry(delay=delay) | Release(delay=delay):
                held.uncharged += 1
                group.park(delivery.entry_id, due=delay == 0)
                return Verdict.SETTLED
            case Wait(timeout=timeout) | Skip(event_type="OrderPlaced", timeout=timeout):
                held.uncharged += 1
                held.owner, held.is_due, held.is_stale = WAITING, timeout == 0, False
                return Verdict.SETTLED
            case Dead(emits=emits):
                self.letters[delivery.group, delivery.entry_id] += 1
                self.emitted += [emit.event_id for emit in emits]
        del group.pending[delivery.entry_id]
        return self._effects(group, outcome) if isinstance(outcome, Done) else Verdict.SETTLED

    def settle_together(self, marks: Mapping[Delivery, Mark | None], emits: Sequence[Outgoing]) -> Verdict:
        """What the engine must answer to one outcome of several deliveries."""
        group = self.groups[next(iter(marks)).group]
        held = [each for each in marks if group.is_there and group.holds(each)]
        if not held:
            return Verdict.LOST
        checked = [mark.name for mark in marks.values() if mark and not mark.replace]
        if len(held) < len(marks) or group.marks.intersection(checked):
            return Verdict.TORN
        for delivery, mark in marks.items():
            # One entry may be there twice: its owner has read it again when the group had vanished and was made anew.
            group.pending.pop(delivery.entry_id, None)
            if mark is not None:
                group.marks.add(mark.name)
        self.emitted += [emit.event_id for emit in emits]
        return Verdict.SETTLED

    def _effects(self, group: Group, done: Done) -> Verdict:
        if done.mark is not None:
            if done.mark.name in group.marks and not done.mark.replace:
                return Verdict.DUPLICATE
            group.marks.add(done.mark.name)
        self.emitted += [emit.event_id for emit in done.emits]
        return Verdict.SETTLED

    def hand_back(self, name: str, owner: str, *, started: Collection[str] | None, keep: Collection[str]) -> int:
        """An owner's entries are anybody's; what had not been started is not charged. Returns how many."""
        group = self.groups[name]
        given = [entry_id for entry_id in group.of(owner) if entry_id not in keep]
        for entry_id in given:
            if started is not None and entry_id not in started:
                group.pending[entry_id].uncharged += 1
            group.park(entry_id, due=True)
        return len(given)

    def claimed(self, name: str, owner: str, entry_ids: Sequence[str]) -> None:
        """Entries are an owner's, once more."""
        for entry_id in entry_ids:
            held = self.groups[name].pending[entry_id]
            held.owner, held.is_due, held.is_stale = owner, False, False
            held.deliveries += 1

    def lost_owners(self, name: str, alive: Collection[str]) -> dict[str, str]:
        """Who holds what they should not."""
        lost: dict[str, str] = {}
        for held in self.groups[name].pending.values():
            if held.owner in (PARKED, WAITING):
                continue
            if held.owner not in alive:
                lost[held.owner] = "dead"
            elif held.is_stale:
                lost[held.owner] = "stale"
        return lost

    def trim(self) -> int:
        """Remove all that every group has finished, and note how far each is; returns how many were removed."""
        needed = set[str]()
        for group in self.groups.values():
            if group.is_there:
                unfinished = group.pending.keys() | set(group.unread)
                group.checkpoint = next((i for i, each in enumerate(self.ever) if each in unfinished), len(self.ever))
                needed |= unfinished
            else:
                needed |= set(self.ever[group.checkpoint :])
        left = [entry_id for entry_id in self.log if entry_id in needed]
        removed = len(self.log) - len(left)
        self.log = left
        return removed

    def lose(self, name: str) -> None:
        """A group vanishes."""
        self.groups[name].is_there = False

    def make_again(self, name: str) -> None:
        """It is made again where it was last known to be: what it had begun since begins anew."""
        group = self.groups[name]
        there = set(self.log)
        group.is_there = True
        group.pending.clear()
        group.unread = [entry_id for entry_id in self.ever[group.checkpoint :] if entry_id in there]
