"""The engines that the conformance suite runs against, each with the few things that a port has no verb for.

`Engine` says what those things are: let time pass, age a lease, break something behind the transport's back.
"""

from __future__ import annotations

import asyncio
import glob
import itertools
import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import TypeVar

from streamtask.errors import TransportError
from streamtask.transport.memory import MemoryStore, MemoryTransport
from streamtask.transport.memory.log import parse_id
from streamtask.transport.port import DeadLetters, Inspection, Retention, Schedule, Transport
from streamtask.transport.redis import keys
from streamtask.transport.redis.cluster_transport import ClusterTransport
from streamtask.transport.redis.hashslots import slot_of
from streamtask.transport.redis.transport import RedisTransport
from streamtask.transport.values import Claimed, Delivery, Gate, Outcome, Outgoing, Subscription, TypeVersion, Verdict
from tests.servers import RedisCluster, RedisServer

#: Seconds after which a condition that does not come true fails the test.
PATIENCE = 10.0
ORDER_PLACED: TypeVersion = ("OrderPlaced", "v1")

_Found = TypeVar("_Found")


class Engine(ABC):
    """One engine under test."""

    def __init__(self) -> None:
        self._transports: list[Transport] = []

    async def transport(self) -> Transport:
        """Another connection; closed at the end of the test."""
        made = self._make()
        self._transports.append(made)
        await made.connect()
        return made

    async def consumer(
        self,
        owner: str = "a",
        *,
        group: str = "shipping",
        stream: str = "orders",
        handles: Collection[TypeVersion] = (ORDER_PLACED,),
        start: str | datetime = "earliest",
        gates: tuple[Gate, ...] = (),
    ) -> Consumer:
        """An owner with a connection of its own, registered."""
        subscription = Subscription(stream=stream, group=group, start=start, handles=frozenset(handles), gates=gates)
        made = Consumer(await self.transport(), owner, subscription)
        await made.transport.register(subscription)
        return made

    def neighbour(self, stream: str) -> str:
        """Another stream, which one fetch can read together with this one."""
        return f"{stream}-beside"

    async def close(self) -> None:
        """Close every transport that was made."""
        for transport in self._transports:
            await transport.close()

    @abstractmethod
    def _make(self) -> Transport: ...

    @abstractmethod
    async def let_pass(self, seconds: float) -> None:
        """Time passes, on the engine's clock."""

    @abstractmethod
    def age(self, delivery: Delivery, seconds: float) -> None:
        """Make it so that the delivery was last renewed that long ago."""

    @abstractmethod
    def add(self, stream: str, *fields: bytes) -> str:
        """A foreign program appends an entry; returns its id."""

    @abstractmethod
    def delete(self, stream: str, entry_id: str) -> None:
        """A foreign program deletes an entry."""

    @abstractmethod
    def lose_group(self, stream: str, group: str) -> None:
        """The group vanishes from the stream, as after a failover to an older copy."""

    @abstractmethod
    def lose_indexes(self, stream: str, group: str) -> None:
        """The indexes of parked, waiting and queued entries vanish."""

    @abstractmethod
    def ack(self, stream: str, group: str, entry_id: str) -> None:
        """A foreign program acks an entry."""


class MemoryEngine(Engine):
    """The reference model."""

    def __init__(self) -> None:
        super().__init__()
        self._store = MemoryStore()
        self._ahead = 0.0

    def _make(self) -> Transport:
        return MemoryTransport(self._store, clock=self._now)

    def _now(self) -> float:
        return time.time() + self._ahead

    async def let_pass(self, seconds: float) -> None:
        self._ahead += seconds

    def age(self, delivery: Delivery, seconds: float) -> None:
        group = self._store.streams[delivery.stream].log.groups[delivery.group]
        group.pending[parse_id(delivery.entry_id)].renewed_at -= seconds

    def add(self, stream: str, *fields: bytes) -> str:
        ms, sequence = self._store.append_fields(stream, fields, "", self._now())
        return f"{ms}-{sequence}"

    def delete(self, stream: str, entry_id: str) -> None:
        self._store.streams[stream].log.delete([parse_id(entry_id)])

    def lose_group(self, stream: str, group: str) -> None:
        del self._store.streams[stream].log.groups[group]

    def lose_indexes(self, stream: str, group: str) -> None:
        ledger = self._store.streams[stream].ledgers[group]
        ledger.parked.clear()
        ledger.waiting.clear()
        ledger.queued.clear()

    def ack(self, stream: str, group: str, entry_id: str) -> None:
        del self._store.streams[stream].log.groups[group].pending[parse_id(entry_id)]


class RedisEngine(Engine):
    """A real server."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self._url = server.url
        self.client = server.client()

    def _make(self) -> Transport:
        return RedisTransport(self._url)

    async def let_pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def age(self, delivery: Delivery, seconds: float) -> None:
        self.client.xclaim(
            keys.stream(delivery.stream),
            delivery.group,
            delivery.owner,
            0,
            [delivery.entry_id],
            idle=round(seconds * 1000),
            justid=True,
        )

    def add(self, stream: str, *fields: bytes) -> str:
        # Not `xadd`, whose dict cannot hold a name twice.
        command: Callable[..., bytes] = self.client.execute_command
        return command("XADD", keys.stream(stream), "*", *fields).decode()

    def delete(self, stream: str, entry_id: str) -> None:
        self.client.xdel(keys.stream(stream), entry_id)

    def lose_group(self, stream: str, group: str) -> None:
        self.client.xgroup_destroy(keys.stream(stream), group)

    def lose_indexes(self, stream: str, group: str) -> None:
        self.client.delete(keys.waits(stream, group), keys.retry(stream, group), keys.queued(stream, group))
        for index in self.client.keys(glob.escape(keys.wait(stream, group, "", "")[:-1]) + "*"):
            self.client.delete(index)

    def ack(self, stream: str, group: str, entry_id: str) -> None:
        self.client.xack(keys.stream(stream), group, entry_id)


class ClusterEngine(RedisEngine):
    """Three masters. Streams of different names are mostly on different ones."""

    def __init__(self, cluster: RedisCluster) -> None:
        Engine.__init__(self)
        self._url = cluster.url
        self.client = cluster.client()

    def _make(self) -> Transport:
        return ClusterTransport(self._url)

    def neighbour(self, stream: str) -> str:
        return same_slot_as(stream)

    async def close(self) -> None:
        await super().close()
        self.client.close()


def same_slot_as(stream: str) -> str:
    """Another stream of the slot of this one."""
    slot = slot_of(keys.stream(stream))
    return next(name for n in itertools.count() if slot_of(keys.stream(name := f"{stream}-{n}")) == slot)


class Consumer:
    """One owner's use of one subscription: what the tests do over and over."""

    def __init__(self, transport: Transport, owner: str, subscription: Subscription) -> None:
        self.transport = transport
        self.owner = owner
        self.subscription = subscription
        self.stream = subscription.stream
        self.group = subscription.group
        self.recovery = transport.recovery

    async def publish(self, *items: Outgoing) -> list[str]:
        """Store events, all of them."""
        results = await self.transport.publish(items)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return [str(result) for result in results]

    async def fetch(self, count: int = 100, *, wait: float = 0.0) -> list[Delivery]:
        """New entries."""
        return await self.transport.fetch(self.group, self.owner, [self.stream], count=count, wait=wait)

    async def fetch_gated(self, count: int = 100, *, wait: float = 0.0) -> list[Delivery]:
        """New entries that their gates let through."""
        return await self.transport.gates.fetch(self.subscription, self.owner, count=count, wait=wait)

    async def fetch_one(self) -> Delivery:
        """The one new entry there is."""
        [delivery] = await self.fetch()
        return delivery

    async def publish_and_fetch(self, *items: Outgoing) -> list[Delivery]:
        """Store events (one, if none is given) and own them."""
        await self.publish(*(items or [order()]))
        return await self.fetch()

    async def settle(self, delivery: Delivery, outcome: Outcome) -> Verdict:
        """Commit one outcome, which the engine takes."""
        [verdict] = await self.transport.settle([(delivery, outcome)])
        if isinstance(verdict, TransportError):
            raise verdict
        await self.arrive()
        return verdict

    async def arrive(self) -> None:
        """Emits that are on their way to streams of another server have arrived."""
        if self.transport.outbox is not None:
            await self.transport.outbox.relay(self.stream, self.owner)

    async def claim(self, count: int = 100) -> Claimed:
        """What is due now."""
        return await self.recovery.claim(self.subscription, self.owner, count=count)

    async def claim_one(self) -> Delivery:
        """The one entry that becomes due; waits for it."""

        async def one() -> Delivery | None:
            return next(iter((await self.claim(1)).deliveries), None)

        return await eventually(one)

    async def hand_back(self, **options: object) -> int:
        """Give back what this owner holds."""
        return await self.recovery.hand_back(self.stream, self.group, self.owner, **options)  # type: ignore[arg-type]

    async def beat(self, ttl: float = 60.0) -> str:
        """Say that this owner lives."""
        return await self.recovery.beat(self.owner, b'{"host": "h"}', ttl=ttl)

    async def pending(self) -> int:
        """How many entries the group has not settled."""
        [stats] = await self.transport.stats(self.stream, self.group)
        return stats.pending

    async def texts(self, stream: str | None = None) -> list[str]:
        """The texts of all orders that stand in a stream, in order."""
        await self.arrive()
        entries = await self.transport.read(stream or self.stream, after="0", count=1000, wait=0)
        return [text_of(entry) for entry in entries]

    @property
    def dead_letters(self) -> DeadLetters:
        """The engine's dead letters."""
        assert self.transport.dead_letters is not None
        return self.transport.dead_letters

    @property
    def retention(self) -> Retention:
        """The engine's retention."""
        assert self.transport.retention is not None
        return self.transport.retention

    @property
    def schedule(self) -> Schedule:
        """The engine's schedule."""
        assert self.transport.schedule is not None
        return self.transport.schedule

    @property
    def inspection(self) -> Inspection:
        """The engine's answers."""
        assert self.transport.inspection is not None
        return self.transport.inspection


def order(
    text: str = "",
    *,
    stream: str = "orders",
    event_id: str | None = None,
    delay: float | None = None,
    at: datetime | None = None,
    dedup_key: str | None = None,
    dedup_window: float = 600.0,
    debounce_key: str | None = None,
    again: bool = False,
    **payload: object,
) -> Outgoing:
    """An OrderPlaced with a text to know it by."""
    event_id = event_id or str(uuid.uuid4())
    envelope = {
        "event_id": event_id,
        "event_type": "OrderPlaced",
        "schema_version": "v1",
        "payload": {"text": text, **payload},
    }
    return Outgoing(
        stream=stream,
        body=json.dumps(envelope, separators=(",", ":")).encode(),
        event_id=event_id,
        delay=delay,
        at=at,
        dedup_key=dedup_key,
        dedup_window=dedup_window,
        debounce_key=debounce_key,
        again=again,
    )


def text_of(delivery: Delivery) -> str:
    """The text that the order was made with."""
    return str(json.loads(delivery.body or b"{}")["payload"]["text"])


def counts(delivery: Delivery) -> tuple[int, int, int]:
    """Deliveries, attempt, crashes."""
    return delivery.deliveries, delivery.attempt, delivery.crashes


async def eventually(condition: Callable[[], Awaitable[_Found | None]]) -> _Found:
    """Ask until the answer is neither None nor empty nor False."""
    deadline = time.monotonic() + PATIENCE
    while not (found := await condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)
    return found
