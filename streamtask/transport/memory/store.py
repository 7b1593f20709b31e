"""What the in-memory engine keeps: streams, what stands beside each group, signs of life, who waits for entries.

It is the "server": any number of transports, event loops and threads may share one. Everything in it is touched with
`lock` held, and nothing awaits while holding it, so that each verb of a transport is one atomic step.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from streamtask.errors import TransportError
from streamtask.lanes import home
from streamtask.transport.memory.log import EntryId, Group, Log, id_text
from streamtask.transport.values import DeadLetter, Outgoing, Progress, Result, StoredBlob, TypeVersion

#: Owns entries whose retry or hand-back is not taken up yet.
PARKED = "~parked"
#: Owns entries of types that only other workers handle.
WAITING = "~waiting"
#: Owns entries that queue behind a gate.
QUEUED = "~queued"
RESERVED = frozenset({PARKED, WAITING, QUEUED})
#: Results that are told to those who come late.
NEWS = 10_000
#: Seconds that the last word on how far an event is is kept.
PROGRESS_TTL = 3600.0

_Value = TypeVar("_Value")


class Expiring(Generic[_Value]):
    """Values that stand until a moment."""

    def __init__(self) -> None:
        self._items: dict[str, tuple[float, _Value]] = {}

    def get(self, key: str, now: float) -> _Value | None:
        """The value, if its moment has not come."""
        until, value = self._items.get(key, (now, None))
        return value if until > now else None

    def put(self, key: str, value: _Value, until: float, now: float) -> None:
        """Set a value; forget expired ones that were set before it."""
        self._items.pop(key, None)
        self._items[key] = (until, value)
        while self._items:
            oldest = next(iter(self._items))
            if self._items[oldest][0] > now:
                break
            del self._items[oldest]

    def drop(self, key: str) -> None:
        """Forget a value at once."""
        self._items.pop(key, None)

    def items(self, now: float) -> list[tuple[str, _Value]]:
        """Everything that stands."""
        return [(key, value) for key, (until, value) in self._items.items() if until > now]


@dataclass(slots=True)
class Counts:
    """Why an entry was delivered more than once, as far as it was no crash, and what its handler has come to."""

    failures: int = 0
    uncharged: int = 0
    #: Of the last retry.
    error: str = ""
    #: As `Checkpoints` keeps them.
    state: bytes | None = None
    #: Delivery count and number of the state.
    saved: tuple[int, int] = (0, 0)
    progress: Progress | None = None


@dataclass(slots=True)
class Skipped:
    """Entries of a type outside the group's set."""

    first_id: EntryId
    count: int = 0


@dataclass(frozen=True, slots=True)
class At:
    """The gate that an entry has come to."""

    #: Name of the gate, and the entry's key.
    gate: tuple[str, str]
    limit: int
    is_ordered: bool


@dataclass(slots=True)
class Ledger:
    """What is kept beside a group; it outlives the group itself, so that a vanished one can be made again."""

    interest: set[TypeVersion] = field(default_factory=set)
    skipped: dict[str, Skipped] = field(default_factory=dict)
    #: The group's position when it was last looked at; None: never.
    checkpoint: EntryId | None = None
    seen_at: float | None = None
    counts: dict[EntryId, Counts] = field(default_factory=dict)
    #: Index of what `~parked` owns: id -> due.
    parked: dict[EntryId, float] = field(default_factory=dict)
    #: Index of what `~waiting` owns: type and version -> id -> deadline.
    waiting: dict[TypeVersion, dict[EntryId, float]] = field(default_factory=dict)
    #: Entries that have come to a gate; who is through each gate, and who queues behind it.
    at: dict[EntryId, At] = field(default_factory=dict)
    through: dict[tuple[str, str], set[EntryId]] = field(default_factory=dict)
    queued: dict[tuple[str, str], set[EntryId]] = field(default_factory=dict)
    #: De-duplication marks.
    marks: Expiring[bool] = field(default_factory=Expiring)

    def counts_of(self, entry_id: EntryId) -> Counts:
        """The counts of an entry, to be changed."""
        return self.counts.setdefault(entry_id, Counts())


@dataclass(slots=True)
class Delayed:
    """An event that is not due yet."""

    due: float
    item: Outgoing


@dataclass(slots=True)
class RuleState:
    """How far a rule is. Moments are in ms."""

    text: str
    begun: int
    seen: int
    #: The last slot; 0: none yet.
    last: int = 0


@dataclass(slots=True)
class StreamState:
    """One stream and all that belongs to it."""

    log: Log = field(default_factory=Log)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    #: Event id -> the event.
    delayed: dict[str, Delayed] = field(default_factory=dict)
    #: Debounce key -> event id of what waits under it.
    debounced: dict[str, str] = field(default_factory=dict)
    rules: dict[str, RuleState] = field(default_factory=dict)
    #: Publish de-duplication: key -> event id.
    published: Expiring[str] = field(default_factory=Expiring)
    #: Dead letters by id, ascending.
    dead: dict[EntryId, DeadLetter] = field(default_factory=dict)
    last_dead_id: EntryId = (0, 0)
    #: Results by event id, and these ids in the order in which they came; how many were forgotten before the first.
    results: Expiring[bytes] = field(default_factory=Expiring)
    news: deque[str] = field(default_factory=deque)
    old_news: int = 0
    #: How often a place at a gate was given up, and how many entries were let through from a queue.
    left: int = 0
    let_in: int = 0
    #: How far events are, and which word of it that was.
    progress: Expiring[tuple[int, Progress]] = field(default_factory=Expiring)
    cancelled: Expiring[bool] = field(default_factory=Expiring)
    #: Limits of starts: "GROUP:LIMIT" -> when the next one is free, and when the last that waits asks again.
    rates: Expiring[tuple[float, float]] = field(default_factory=Expiring)
    #: What workflows are made of and the states of their calls, and the values of their groups.
    definitions: Expiring[bytes] = field(default_factory=Expiring)
    steps: Expiring[dict[str, str]] = field(default_factory=Expiring)
    values: Expiring[dict[int, bytes]] = field(default_factory=Expiring)

    def ledger(self, group: str) -> Ledger:
        """What stands beside a group, to be changed."""
        return self.ledgers.setdefault(group, Ledger())

    def known(self, group: str) -> Ledger:
        """What stands beside a group, to be read: an empty one, not kept, where there is none."""
        return self.ledgers.get(group) or Ledger()

    def unschedule(self, event_id: str) -> bool:
        """An event waits no more, and leaves its debounce key; whether it did wait."""
        waiting = self.delayed.pop(event_id, None)
        if waiting is not None and waiting.item.debounce_key is not None:
            self.debounced.pop(waiting.item.debounce_key, None)
        return waiting is not None

    def ack(self, group: str, entry_id: EntryId, now: float) -> None:
        """The group is done with the entry: its gate lets the next one through."""
        self.log.groups[group].pending.pop(entry_id, None)
        self.leave(group, entry_id, now, for_good=True)
        self.ledger(group).counts.pop(entry_id, None)
        self.ledger(group).at.pop(entry_id, None)

    def park(self, group: str, entry_id: EntryId, due: float, now: float) -> None:
        """Nobody's until it is due."""
        self.log.groups[group].give(entry_id, PARKED, now)
        self.ledger(group).parked[entry_id] = due

    # ── gates ─────────────────────────────────────────────────────────────────────────────────────────────────

    def enter(self, group: str, entry_id: EntryId, now: float) -> bool:
        """Let an entry through the gate it has come to, or queue it; whether it is through."""
        ledger = self.ledger(group)
        at = ledger.at.get(entry_id)
        if at is None or entry_id in ledger.through.get(at.gate, ()):
            return True
        if not ledger.queued.get(at.gate) and len(ledger.through.get(at.gate, ())) < at.limit:
            ledger.through.setdefault(at.gate, set()).add(entry_id)
            return True
        self.log.groups[group].give(entry_id, QUEUED, now)
        ledger.queued.setdefault(at.gate, set()).add(entry_id)
        return False

    def leave(self, group: str, entry_id: EntryId, now: float, *, for_good: bool) -> None:
        """Give up an entry's place at its gate. Not for good: an ordered one keeps it."""
        ledger = self.ledger(group)
        at = ledger.at.get(entry_id)
        if at is not None and (for_good or not at.is_ordered):
            ledger.through.get(at.gate, set()).discard(entry_id)
            self.left += 1
            self.admit(group, at.gate, now)

    def admit(self, group: str, gate: tuple[str, str], now: float) -> int:
        """Let through who queues, as far as there is room: parked, due now. Returns how many."""
        ledger = self.ledger(group)
        pending = self.log.groups[group].pending
        admitted = 0
        for entry_id in sorted(ledger.queued.get(gate, ())):
            held, at = pending.get(entry_id), ledger.at.get(entry_id)
            if held is not None and held.owner == QUEUED:
                if at is not None and len(ledger.through.get(gate, ())) >= at.limit:
                    break
                ledger.through.setdefault(gate, set()).add(entry_id)
                self.park(group, entry_id, now, now)
                admitted += 1
                self.let_in += 1
            ledger.queued[gate].discard(entry_id)
        for index in (ledger.through, ledger.queued):
            if not index.get(gate):
                index.pop(gate, None)
        return admitted


class MemoryStore:
    """Streams in memory, shared by the transports that are given it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: Stands for the identity of a server process.
        self.run_id = uuid.uuid4().hex
        self.streams: dict[str, StreamState] = {}
        #: Owner -> (its info, when it was said).
        self.beats: Expiring[tuple[bytes, float]] = Expiring()
        #: Blobs by name, the bytes of their parts by "NAME:PART", records by key.
        self.blobs: Expiring[StoredBlob] = Expiring()
        self.parts: Expiring[bytearray] = Expiring()
        self.records: Expiring[dict[str, bytes]] = Expiring()
        #: In the order in which they came, in which Redis serves them too.
        self._listeners: dict[_Listener, None] = {}

    def stream(self, name: str) -> StreamState:
        """A stream's state; made when it is first named for writing."""
        return self.streams.setdefault(name, StreamState())

    def find(self, name: str) -> StreamState:
        """A stream's state for reading: an empty one, not kept, where there is none."""
        return self.streams.get(name) or StreamState()

    def keep(self, stream: str, result: Result, now: float) -> None:
        """Store a result, and wake those who wait for one."""
        state = self.stream(home(stream))
        state.results.put(result.event_id, result.body, now + result.ttl, now)
        state.news.append(result.event_id)
        if len(state.news) > NEWS:
            state.news.popleft()
            state.old_news += 1
        self.wake(results_of(stream))

    def tell_progress(self, stream: str, event_id: str, progress: Progress, now: float) -> None:
        """Keep how far an event is, and wake those who watch."""
        state = self.stream(home(stream))
        word, _ = state.progress.get(event_id, now) or (0, progress)
        state.progress.put(event_id, (word + 1, progress), now + PROGRESS_TTL, now)
        self.wake(progress_of(stream))

    def group(self, stream: str, group: str) -> Group:
        """A group, which must exist."""
        found = self.find(stream).log.groups.get(group)
        if found is None:
            raise TransportError(f"no group {group!r} on stream {stream!r}: register it (again)")
        return found

    def alive(self, owner: str, now: float) -> bool:
        """Whether an owner has said lately that it lives."""
        return self.beats.get(owner, now) is not None

    def publish(self, item: Outgoing, now: float) -> str:
        """Store an event, or find it stored already; the entry id, or an event id as `Transport.publish` says."""
        state = self.stream(item.stream)
        published = self.stream(home(item.stream)).published
        known = published.get(item.dedup_key, now) if item.dedup_key is not None else None
        if known is not None:
            return known
        stored = state.log.find_event(item.event_id) if item.again else None
        if stored is not None:
            return id_text(stored) if item.dedup_key is None else item.event_id
        if item.delay is None and item.at is None:
            result = id_text(self.append(item, now))
        else:
            due = item.at.timestamp() if item.at else now + (item.delay or 0.0)
            state.delayed.setdefault(item.event_id, Delayed(due, item))
            result = item.event_id
            if item.debounce_key is not None:
                earlier = state.debounced.get(item.debounce_key)
                state.debounced[item.debounce_key] = item.event_id
                if earlier is not None and earlier != item.event_id:
                    state.delayed.pop(earlier, None)
        if item.dedup_key is not None:
            published.put(item.dedup_key, item.event_id, now + item.dedup_window, now)
            return item.event_id
        return result

    def append(self, item: Outgoing, now: float) -> EntryId:
        """Put an event into its stream."""
        return self.append_fields(item.stream, fields_of(item), item.event_id, now)

    def append_fields(self, stream: str, fields: Sequence[bytes], event_id: str, now: float) -> EntryId:
        """Put an entry as it is into a stream, and wake who waits for one."""
        entry_id = self.stream(stream).log.add(fields, event_id, now)
        self.wake(stream)
        return entry_id

    def wake(self, stream: str) -> None:
        """Let everybody who waits on a stream look again."""
        for listener in self._listeners:
            if stream in listener.streams:
                # A loop that was torn down with its reader still waiting: nobody is there to be woken.
                with suppress(RuntimeError):
                    listener.loop.call_soon_threadsafe(listener.event.set)

    @contextmanager
    def listening(self, streams: Sequence[str]) -> Iterator[asyncio.Event]:
        """An event of the running loop that is set whenever one of the streams is worth looking at again."""
        listener = _Listener(frozenset(streams), asyncio.get_running_loop(), asyncio.Event())
        with self.lock:
            self._listeners[listener] = None
        try:
            yield listener.event
        finally:
            with self.lock:
                del self._listeners[listener]


def results_of(stream: str) -> str:
    """What to listen to for the results of a stream: no stream is called so."""
    return f"{home(stream)}\0results"


def progress_of(stream: str) -> str:
    """What to listen to for how far the events of a stream are."""
    return f"{home(stream)}\0progress"


def fields_of(item: Outgoing) -> list[bytes]:
    """The entry that an event becomes: name, value, name, value..."""
    fields = [b"envelope", item.body]
    if item.content_type is not None:
        fields += [b"content_type", item.content_type.encode()]
    if item.content_encoding is not None:
        fields += [b"content_encoding", item.content_encoding.encode()]
    return fields


@dataclass(frozen=True, eq=False, slots=True)
class _Listener:
    streams: frozenset[str]
    loop: asyncio.AbstractEventLoop
    event: asyncio.Event
