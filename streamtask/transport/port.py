"""The transport port: what the rest of streamtask asks of an engine (Redis, memory, later NATS and Kafka).

It speaks of streams (short names, `orders` and not `stream:orders`), groups, owners, entry ids and bytes; never of
handlers and never of pydantic. Every verb takes a batch. Times are seconds at this seam and always differences: the
engine's clock, not the caller's, decides when something is due.

The executable definition of all this is `tests/conformance`, which every engine passes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from streamtask.errors import TransportError
from streamtask.transport.values import (
    Capabilities,
    Claimed,
    ConsumerInfo,
    DeadLetter,
    Delivery,
    GroupStats,
    KnownRule,
    Outcome,
    Outgoing,
    PendingEntry,
    Progress,
    Registered,
    Relayed,
    Result,
    RuleText,
    Slot,
    Standing,
    Start,
    StoredBlob,
    StreamInfo,
    Subscription,
    Turn,
    TypeVersion,
    Verdict,
)


class Transport(Protocol):
    """An engine. One instance belongs to one event loop; `connect` before anything else, `close` at the end.

    Every method raises `TransportError` for trouble of the connection or the server; it may be called again.
    """

    capabilities: Capabilities
    recovery: Recovery
    gates: Gates
    checkpoints: Checkpoints
    results: Results
    cancellations: Cancellations
    rates: Rates
    workflows: Workflows
    schedule: Schedule | None
    retention: Retention | None
    dead_letters: DeadLetters | None
    inspection: Inspection | None
    outbox: Outbox | None
    storage: Storage | None

    async def connect(self) -> None:
        """Connect, and find out what the server can do."""

    async def close(self) -> None:
        """Drop every connection."""

    async def register(self, subscription: Subscription) -> Registered:
        """Make sure that stream and group exist; grow the group's durable set of types. Idempotent.

        A group that vanished is made again where it was last known to be, loudly; at 0 where nothing is known.
        """

    async def publish(self, items: Sequence[Outgoing]) -> list[str | Exception]:
        """Store each item; per item, in order: the entry id, or what went wrong.

        It is the event id for delayed ones and for those with a de-duplication key: that of the event that stands
        under the key, which may be an earlier one.

        Never sent twice by the transport: after an error it is unknown whether the item is stored.
        """

    def together(self, streams: Sequence[str]) -> list[list[str]]:
        """These streams, those together that one `fetch` can read."""

    async def fetch(self, group: str, owner: str, streams: Sequence[str], *, count: int, wait: float) -> list[Delivery]:
        """New entries, at most `count` a stream; waits up to `wait` seconds for the first. Safe to cancel.

        What had been handed over by the server when the caller was cancelled, or when the connection broke, stays
        owned by `owner`: `recovery.hand_back(..., keep=held)` gives it back.
        """

    async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> list[Verdict | TransportError]:
        """Commit outcomes, each atomic and fenced by (owner, deliveries).

        A TransportError in the list: that one was not committed (where it `is_unknown`, perhaps it was) and stays
        pending; settle it again. A raised TransportError: unknown for all of them. `Together` has one verdict for all
        of its members, LOST where none of them is held.
        """

    async def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew the lease of what is held; returns those that are lost. All of one owner."""

    async def marked(self, group: str, names: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether a mark stands, for each (stream, mark name)."""

    async def interest(self, stream: str, group: str) -> frozenset[TypeVersion]:
        """The group's durable set of types and versions."""

    async def stats(self, stream: str, group: str | None = None) -> list[GroupStats]:
        """The groups of a stream (or the one named). Cheap enough to be asked every few seconds."""

    async def read(self, stream: str, *, after: str | datetime, count: int, wait: float) -> list[Delivery]:
        """Entries after an id ("0", "$" or an entry id) or from a moment on; no group, nothing is owned or changed."""


class Recovery(Protocol):
    """Who lives, and what the dead left behind."""

    async def beat(self, owner: str, info: bytes, *, ttl: float) -> str:
        """Say that the owner lives, for `ttl` seconds; `info` is a JSON object for `inspect workers`.

        Returns the identity of the server process (its run id), which changes when it restarts. So it does when the
        server's clock is set: what is known of ages is as good as gone then, too.
        """

    async def retire(self, owner: str, subscriptions: Sequence[Subscription]) -> None:
        """The owner ends in order: remove its beat, and its consumers where they hold nothing."""

    async def claim(self, subscription: Subscription, owner: str, *, count: int) -> Claimed:
        """Take up to `count` parked entries that are due, and waiting entries of the types this worker handles.

        Adds 1 to their delivery count. A `count` of 0 takes nothing and says when there is something. Waiting entries
        of other types that are past their deadline come beside them, as `expired`: they need no slot.
        """

    async def lost_owners(self, stream: str, group: str, *, lease: float) -> dict[str, str]:
        """Owners that hold entries and should not: owner -> "dead" or "stale".

        Dead: without a beat. Stale: it beats, but holds an entry not renewed for `lease` seconds. Reserved owners are
        never named.
        """

    async def hand_back(
        self,
        stream: str,
        group: str,
        owner: str,
        *,
        started: Collection[str] | None = None,
        keep: Collection[str] = (),
        idle: float = 0.0,
    ) -> int:
        """Park, due now, what `owner` holds in the group and is not in `keep`; returns how many.

        `started`: ids that had been started; they are charged (as a crash), all others are not. None: all are charged.
        `idle`: only entries not renewed for this many seconds.
        """

    async def mend(self, stream: str, group: str) -> int:
        """Rebuild the indexes of parked and waiting entries from the pending list; returns how many were missing."""


class Gates(Protocol):
    """Entries of one key one after the other, or so many at a time, across all workers (`Subscription.gates`).

    `recovery.claim` lets through what comes again; whatever acks an entry opens its gate to the next one, which is then
    due.
    """

    async def fetch(self, subscription: Subscription, owner: str, *, count: int, wait: float) -> list[Delivery]:
        """New entries that are let through, as `Transport.fetch`; those that are not are queued, owned by nobody.

        Reading and queueing are one step. Nothing is read while some thousand entries queue, nor, where all that is
        handled goes through one gate, while that one is shut.
        """

    async def news(self, *, within: float) -> set[tuple[str, str]]:
        """(stream, group) in which `settle` of this transport has let entries through; waits for the first.

        `within`: seconds at most. They are for `recovery.claim`, of this worker or another.
        """


class Checkpoints(Protocol):
    """What a handler has come to: kept until its entry is done or dead, through retries, hand-backs and crashes.

    Each write is fenced as a settlement is, and takes the place of the one before it. The delivery that is settled has
    to be the object that was given here.
    """

    async def save(self, delivery: Delivery, state: bytes, number: int) -> bool:
        """Keep a state; False: the lease is lost, and nothing was changed.

        Of the states of one delivery the one with the highest number stays: a command that comes late, after it was
        given up and asked again, must not put an earlier state in the place of a later one.
        """

    async def load(self, delivery: Delivery) -> bytes | None:
        """The state that was saved last, in this delivery or an earlier one."""

    async def report(self, reports: Sequence[tuple[Delivery, str, Progress]]) -> None:
        """Keep how far each is, for `Inspection` and, by its event id, for `Results.progress`.

        One whose lease is lost is passed over.
        """


class Results(Protocol):
    """What became of events, for those who wait for it; written by `settle`, kept beside the stream, and run out."""

    async def get(self, stream: str, event_id: str) -> bytes | None:
        """The result of an event; None: there is none yet, or none any more."""

    async def position(self, stream: str) -> str:
        """Where the news of a stream's results stand: what comes from now on is behind it."""

    async def news(self, stream: str, *, after: str, wait: float) -> tuple[list[str], str]:
        """Events whose results were stored behind a position, and the position behind them; waits `wait` seconds.

        News are kept for a while only: who comes late misses some, and asks for the results.
        """

    async def progress(self, stream: str, event_id: str, *, after: str, wait: float) -> tuple[Progress | None, str]:
        """How far an event's handler is, if it has said so behind a position ("0": ever), and the position behind it.

        Waits up to `wait` seconds for that. Only the last word is kept, for an hour after it was said.
        """


class Cancellations(Protocol):
    """Events that nobody wants any more, by their ids. Kept beside their stream, and run out."""

    async def cancel(self, stream: str, event_id: str, result: Result | None, *, ttl: float) -> bool:
        """Cancel an event, for `ttl` seconds; False: it has a result already, and nothing was changed.

        One that is scheduled is taken out of the schedule, and `result` stored in its place, in one step. Of every
        other, whoever begins or runs it finds out by `cancelled`, and settles it so.
        """

    async def cancelled(self, stream: str, event_ids: Sequence[str]) -> list[bool]:
        """Whether each of these is cancelled."""


class Rates(Protocol):
    """When limited handlers may start, across all workers. What is not used is not saved up."""

    async def reserve(self, stream: str, starts: Sequence[Start], *, ahead: float, longest: float) -> list[Turn]:
        """Give each start its time, in order, if that comes within `ahead` seconds.

        If not, it is told when to ask again, which is after all that were told so before it, and within `longest`
        seconds. What has been told so comes back as a `first`. The stream is where the limits stand; nothing is read
        from it.
        """


class Workflows(Protocol):
    """How far workflows are, and the values of their groups; written by `settle`, and run out."""

    async def begin(self, stream: str, workflow: str, definition: bytes, *, ttl: float) -> None:
        """Keep what a workflow is made of, for `ttl` seconds. May be done again."""

    async def states(self, stream: str, workflow: str) -> tuple[bytes, dict[str, str]] | None:
        """What a workflow is made of, and the states of those of its calls that have ended; None: it is not known."""

    async def values(self, stream: str, group: str) -> dict[int, bytes]:
        """The values of a group that have come so far, by their index."""

    async def cancel(self, stream: str, workflow: str, result: Result | None, *, ttl: float) -> bool:
        """Cancel all calls of a workflow, for `ttl` seconds, and store what became of it.

        False: it has a result, which stays.
        Its id is among those that `Cancellations.cancelled` tells of; whoever begins or runs one of its calls asks.
        """


class Schedule(Protocol):
    """Events that are not due yet, and rules by which events come again and again."""

    async def promote(self, streams: Sequence[str]) -> float | None:
        """Append what is due; returns seconds until the next one, or None."""

    async def scheduled(self, stream: str, *, limit: int) -> list[Mapping[str, object]]:
        """`event_id, event_type, due_in_ms, fields` of what waits, soonest first.

        `event_type` is empty where the envelope is encoded; `fields` are those of the entry that it will be.
        """

    async def cancel(self, stream: str, event_id: str) -> bool:
        """Forget an event that is not due yet; False: it does not wait (any more)."""

    async def reschedule(
        self, stream: str, event_id: str, *, delay: float | None = None, at: datetime | None = None
    ) -> bool:
        """Have an event come `delay` seconds from now, or at a moment; False: it does not wait (any more)."""

    async def stand(self, rules: Sequence[RuleText], *, new: bool) -> list[Standing]:
        """How far each rule is. One that nobody has named begins now, and has missed nothing.

        `new`: the caller has just started. A text that is not the one that stands there then begins now, in its place.
        """

    async def tick(self, slots: Sequence[Slot]) -> list[bool]:
        """Append the tick of each slot, in order; False: another worker was faster, or it is not time yet.

        One step each: a slot is taken with its tick, and at most once.
        """

    async def rules(self, stream: str) -> list[KnownRule]:
        """The rules of a stream, as far as workers have named them lately."""


class Outbox(Protocol):
    """Emits for a stream that is kept by another server than the stream of their cause.

    They are written beside the cause in one step with its ack, and published from there, each once. One owner at a time
    does so, in their order; should two do so after a pause, the order of what they both send is open.
    """

    async def news(self, *, within: float) -> set[str]:
        """Streams beside which this transport has put something; waits for the first, `within` seconds at most."""

    async def waiting(self, streams: Sequence[str]) -> dict[str, int]:
        """How much waits beside these streams, where something does."""

    async def relay(self, stream: str, owner: str) -> Relayed:
        """Publish what waits beside a stream, unless another owner is doing so. Safe to run twice, and to cancel."""


class Storage(Protocol):
    """Bytes and small facts beside the streams. All of them run out.

    A blob is written in pieces to a part that nobody sees, which then becomes the blob in one step. Names and keys have
    been checked by the caller.
    """

    async def append(self, name: str, part: str, piece: bytes, *, offset: int, ttl: float) -> bool:
        """Add to a part, which runs out `ttl` seconds later; False, and nothing done, where it has not `offset` bytes.

        A part begins with its first piece, at 0.
        """

    async def commit(self, name: str, blob: StoredBlob, *, ttl: float) -> bool:
        """Make a part the blob of this name, for `ttl` seconds; False, and nothing done, where it is not whole.

        What stood there before can be read to its end by who has begun to.
        """

    async def discard(self, name: str, part: str) -> None:
        """Remove a part that will not be committed."""

    async def find(self, name: str) -> StoredBlob | None:
        """What stands under a name."""

    async def piece(self, name: str, part: str, *, offset: int, size: int) -> bytes:
        """Bytes of a blob, fewer where it ends or is gone."""

    async def remove(self, name: str) -> None:
        """Remove a blob; nothing where there is none."""

    async def read_record(self, key: str) -> dict[str, bytes]:
        """The fields of a record; none where there is no record."""

    async def write_record(self, key: str, fields: Mapping[str, bytes], *, ttl: float) -> None:
        """Set these fields; the record runs out `ttl` seconds later."""

    async def claim_field(self, key: str, field: str, value: bytes, *, ttl: float) -> bytes:
        """Set a field unless it is set, and renew the record as above; the value that stands."""

    async def swap_fields(
        self, key: str, fields: Mapping[str, bytes | None], *, expected: Mapping[str, bytes | None], ttl: float
    ) -> bool:
        """Set or (None) remove these fields and renew the record, if those stand as expected (None: not set).

        In one step; False, and nothing done, where they do not.
        """

    async def delete_record(self, key: str, fields: Collection[str]) -> None:
        """Remove these fields, or all where none is named."""


class Retention(Protocol):
    """Bounds on what is kept."""

    async def trim(self, stream: str, *, max_age: float, max_entries: int) -> int:
        """Remove what every group has finished, checkpoint the groups' positions; returns how many were removed.

        Only entries older than `max_age` seconds, or beyond the newest `max_entries`.
        """

    async def sweep_consumers(self, stream: str, group: str, *, idle: float) -> int:
        """Remove consumers without a beat, without pending entries and idle for longer than this."""


class DeadLetters(Protocol):
    """Dead letters of a stream. An id here is the entry id in the dead-letter stream."""

    async def count(self, stream: str) -> int:
        """How many there are."""

    async def page(self, stream: str, *, after: str, limit: int) -> list[DeadLetter]:
        """Oldest first, ids greater than `after` ("" from the start)."""

    async def last(self, stream: str) -> str:
        """The id of the newest one; "" where there is none."""

    async def get(self, stream: str, dead_id: str) -> DeadLetter | None:
        """One dead letter, or None if there is no such one (any more)."""

    async def replay(self, stream: str, dead_id: str) -> str | None:
        """Append the original entry again, for the group that failed only, and remove the dead letter.

        One atomic step. Returns the new entry id, or None if there is no such dead letter (any more). A TransportError
        where that group is gone: nobody would read the entry, so the dead letter stays.
        """

    async def purge(self, stream: str, dead_ids: Sequence[str]) -> int:
        """Remove dead letters for good; returns how many there were."""


class Inspection(Protocol):
    """Read-only questions, and two verbs for operators: `drop_group`, `replay_history`."""

    async def streams(self) -> list[str]:
        """Every stream that a publisher or worker has named."""

    async def stream(self, stream: str) -> StreamInfo:
        """One stream: its length, its ends, its groups."""

    async def pending(self, stream: str, group: str, *, limit: int, after: str = "") -> list[PendingEntry]:
        """Entries delivered and not acked, ids greater than `after`."""

    async def consumers(self, stream: str, group: str) -> list[ConsumerInfo]:
        """The consumers that a group has on the server."""

    async def workers(self) -> list[Mapping[str, object]]:
        """The `info` of every living owner, with `worker` (the owner) and `last_beat_ms` added."""

    async def groups(self, stream: str) -> list[Mapping[str, object]]:
        """`stream, group, interest, skipped, last_seen_ms` of each group; the last may be None.

        `interest` is a list ["Type:v1"...], `skipped` a mapping {type: {first_id, count}}.
        """

    async def drop_group(self, stream: str, group: str) -> bool:
        """Remove a group that is gone for good, with all that belongs to it."""

    async def entry(self, stream: str, entry_id: str) -> Sequence[bytes] | None:
        """One entry's fields."""

    async def entries(self, stream: str, entry_ids: Sequence[str]) -> list[Sequence[bytes] | None]:
        """The fields of some entries, in one round trip; None for one that is gone."""

    async def newest(self, stream: str, *, before: str, limit: int) -> list[Delivery]:
        """Entries with ids below `before` ("" from the end), newest first; copies for one group included."""

    async def state(self, stream: str, group: str, entry_id: str) -> Mapping[str, object]:
        """Where an entry is in a group: `state`; `consumer, deliveries, failures, error, due_in_ms, progress` if known.

        A state is waiting, running, retrying, abandoned, done or unread.
        """

    async def replay_history(self, stream: str, group: str, *, since: str | datetime, generation: str) -> int:
        """Hand history to a group again; returns how many entries the group will see.

        A new group is made at `since`; an existing one gets copies that it alone handles.
        """

    async def settings(self) -> Mapping[str, str]:
        """The server's configuration and state as far as `doctor` asks for it."""
