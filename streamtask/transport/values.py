"""The values of the transport port: what goes into an engine, what comes out, what becomes of it.

Nothing in here does anything. They are structs throughout: one is made five times as fast as a frozen dataclass, which
counts for those of every event, and its class ten times as fast, which counts for the start of every worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Literal

import msgspec

#: A type and a version of it, as in an envelope: ("OrderPlaced", "v1").
TypeVersion = tuple[str, str]
#: Length of the flat fields (name, value) of an entry that has the field `envelope` alone, as most have.
PLAIN = 2


# ── what goes in ──────────────────────────────────────────────────────────────────────────────────────────────────


class Outgoing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event on its way into a stream."""

    stream: str
    body: bytes
    event_id: str
    content_type: str | None = None
    content_encoding: str | None = None
    #: Seconds from now (the engine's now); None: at once.
    delay: float | None = None
    #: A moment; None: at once. Not together with `delay`.
    at: datetime | None = None
    #: Stored once per key and stream within `dedup_window` seconds.
    dedup_key: str | None = None
    dedup_window: float = 600.0
    #: Takes the place of what waits under this key in its stream, body and moment. With `delay` or `at`.
    debounce_key: str | None = None
    #: An earlier publish of this event id may have succeeded: look for it before storing.
    again: bool = False


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """What lets entries of one key through, so many at a time across all workers; the others queue behind it.

    The key is read from the envelope as it stands in the entry. Envelopes that an engine cannot read (encoded ones)
    have one key together, and so have those in which there is none.
    """

    #: Stands for a handler: the same in every worker of the group.
    name: str
    #: Types of the events that go through it.
    types: tuple[str, ...]
    #: Where the key stands in the payload, name by name; empty: all have the same key.
    path: tuple[str, ...] = ()
    limit: int = 1
    #: One at a time, in the order of the stream: its place is kept through retries, hand-backs and crashes. In one that
    #: is not ordered, what is parked for later gives its place up, and comes to the gate again when it is due.
    ordered: bool = False


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A group's reading of one stream by one worker."""

    stream: str
    group: str
    #: Where the group begins if it does not exist yet: "earliest", "latest" or a moment.
    start: str | datetime = "earliest"
    #: The types and versions that this worker handles; they join the group's durable set.
    handles: frozenset[TypeVersion] = frozenset()
    #: What its entries go through, the strictest first: it takes what cannot be told apart.
    gates: tuple[Gate, ...] = ()

    @property
    def limit(self) -> int | None:
        """How much of the stream can be handled at a time, where one gate has the same key for all that is handled."""
        if len(self.gates) != 1 or self.gates[0].path:
            return None
        return self.gates[0].limit if {type_ for type_, _ in self.handles} <= set(self.gates[0].types) else None


# ── what comes out ────────────────────────────────────────────────────────────────────────────────────────────────


class Delivery(msgspec.Struct, eq=False, gc=False):
    """One handing-over of one entry to one owner. (owner, deliveries) is the fence of everything done with it.

    Two of them are never equal: each is a handing-over of its own.
    """

    stream: str
    group: str
    entry_id: str
    owner: str
    #: The entry as it stands in the stream: name, value, name, value...
    fields: Sequence[bytes]
    #: The engine's delivery count, from 1. Never lowered.
    deliveries: int = 1
    #: How often the handler failed on this entry.
    failures: int = 0
    #: Deliveries that were nobody's fault: hand-backs, parks.
    uncharged: int = 0
    #: Something of it may be kept beside the stream (`Checkpoints`, `Gates`): the engine's note to itself.
    kept: bool = False

    @property
    def attempt(self) -> int:
        """1 + the failures so far."""
        return 1 + self.failures

    @property
    def crashes(self) -> int:
        """Deliveries after which the process died while it may have been running this entry."""
        return max(0, self.deliveries - 1 - self.failures - self.uncharged)

    @property
    def body(self) -> bytes | None:
        """The bytes of the field `envelope`, or None where the entry has no such field."""
        fields = self.fields
        if len(fields) == PLAIN and fields[0] == b"envelope":
            return fields[1]
        return self.field(b"envelope")

    def field(self, name: bytes) -> bytes | None:
        """The first value of a field of the entry."""
        fields = self.fields
        for index in range(0, len(fields) - 1, 2):
            if fields[index] == name:
                return fields[index + 1]
        return None

    @property
    def only(self) -> str | None:
        """The one group this entry is meant for (a replay), or None."""
        if len(self.fields) == PLAIN:
            return None
        value = self.field(b"only")
        return None if value is None else value.decode("utf-8", "replace")

    @property
    def replay(self) -> str:
        """The replay generation of this entry; empty for an original."""
        if len(self.fields) == PLAIN:
            return ""
        return (self.field(b"replay") or b"").decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"Delivery({self.stream}/{self.group}/{self.entry_id} to {self.owner}, deliveries={self.deliveries})"


# ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class RuleText(msgspec.Struct, frozen=True):
    """A rule, as one version of a program has it."""

    stream: str
    rule: str
    #: Its timetable.
    text: str


class Standing(msgspec.Struct, frozen=True):
    """How far a rule is, in ms since 1970 by the engine's clock."""

    now_ms: int
    #: The last slot that it has ticked for, or that was passed over; 0: none yet.
    last_ms: int
    #: When it began to be as its text says; 0: it is another text that stands there.
    begun_ms: int


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of a rule, with the tick that is to be published for it."""

    stream: str
    rule: str
    at_ms: int
    #: The last slot as the caller knows it: where that has changed, another worker was faster.
    known_ms: int
    #: None: the slot is passed over.
    item: Outgoing | None = None


class KnownRule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that workers have named, as it is shown."""

    rule: str
    text: str
    now_ms: int
    last_ms: int
    begun_ms: int
    #: When a worker that has it said so last; to the minute.
    seen_ms: int


# ── what becomes of a delivery ────────────────────────────────────────────────────────────────────────────────────


class Mark(msgspec.Struct, frozen=True):
    """The de-duplication mark that a delivery's effects leave: one set of effects per name, group and stream."""

    #: Event type and value, e.g. "OrderPlaced:17".
    name: str
    #: Seconds for which the mark stands.
    window: float
    #: A replay: ignore a mark that stands already and set it anew.
    replace: bool = False


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of an event, for whoever waits for it."""

    event_id: str
    body: bytes
    #: Seconds for which it is kept.
    ttl: float


class Member(msgspec.Struct, frozen=True, gc=False):
    """A value that joins those of a group's other members."""

    group: str
    index: int
    #: How many values make the group complete.
    size: int
    value: bytes
    #: Stored together with the value that makes it complete.
    emits: tuple[Outgoing, ...] = ()
    result: Result | None = None


class Step(msgspec.Struct, frozen=True, gc=False):
    """What the end of one call means to its workflow.

    A call that is done ends no second time: the effects of another run of it are dropped.
    """

    workflow: str
    #: Which of the workflow's calls.
    name: str
    state: Literal["done", "failed", "cancelled"]
    #: Seconds from now on for which the states of the workflow's calls, and the values of its groups, are kept.
    ttl: float
    #: What became of the whole workflow, where this call decides that.
    result: Result | None = None
    member: Member | None = None


class Done(msgspec.Struct, frozen=True, gc=False):
    """Handled: commit the effects and ack, in one atomic step."""

    emits: tuple[Outgoing, ...] = ()
    mark: Mark | None = None
    result: Result | None = None
    step: Step | None = None


#: Handled, and that is all: what most handlers come to.
DONE = Done()


class Cancelled(Done, frozen=True, gc=False):
    """Nobody wants it any more (`Cancellations`): ack, store the result that says so."""


class Retry(msgspec.Struct, frozen=True):
    """Run again in this group only, `delay` seconds from now. `failed` says whether it counts as a failure."""

    delay: float
    failed: bool = True
    error: str = ""


class Dead(msgspec.Struct, frozen=True, kw_only=True):
    """Keep the whole entry in the dead-letter stream with the evidence, store the effects, ack: in one atomic step."""

    reason: str
    error: str = ""
    traceback: str = ""
    attempts: int = 1
    event_id: str = ""
    event_type: str = ""
    worker: str = ""
    #: What the handler has to say about its end.
    emits: tuple[Outgoing, ...] = ()
    result: Result | None = None
    step: Step | None = None


class Release(msgspec.Struct, frozen=True):
    """Hand back: not a failure, and not a crash, unless it is `charged` as one."""

    delay: float = 0.0
    charged: bool = False


class Skip(msgspec.Struct, frozen=True):
    """Not for this group: ack. `event_type`, if given, is a type outside the group's set; its first id is noted.

    The engine looks once more: a type that has joined the set meanwhile waits, as by `Wait`.
    """

    event_type: str = ""
    version: str = ""
    timeout: float = 0.0


class Wait(msgspec.Struct, frozen=True):
    """A type or version that only other workers of this group handle: keep it for them, at most `timeout` seconds."""

    type: str
    version: str
    timeout: float


class Together(msgspec.Struct, frozen=True, gc=False):
    """Handled by one call with others: commit its effects with the acks and marks of all of them, or change nothing.

    What is settled is the first of them; the others are of the same stream, group and owner.
    """

    emits: tuple[Outgoing, ...]
    #: Of the first.
    mark: Mark | None
    others: tuple[tuple[Delivery, Mark | None], ...]


Outcome = Done | Retry | Dead | Release | Skip | Wait | Together


class Verdict(Enum):
    """What the engine made of one outcome."""

    SETTLED = "settled"
    #: The fence refused it: another owner, or a later delivery. Nothing was changed.
    LOST = "lost"
    #: A mark of this name stands already, or the step of a workflow is done: acked, effects dropped.
    DUPLICATE = "duplicate"
    #: Of those that were to be settled together some are lost or duplicates, and some are not. Nothing was changed.
    TORN = "torn"


# ── when a handler may start ──────────────────────────────────────────────────────────────────────────────────────


class Start(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A start that is asked for, of a handler that may start so often only."""

    group: str
    #: What it shares its limit with: all that name it so, in this group and beside one stream.
    limit: str
    #: Seconds between two starts.
    spacing: float
    #: It goes before those that were told to ask again.
    first: bool = False


class Turn(msgspec.Struct, frozen=True, gc=False):
    """When a start may be. Reserved: then, and that time is nobody else's. Else it is too far off: ask again then."""

    #: Seconds from now.
    wait: float
    is_reserved: bool


# ── what a handler has come to ────────────────────────────────────────────────────────────────────────────────────


class Progress(msgspec.Struct, frozen=True):
    """How far a handler is."""

    #: From 0 to 1.
    fraction: float
    #: In its own words.
    message: str = ""


# ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────

#: What a publish waits for: the server's word alone, that of all replicas that a failover may promote, of so many
#: replicas, or that the server's own disk has it.
Durability = Literal["none", "replica", "disk"] | int


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the connected server can do; decided at connect, shown by `streamtask doctor`."""

    engine: str
    version: str = ""
    #: Entries survive a restart of the process that holds them.
    durable: bool = True
    #: Emits, mark and ack are one atomic step.
    atomic: bool = True
    #: Newer commands found on this server, e.g. {"XACKDEL", "XNACK"}.
    commands: frozenset[str] = frozenset()


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """What was found when a group's reading was prepared."""

    #: The group's durable set of (type, version), this worker's included.
    interest: frozenset[TypeVersion] = frozenset()
    #: Types that just joined the set and of which earlier entries had been skipped: type -> first skipped entry id.
    skipped_before: Mapping[str, str] = msgspec.field(default_factory=dict)
    #: The group did not exist and was made.
    created: bool = False


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """What a claim brought."""

    deliveries: Sequence[Delivery] = ()
    #: Ids that stood pending but whose entries are gone from the stream: data was lost outside streamtask.
    gone: Sequence[str] = ()
    #: Waiting entries past their deadline (now owned by the caller, to be dead-lettered).
    expired: Sequence[Delivery] = ()
    #: Seconds until the next entry can be taken; 0: more can be taken now; None: there is none.
    next_due: float | None = None


class Relayed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the emits that waited beside a stream."""

    #: How many have reached their stream.
    count: int = 0
    #: What keeps the others, by the stream that they are for. They stay, and are tried again.
    held_back: Mapping[str, Exception] = msgspec.field(default_factory=dict)


class GroupStats(msgspec.Struct, frozen=True, kw_only=True):
    """One group's reading of one stream. What the engine cannot tell is None, never an invented 0."""

    stream: str
    group: str
    consumers: int
    pending: int
    lag: int | None
    lag_seconds: float | None
    oldest_pending: float | None
    dead: int


# ── what is kept ──────────────────────────────────────────────────────────────────────────────────────────────────


class StoredBlob(msgspec.Struct, frozen=True):
    """What stands under a blob's name: never changed, only replaced by another."""

    #: Names its bytes: two blobs that were stored under one name have different ones.
    part: str
    size: int


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that was given up, whole, with the evidence."""

    dead_id: str
    stream: str
    group: str
    entry_id: str
    event_id: str
    event_type: str
    reason: str
    error: str
    traceback: str
    attempts: int
    deliveries: int
    worker: str
    first_seen: datetime
    dead_at: datetime
    fields: Sequence[bytes]

    @property
    def id(self) -> str:
        """`stream/group/entry-id`, as the command line takes it."""
        return f"{self.stream}/{self.group}/{self.dead_id}"


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────────────────────


class PendingEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry that is delivered and not acked."""

    stream: str
    group: str
    entry_id: str
    consumer: str
    idle_ms: int
    deliveries: int
    #: For a parked entry: milliseconds until due (0: due). None: not parked.
    due_in_ms: int | None
    #: True where the consumer is alive (or the entry is parked or waiting).
    alive: bool
    #: How far its handler has said to be, in this delivery or an earlier one.
    progress: Progress | None = None


class StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One stream."""

    stream: str
    length: int
    groups: int
    dead: int
    scheduled: int
    #: Emits of this stream's handlers on their way to streams of another server.
    outbox: int = 0
    first_id: str
    last_id: str
    bytes: int | None


class ConsumerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer of one group."""

    stream: str
    group: str
    consumer: str
    pending: int
    idle_ms: int
    alive: bool
