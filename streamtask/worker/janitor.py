"""Housekeeping: retention, dead consumers, indexes, figures about groups. Off the hot path, by any worker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from streamtask.errors import TransportError
from streamtask.settings import Retention
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Transport
from streamtask.transport.values import Registered, Subscription
from streamtask.worker.outage import Outage

_ROUND = 10.0
_DEAD_CONSUMER = 600.0


class Janitor:
    """Keeps the streams of one worker within their bounds."""

    def __init__(
        self,
        transport: Transport,
        subscriptions: Sequence[Subscription],
        retention: Retention,
        metrics: Metrics,
        on_registered: Callable[[Subscription, Registered], None],
    ) -> None:
        self._transport = transport
        self._subscriptions = subscriptions
        self._retention = retention
        self._metrics = metrics
        self._outage = Outage("janitor", metrics)
        self._on_registered = on_registered

    async def run(self) -> None:
        """Tidy up every ten seconds, until cancelled. What goes wrong with one stream holds up no other."""
        await asyncio.sleep(_ROUND * random.random())  # noqa: S311 - spreads the janitors of a fleet, hides nothing
        while True:
            trouble = None
            for sub in self._subscriptions:
                try:
                    await self._tidy(sub)
                except TransportError as error:
                    trouble = error
            if trouble is None:
                self._outage.over()
            else:
                # No sample is better than one that stands still.
                self._metrics.clear_stats()
                self._outage.failed(trouble)
            await asyncio.sleep(_ROUND)

    async def _tidy(self, sub: Subscription) -> None:
        stream, group = sub.stream, sub.group
        retention = self._transport.retention
        if retention is not None:
            # First: on a server that is full it is what helps.
            await retention.trim(stream, max_age=self._retention.max_age, max_entries=self._retention.max_entries)
            await retention.sweep_consumers(stream, group, idle=_DEAD_CONSUMER)
        for stats in await self._transport.stats(stream, group):
            self._metrics.set_stats(stats)
        self._on_registered(sub, await self._transport.register(sub))
        await self._transport.recovery.mend(stream, group)
