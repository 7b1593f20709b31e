"""Streams → deliveries: reads one group's streams, never more than there is room for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from streamtask.errors import TransportError
from streamtask.transport.port import Delivery, Subscription, Transport
from streamtask.worker.flow import Flow
from streamtask.worker.leases import Leases
from streamtask.worker.probes import Health

log = logging.getLogger(__name__)

_WAIT = 2.0
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0


class Fetcher:
    """Reads the streams of one group."""

    def __init__(
        self,
        transport: Transport,
        owner: str,
        subscriptions: Sequence[Subscription],
        *,
        flow: Flow,
        leases: Leases,
        health: Health,
        take: Callable[[list[Delivery]], None],
        saturated: Callable[[str, str], bool],
    ) -> None:
        self._transport = transport
        self._owner = owner
        self._subscriptions = subscriptions
        self._group = subscriptions[0].group
        self._flow = flow
        self._leases = leases
        self._health = health
        self._take = take
        self._saturated = saturated
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
            except TransportError as error:
                delay = min(max(delay * 2, _FIRST_DELAY), _LONGEST_DELAY)
                log.warning("fetch.failed", extra={"group": self._group, "error": str(error), "again_in": delay})

    async def _read(self) -> None:
        room = self._flow.room()
        if not room:
            self._health.paused(self._group, True, time.monotonic())
            room = await self._flow.wait_for_room()
            self._health.paused(self._group, False, time.monotonic())
        streams = [sub.stream for sub in self._subscriptions if not self._saturated(sub.stream, sub.group)]
        if not streams:
            self._health.paused(self._group, True, time.monotonic())
            await asyncio.sleep(0.05)
            self._health.paused(self._group, False, time.monotonic())
            return
        count = max(1, room // len(streams))
        deliveries = await self._transport.fetch(self._group, self._owner, streams, count=count, wait=_WAIT)
        self._health.read_ok(self._group, time.monotonic())
        self.empty = not deliveries
        if deliveries:
            self._take(deliveries)

    async def _recover(self) -> None:
        """After trouble: groups that vanished are made again, and what was handed to us unseen is given back."""
        for sub in self._subscriptions:
            await self._transport.register(sub)
            keep = self._leases.ids(sub.stream, sub.group)
            await self._transport.recovery.hand_back(sub.stream, sub.group, self._owner, started=(), keep=keep)
