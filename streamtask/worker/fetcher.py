"""Streams → deliveries: reads one group's streams, never more than there is room for."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

from streamtask import failpoints
from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Transport
from streamtask.transport.values import Delivery, Subscription
from streamtask.worker.arrivals import still_ours
from streamtask.worker.flow import Flow
from streamtask.worker.health import Health
from streamtask.worker.lanes import Lane
from streamtask.worker.leases import Leases
from streamtask.worker.outage import Outage

_WAIT = 2.0
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0


class Fetcher:
    """Reads streams of one group, or one whose entries go through gates.

    `room` says which of them may be read now, and how much may be taken.

    `lane`: what is read is one stream of several priorities. It is known at once whether something is left there, and a
    read that waits takes a single event: by then slots may be scarcer than they were when it began to wait.
    """

    def __init__(
        self,
        transport: Transport,
        owner: str,
        subscriptions: Sequence[Subscription],
        *,
        flow: Flow,
        leases: Leases,
        health: Health,
        lease: float,
        metrics: Metrics,
        take: Callable[[list[Delivery]], None],
        room: Callable[[Sequence[Subscription]], tuple[list[str], int]],
        lane: Lane | None = None,
    ) -> None:
        self._transport = transport
        self._owner = owner
        self._subscriptions = subscriptions
        self._group = subscriptions[0].group
        self._flow = flow
        self._leases = leases
        self._health = health
        self._lease = lease
        self._metrics = metrics
        self._outage = Outage("fetch", metrics, group=self._group, streams=[sub.stream for sub in subscriptions])
        self._take = take
        self._room = room
        self._lane = lane
        #: Whether the last read found nothing.
        self.empty = False
        health.expect(self._group, time.monotonic())

    async def run(self) -> None:
        """Read until cancelled. Trouble is waited out with growing pauses; a missing group is made again."""
        delay = 0.0
        while True:
            try:
                if delay:
                    await asyncio.sleep(delay)
                    await self._recover()
                await self._read()
                delay = 0.0
                self._outage.over()
            except TransportError as error:
                delay = min(max(delay * 2, _FIRST_DELAY), _LONGEST_DELAY)
                self._outage.failed(error)

    async def _read(self) -> None:
        streams, room = self._room(self._subscriptions)
        if not room:
            self._health.paused(self._group, time.monotonic(), paused=True)
            await self._flow.wait(lambda: self._room(self._subscriptions)[1])
            self._health.paused(self._group, time.monotonic(), paused=False)
            streams, room = self._room(self._subscriptions)
        lane, wait = self._lane, _WAIT
        count = max(1, room // len(streams))
        if lane is not None:
            count, wait = (1, _WAIT) if lane.is_empty else (count, 0.0)
        asked_at = time.monotonic()
        fetched = await self._fetch(streams, count, wait)
        deliveries = await still_ours(self._transport, fetched, asked_at=asked_at, lease=self._lease)
        self._health.read_ok(self._group, time.monotonic())
        self.empty = not deliveries
        if lane is not None and lane.was_read(len(fetched), count):
            self._flow.changed()
        if deliveries:
            if failpoints.armed:
                failpoints.reached("after_fetch")
            for stream, n in Counter([delivery.stream for delivery in deliveries]).items():
                self._metrics.fetched(stream, self._group, n)
            self._take(deliveries)

    async def _fetch(self, streams: Sequence[str], count: int, wait: float) -> list[Delivery]:
        sub = self._subscriptions[0]
        if sub.gates:
            return await self._transport.gates.fetch(sub, self._owner, count=count, wait=wait)
        return await self._transport.fetch(self._group, self._owner, streams, count=count, wait=wait)

    async def _recover(self) -> None:
        """After trouble: groups that vanished are made again, and what was handed to us unseen is given back."""
        for sub in self._subscriptions:
            await self._transport.register(sub)
            async with self._leases.arriving:
                keep = self._leases.ids(sub.stream, sub.group)
                await self._transport.recovery.hand_back(sub.stream, sub.group, self._owner, started=(), keep=keep)
