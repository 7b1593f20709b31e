"""Read-only questions about a running system: what is pending, who works, what died, and where one event is.

The command line asks them, and whoever draws a dashboard. Nothing here changes anything on the server; what operators
change is `operations.py`. Entries are decoded as far as they can be: one that is no envelope has no event id, and that
is all that it costs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from streamtask.broker import Broker
from streamtask.doctor import WAITING_AFTER, DeadFacts, Facts, GroupFacts, Skipped, Waiting
from streamtask.envelope import Envelope
from streamtask.errors import ConfigurationError, EnvelopeError, NotFoundError
from streamtask.rows import (
    DeadLetterFilter,
    FoundWorkflow,
    Group,
    Listing,
    Membership,
    Pending,
    Scheduled,
    Worker,
    next_tick,
    told_progress,
    worker_of,
)
from streamtask.steps import CallState, call_states, decode_definition
from streamtask.transport.port import DeadLetters, Inspection, Schedule, Transport
from streamtask.transport.values import (
    ConsumerInfo,
    DeadLetter,
    Delivery,
    Durability,
    GroupStats,
    PendingEntry,
    StreamInfo,
)

_Protocol = TypeVar("_Protocol")

#: Who owns entries that only other workers of a group handle, and those that queue behind others of their key.
WAITING_OWNER = "~waiting"
_QUEUED_OWNER = "~queued"
#: The largest envelope that is decoded without an app to say otherwise, in bytes: far above what an app would allow.
_LIMIT = 64 << 20
#: Entries that one round trip brings, with their bodies and without.
_BODIES = 200
_LIGHT = 1000
#: Pending entries of a group that are looked at for ones that wait, and waiting ones that are decoded to name the type.
_LOOKED_AT = 20_000
_NAMED = 100


class HasPlace(Protocol):
    """What stands in a stream and belongs to a group."""

    @property
    def stream(self) -> str:
        """The stream."""

    @property
    def group(self) -> str:
        """The group."""


class Connected(Protocol):
    """What can be asked: an app, while it is connected."""

    @property
    def transport(self) -> Transport:
        """Its open transport."""

    @property
    def broker(self) -> Broker:
        """What reads its entries."""

    @property
    def durability(self) -> Durability:
        """What its publishes wait for."""


class Connection:
    """A transport without an app around it: JSON and what compresses it can be read."""

    def __init__(self, transport: Transport, broker: Broker | None = None, *, durability: Durability = "none") -> None:
        """`durability`: what the publishes of an app wait for that is asked about."""
        self.transport = transport
        self.durability = durability
        self.broker = broker or Broker("inspector", limit=_LIMIT)


class Inspector:
    """Asks the broker of an app: `await Inspector(app).groups()`, within `async with app`."""

    def __init__(self, app: Connected) -> None:
        self._app = app

    @property
    def transport(self) -> Transport:
        """What is asked. Raises ConfigurationError where the app is not connected."""
        return self._app.transport

    # ── what the engine has ───────────────────────────────────────────────────────────────────────────────────

    @property
    def inspection(self) -> Inspection:
        """The engine's answers. Raises ConfigurationError where it has none."""
        return self._of_engine(self.transport.inspection, "list what it holds")

    @property
    def dead_letters(self) -> DeadLetters:
        """The engine's dead letters. Raises ConfigurationError where it has none."""
        return self._of_engine(self.transport.dead_letters, "keep dead letters")

    @property
    def schedule(self) -> Schedule:
        """The engine's schedule. Raises ConfigurationError where it has none."""
        return self._of_engine(self.transport.schedule, "keep events for later")

    def _of_engine(self, found: _Protocol | None, what: str) -> _Protocol:
        if found is None:
            raise ConfigurationError(f"the engine {self.transport.capabilities.engine} cannot {what}")
        return found

    # ── names ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def streams(self, stream: str | None = None) -> list[str]:
        """Every stream, or the one named. Raises NotFoundError where there is no such stream."""
        known = await self.inspection.streams()
        if stream is None:
            return known
        if stream not in known:
            # One that only foreign programs have written to is in nobody's list.
            found = await self.inspection.stream(stream)
            if not (found.groups or found.length):
                listed = f"it has {', '.join(known)}" if known else "it has none yet"
                raise NotFoundError(f"there is no stream {stream!r} on this server; {listed}")
        return [stream]

    async def stats(self, stream: str | None = None, group: str | None = None) -> list[GroupStats]:
        """The groups of every stream, or those named. Raises NotFoundError where one that is named is not there."""
        names = await self.streams(stream)
        every = [found for name in names for found in await self.transport.stats(name)]
        return _only(every, group, names)

    # ── tables ────────────────────────────────────────────────────────────────────────────────────────────────

    async def groups(self, stream: str | None = None, group: str | None = None) -> list[Group]:
        """How far each group is."""
        return [
            Group(
                stream=stats.stream,
                group=stats.group,
                consumers=stats.consumers,
                pending=stats.pending,
                lag=stats.lag,
                lag_seconds=stats.lag_seconds,
                oldest_pending_ms=None if stats.oldest_pending is None else round(stats.oldest_pending * 1000),
                dead=stats.dead,
            )
            for stats in await self.stats(stream, group)
        ]

    async def stream_infos(self, stream: str | None = None) -> list[StreamInfo]:
        """Each stream in numbers."""
        return [await self.inspection.stream(name) for name in await self.streams(stream)]

    async def consumers(self, stream: str | None = None, group: str | None = None) -> list[ConsumerInfo]:
        """Who reads what."""
        return [
            consumer
            for stats in await self.stats(stream, group)
            for consumer in await self.inspection.consumers(stats.stream, stats.group)
        ]

    async def workers(self) -> list[Worker]:
        """Who lives."""
        return [worker_of(said) for said in await self.inspection.workers()]

    async def scheduled(self, stream: str | None = None, *, limit: int) -> Listing[Scheduled]:
        """What is to come, soonest first; at most `limit`. Of a rule that some worker has, the next event."""
        found = []
        for name in await self.streams(stream):
            found += [each for rule in await self.schedule.rules(name) if (each := next_tick(name, rule)) is not None]
            for waiting in await self.schedule.scheduled(name, limit=limit + 1):
                envelope = self.read(name, "", _fields(waiting))
                found.append(
                    Scheduled(
                        stream=name,
                        event_id=str(waiting["event_id"]),
                        event_type=envelope.event_type if envelope else str(waiting["event_type"]) or None,
                        due_in_ms=int(str(waiting["due_in_ms"])),
                    )
                )
        found.sort(key=lambda event: event.due_in_ms)
        return Listing(found[:limit], cut=len(found) > limit)

    async def workflow(self, workflow: str, stream: str | None = None) -> list[CallState]:
        """How far each call of a workflow is, in their order, in whatever stream it lives.

        Raises NotFoundError where there is no such workflow, or where it ended too long ago.
        """
        found = await self.find_workflow(workflow, stream)
        if found is None:
            where = "any stream" if stream is None else f"stream {stream!r}"
            raise NotFoundError(
                f"there is no workflow {workflow!r} in {where}; one is kept for as long as it was sent with (ttl, a "
                "day by default), counted from its last step"
            )
        return call_states(workflow, found.definition, found.ended)

    async def find_workflow(self, workflow: str, stream: str | None = None) -> FoundWorkflow | None:
        """What is known of a workflow, if anything."""
        for name in await self.streams() if stream is None else [stream]:
            found = await self.transport.workflows.states(name, workflow)
            if found is not None:
                return FoundWorkflow(stream=name, definition=decode_definition(found[0]), ended=found[1])
        return None

    async def memberships(self, stream: str | None = None, group: str | None = None) -> list[Membership]:
        """What each group is interested in, and when it was last alive."""
        names = await self.streams(stream)
        told = [_Told(found) for name in names for found in await self.inspection.groups(name)]
        return [await self._membership(found) for found in _only(told, group, names)]

    async def _membership(self, told: _Told) -> Membership:
        # `last_seen_ms` is when a worker last registered: one that has been running since then is seen by its beat.
        consumers = await self.inspection.consumers(told.stream, told.group)
        alive = any(consumer.alive for consumer in consumers)
        signs = [consumer.idle_ms for consumer in consumers]
        if told.last_seen_ms is not None:
            signs.append(told.last_seen_ms)
        return Membership(
            stream=told.stream,
            group=told.group,
            interest=told.interest,
            skipped=told.skipped,
            alive=alive,
            last_seen_ms=0 if alive else min(signs, default=None),
        )

    # ── pending ───────────────────────────────────────────────────────────────────────────────────────────────

    async def pending(self, stream: str | None = None, group: str | None = None, *, limit: int) -> Listing[Pending]:
        """What is delivered and not acked, oldest first in each group; at most `limit`, shared among the groups."""
        places = [stats for stats in await self.stats(stream, group) if stats.pending]
        shares = _shares([stats.pending for stats in places], limit)
        total = sum(stats.pending for stats in places)
        rows: list[Pending] = []
        for stats, share in zip(places, shares, strict=True):
            rows += await self._pending_of(stats, share)
        return Listing(rows, cut=total > sum(shares), total=total)

    async def _pending_of(self, place: HasPlace, limit: int) -> list[Pending]:
        rows: list[Pending] = []
        after = ""
        while len(rows) < limit:
            count = min(_BODIES, limit - len(rows))
            page = await self.inspection.pending(place.stream, place.group, limit=count, after=after)
            rows += await self._described(place, page)
            if len(page) < count:
                break
            after = page[-1].entry_id
        return rows

    async def _described(self, place: HasPlace, page: Sequence[PendingEntry]) -> list[Pending]:
        bodies = await self.inspection.entries(place.stream, [entry.entry_id for entry in page])
        rows = []
        for entry, fields in zip(page, bodies, strict=True):
            envelope = self.read(entry.stream, entry.entry_id, fields)
            rows.append(
                Pending(
                    stream=entry.stream,
                    group=entry.group,
                    entry_id=entry.entry_id,
                    event_id=envelope.event_id if envelope else None,
                    event_type=envelope.event_type if envelope else None,
                    consumer=entry.consumer,
                    idle_ms=entry.idle_ms,
                    deliveries=entry.deliveries,
                    state=_state(entry),
                    due_in_ms=entry.due_in_ms,
                    progress=told_progress(entry.progress),
                )
            )
        return rows

    def read(self, stream: str, entry_id: str, fields: Sequence[bytes] | None) -> Envelope | None:
        """The envelope of an entry; None where it is gone, or is none."""
        if fields is None:
            return None
        try:
            return self.decode(Delivery(stream, "", entry_id, "", fields))
        except EnvelopeError:
            return None

    def decode(self, delivery: Delivery) -> Envelope:
        """The envelope of an entry. Raises EnvelopeError."""
        return self._app.broker.decode(delivery)

    # ── dead letters ──────────────────────────────────────────────────────────────────────────────────────────

    async def dead(self, wanted: DeadLetterFilter, *, limit: int) -> Listing[DeadLetter]:
        """Dead letters, oldest first in each stream; at most `limit`."""
        found: list[DeadLetter] = []
        async for page in self.dead_pages(wanted):
            found += filter(wanted.matches, page)
            if len(found) > limit:
                return Listing(found[:limit], cut=True)
        if not found:
            await self.stats(wanted.stream, wanted.group)  # nothing found because there is no such group?
        return Listing(found)

    async def dead_pages(self, wanted: DeadLetterFilter) -> AsyncIterator[list[DeadLetter]]:
        """The dead letters that stand there now, of the streams meant, in pages; those that join later are left out.

        The pages hold all letters of a stream: whoever shows progress wants to know of those that are not meant too.
        """
        names = await self.streams(wanted.stream)
        last = {name: await self.dead_letters.last(name) for name in names}
        for name in names:
            after = ""
            while after != last[name]:
                page = await self.dead_letters.page(name, after=after, limit=_BODIES)
                until = [letter for letter in page if _order(letter.dead_id) <= _order(last[name])]
                if until:
                    yield until
                if len(until) < _BODIES:
                    break
                after = until[-1].dead_id

    async def count_dead(self, stream: str | None = None) -> int:
        """How many dead letters there are."""
        return sum([await self.dead_letters.count(name) for name in await self.streams(stream)])

    # ── for the doctor ────────────────────────────────────────────────────────────────────────────────────────

    async def facts(self) -> Facts:
        """What the doctor looks at."""
        capabilities = self.transport.capabilities
        now = await self.now()
        stats = {(found.stream, found.group): found for found in await self.stats()}
        members = [each for each in await self.memberships() if (each.stream, each.group) in stats]
        lengths = {name: (await self.inspection.stream(name)).length for name in {each.stream for each in members}}
        groups = [
            replace(await self._group_facts(each, stats[each.stream, each.group]), length=lengths[each.stream])
            for each in members
        ]
        return Facts(
            engine=capabilities.engine,
            version=capabilities.version,
            durable=capabilities.durable,
            settings=await self.inspection.settings(),
            groups=groups,
            dead=[await self._dead_facts(name, now) for name in await self.streams()],
            durability=self._app.durability,
            outboxes={info.stream: info.outbox for info in await self.stream_infos() if info.outbox},
        )

    async def now(self) -> datetime:
        """The engine's time, for what is said of ages: whoever asks may have another."""
        settings = await self.inspection.settings()
        microseconds = settings.get("server_time_usec", "")
        return datetime.fromtimestamp(int(microseconds) / 1e6, UTC) if microseconds.isdecimal() else datetime.now(UTC)

    async def _group_facts(self, member: Membership, stats: GroupStats) -> GroupFacts:
        return GroupFacts(
            stream=member.stream,
            group=member.group,
            pending=stats.pending,
            lag=stats.lag,
            alive=member.alive,
            last_seen_ms=member.last_seen_ms,
            skipped=[
                Skipped(type=type_, first_id=str(seen["first_id"]), count=int(str(seen["count"])))
                for type_, seen in sorted(member.skipped.items())
            ],
            waiting=await self._waiting(member) if stats.pending else (),
        )

    async def _waiting(self, place: HasPlace) -> list[Waiting]:
        """The types that entries of a group wait for, of as many entries as are looked at."""
        waiting: list[PendingEntry] = []
        after, looked_at = "", 0
        while looked_at < _LOOKED_AT:
            page = await self.inspection.pending(place.stream, place.group, limit=_LIGHT, after=after)
            waiting += [e for e in page if e.consumer == WAITING_OWNER and e.idle_ms > WAITING_AFTER * 1000]
            looked_at += len(page)
            if len(page) < _LIGHT:
                break
            after = page[-1].entry_id
        longest: dict[str, list[int]] = {}
        for row in await self._described(place, waiting[:_NAMED]):
            longest.setdefault(row.event_type or "unknown", []).append(row.idle_ms)
        return [Waiting(type=type_, count=len(idle), longest_ms=max(idle)) for type_, idle in sorted(longest.items())]

    async def _dead_facts(self, stream: str, now: datetime) -> DeadFacts:
        last = await self.dead_letters.last(stream)
        age = max(0, round(now.timestamp() * 1000) - _order(last)[0]) if last else 0
        return DeadFacts(stream=stream, count=await self.dead_letters.count(stream), newest_ms=age)


class _Told:
    """What an engine tells of a group, with its types."""

    def __init__(self, told: Mapping[str, object]) -> None:
        self.stream = str(told["stream"])
        self.group = str(told["group"])
        interest, skipped, seen = told["interest"], told["skipped"], told["last_seen_ms"]
        self.interest: list[str] = list(interest) if isinstance(interest, list) else []
        self.skipped: dict[str, Mapping[str, object]] = dict(skipped) if isinstance(skipped, Mapping) else {}
        self.last_seen_ms = seen if isinstance(seen, int) else None


_Placed = TypeVar("_Placed", bound=HasPlace)


def _only(found: Sequence[_Placed], group: str | None, streams: Sequence[str]) -> list[_Placed]:
    """Those of one group. Raises NotFoundError where there is none of that name."""
    if group is None:
        return list(found)
    chosen = [each for each in found if each.group == group]
    if not chosen:
        known = sorted({each.group for each in found})
        listed = f"there are {', '.join(known)}" if known else "there are none yet"
        where = f"stream {streams[0]!r}" if len(streams) == 1 else "any stream"
        raise NotFoundError(f"there is no group {group!r} on {where}; {listed}")
    return chosen


def _shares(counts: Sequence[int], limit: int) -> list[int]:
    """How many rows each group gets, so that one with a great backlog does not hide the others."""
    shares = [0] * len(counts)
    left = limit
    for place, index in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        shares[index] = min(counts[index], left // (len(counts) - place))
        left -= shares[index]
    return shares


def _state(entry: PendingEntry) -> str:
    """`running`, `retrying` or `abandoned`.

    An entry that waits for a worker that handles its type, or for others of its key, is `retrying`, too: it is nobody's
    and comes again by itself. It has no due time, because what it waits for is a worker, or another entry.
    """
    if entry.due_in_ms is not None or entry.consumer in (WAITING_OWNER, _QUEUED_OWNER):
        return "retrying"
    return "running" if entry.alive else "abandoned"


def _fields(scheduled: Mapping[str, object]) -> Sequence[bytes]:
    fields = scheduled["fields"]
    return fields if isinstance(fields, list) else []


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return (int(ms), int(sequence)) if ms else (0, 0)
