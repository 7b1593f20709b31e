"""Housekeeping: due events into their streams, retention, dead consumers, indexes. Off the hot path, by any worker."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from streamtask.errors import TransportError
from streamtask.settings import Retention
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Registered, Subscription, Transport
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
        """Promote what is due each second at least, tidy up every ten, until cancelled."""
        tidied = time.monotonic() - _ROUND * random.random()  # noqa: S311 - spreads the janitors of a fleet, hides nothing
        while True:
            wait = 1.0
            try:
                wait = await self._promote()
                if time.monotonic() - tidied >= _ROUND:
                    tidied = time.monotonic()
                    await self._tidy()
                self._outage.over()
            except TransportError as error:
                # No sample is better than one that stands still.
                self._metrics.clear_stats()
                self._outage.failed(error)
            await asyncio.sleep(wait)

    async def _promote(self) -> float:
        schedule, inspection = self._transport.schedule, self._transport.inspection
        if schedule is None:
            return 1.0
        names = {sub.stream for sub in self._subscriptions}
        if inspection is not None:
            names |= set(await inspection.streams())
        due = await schedule.promote(sorted(names))
        return 1.0 if due is None else min(1.0, max(due, 0.01))

    async def _tidy(self) -> None:
        for sub in self._subscriptions:
            for stats in await self._transport.stats(sub.stream, sub.group):
                self._metrics.set_stats(stats)
            self._on_registered(sub, await self._transport.register(sub))
            await self._transport.recovery.mend(sub.stream, sub.group)
            retention = self._transport.retention
            if retention is not None:
                await retention.trim(
                    sub.stream, max_age=self._retention.max_age, max_entries=self._retention.max_entries
                )
                await retention.sweep_consumers(sub.stream, sub.group, idle=_DEAD_CONSUMER)
