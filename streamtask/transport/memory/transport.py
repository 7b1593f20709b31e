"""A connection to a `MemoryStore`: the verbs that every engine has. What an engine may lack is in the modules beside.

Every verb gives the loop a turn first (as a real engine's would) and then does its work in one atomic step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from streamtask.clock import SystemClock
from streamtask.errors import TransportError
from streamtask.lanes import home
from streamtask.transport.memory.cancellations import MemoryCancellations
from streamtask.transport.memory.checkpoints import MemoryCheckpoints
from streamtask.transport.memory.dead_letters import MemoryDeadLetters
from streamtask.transport.memory.gates import MemoryGates
from streamtask.transport.memory.inspection import MemoryInspection
from streamtask.transport.memory.log import ZERO, EntryId, Group, id_at, id_before, id_text, parse_id
from streamtask.transport.memory.rates import MemoryRates
from streamtask.transport.memory.recovery import MemoryRecovery
from streamtask.transport.memory.results import MemoryResults
from streamtask.transport.memory.retention import MemoryRetention
from streamtask.transport.memory.schedule import MemorySchedule
from streamtask.transport.memory.settlement import delivery_of, holds, settle
from streamtask.transport.memory.storage import MemoryStorage
from streamtask.transport.memory.store import RESERVED, MemoryStore, StreamState
from streamtask.transport.memory.workflows import MemoryWorkflows
from streamtask.transport.port import (
    Cancellations,
    Checkpoints,
    DeadLetters,
    Gates,
    Inspection,
    Outbox,
    Rates,
    Recovery,
    Results,
    Retention,
    Schedule,
    Storage,
    Workflows,
)
from streamtask.transport.values import (
    Capabilities,
    Delivery,
    GroupStats,
    Outcome,
    Outgoing,
    Registered,
    Subscription,
    TypeVersion,
    Verdict,
)


class MemoryTransport:
    """The in-memory engine, as one event loop uses it. `clock` is the engine's: seconds since the epoch."""

    def __init__(self, store: MemoryStore, *, clock: Callable[[], float] | None = None) -> None:
        self._store = store
        self._clock = clock = clock or SystemClock().now
        self.capabilities = Capabilities(engine="memory", durable=False)
        self.recovery: Recovery = MemoryRecovery(store, clock)
        self._gates = MemoryGates(store, clock, self._until_found)
        self.gates: Gates = self._gates
        self.checkpoints: Checkpoints = MemoryCheckpoints(store, clock)
        self.results: Results = MemoryResults(store, clock)
        self.cancellations: Cancellations = MemoryCancellations(store, clock)
        self.rates: Rates = MemoryRates(store, clock)
        self.workflows: Workflows = MemoryWorkflows(store, clock)
        self.schedule: Schedule | None = MemorySchedule(store, clock)
        self.retention: Retention | None = MemoryRetention(store, clock)
        self.dead_letters: DeadLetters | None = MemoryDeadLetters(store, clock)
        self.inspection: Inspection | None = MemoryInspection(store, clock)
        self.outbox: Outbox | None = None
        self.storage: Storage | None = MemoryStorage(store, clock)

    async def connect(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to close; what is stored stays with the store."""

    async def register(self, subscription: Subscription) -> Registered:
        """See `Transport.register`."""
        with self._store.lock:
            state = self._store.stream(subscription.stream)
            ledger = state.ledger(subscription.group)
            created = subscription.group not in state.log.groups
            if created:
                begin = _start(state, subscription.start) if ledger.checkpoint is None else ledger.checkpoint
                state.log.groups[subscription.group] = Group(begin)
                ledger.checkpoint = begin
                # Of a group that vanished: its entries are delivered for the first time again.
                ledger.counts.clear()
                ledger.parked.clear()
                ledger.waiting.clear()
                ledger.at.clear()
                ledger.through.clear()
                ledger.queued.clear()
            ledger.seen_at = self._clock()
            joined = subscription.handles - ledger.interest
            ledger.interest |= joined
            types = {type_ for type_, _ in joined}
            skipped = {type_: id_text(ledger.skipped.pop(type_).first_id) for type_ in types & ledger.skipped.keys()}
            return Registered(interest=frozenset(ledger.interest), skipped_before=skipped, created=created)

    async def publish(self, items: Sequence[Outgoing]) -> list[str | Exception]:
        """See `Transport.publish`."""
        await asyncio.sleep(0)
        with self._store.lock:
            return [self._store.publish(item, self._clock()) for item in items]

    def together(self, streams: Sequence[str]) -> list[list[str]]:
        """See `Transport.together`."""
        return [list(streams)]

    async def fetch(self, group: str, owner: str, streams: Sequence[str], *, count: int, wait: float) -> list[Delivery]:
        """See `Transport.fetch`. Nothing is handed over to a caller that was cancelled."""

        def look() -> list[Delivery]:
            for stream in streams:
                self._store.group(stream, group)
            found = []
            for stream in streams:
                state = self._store.stream(stream)
                entries = state.log.read(group, owner, count, self._clock())
                found += [delivery_of(state, stream, group, entry) for entry in entries]
            return found

        return await self._until_found(look, streams, wait)

    async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> list[Verdict | TransportError]:
        """See `Transport.settle`."""
        await asyncio.sleep(0)
        with self._store.lock:
            return [self._settle(delivery, outcome) for delivery, outcome in settlements]

    def _settle(self, delivery: Delivery, outcome: Outcome) -> Verdict:
        state = self._store.find(delivery.stream)
        left, let_in = state.left, state.let_in
        verdict = settle(self._store, delivery, outcome, self._clock())
        if state.left > left:
            # Who reads through a gate that was shut may look again.
            self._store.wake(delivery.stream)
        if state.let_in > let_in:
            self._gates.let_in(delivery.stream, delivery.group)
        return verdict

    async def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """See `Transport.renew`."""
        lost = []
        with self._store.lock:
            for delivery in held:
                group = self._store.find(delivery.stream).log.groups.get(delivery.group)
                if group is not None and holds(group, delivery):
                    group.give(parse_id(delivery.entry_id), delivery.owner, self._clock())
                else:
                    lost.append(delivery)
        return lost

    async def marked(self, group: str, names: Sequence[tuple[str, str]]) -> list[bool]:
        """See `Transport.marked`."""
        with self._store.lock:
            now = self._clock()
            ledgers = ((self._store.find(home(stream)).known(group), name) for stream, name in names)
            return [ledger.marks.get(name, now) is not None for ledger, name in ledgers]

    async def interest(self, stream: str, group: str) -> frozenset[TypeVersion]:
        """See `Transport.interest`."""
        with self._store.lock:
            return frozenset(self._store.find(stream).known(group).interest)

    async def stats(self, stream: str, group: str | None = None) -> list[GroupStats]:
        """See `Transport.stats`."""
        with self._store.lock:
            state = self._store.find(stream)
            names = sorted(state.log.groups) if group is None else [group] if group in state.log.groups else []
            return [_stats(state, stream, name, self._clock()) for name in names]

    async def read(self, stream: str, *, after: str | datetime, count: int, wait: float) -> list[Delivery]:
        """See `Transport.read`. Copies that were made for one group are passed over."""
        position = self._position(stream, after)

        def look() -> list[Delivery]:
            entries = [entry for entry in self._store.find(stream).log.after(position) if not entry.is_copy]
            return [Delivery(stream, "", id_text(entry.id), "", entry.fields) for entry in entries[:count]]

        return await self._until_found(look, [stream], wait)

    def _position(self, stream: str, after: str | datetime) -> EntryId:
        if isinstance(after, datetime):
            return id_before(id_at(after))
        if after == "$":
            with self._store.lock:
                return self._store.find(stream).log.last_id
        return parse_id(after)

    async def _until_found(
        self, look: Callable[[], list[Delivery]], streams: Sequence[str], wait: float
    ) -> list[Delivery]:
        """What `look` finds, looking again whenever something came to one of the streams, for `wait` seconds."""
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        with self._store.listening(streams) as something_came:
            while True:
                something_came.clear()
                with self._store.lock:
                    found = look()
                if found or loop.time() >= deadline:
                    return found
                try:
                    async with asyncio.timeout_at(deadline):
                        await something_came.wait()
                except TimeoutError:
                    return []


def _start(state: StreamState, start: str | datetime) -> EntryId:
    """The position before the first entry that a new group sees."""
    if isinstance(start, datetime):
        return id_before(id_at(start))
    return state.log.last_id if start == "latest" else ZERO


def _stats(state: StreamState, stream: str, name: str, now: float) -> GroupStats:
    group = state.log.groups[name]
    unread = state.log.after(group.last_delivered)
    oldest = next(iter(group.pending), None)
    return GroupStats(
        stream=stream,
        group=name,
        consumers=len(group.consumers.keys() - RESERVED),
        pending=len(group.pending),
        lag=len(unread),
        lag_seconds=max(0.0, now - unread[0].id[0] / 1000) if unread else 0.0,
        oldest_pending=None if oldest is None else max(0.0, now - oldest[0] / 1000),
        dead=sum(letter.group == name for letter in state.dead.values()),
    )
