"""Delayed events: any living worker moves what is due into its stream, for every stream that is known."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Transport
from streamtask.transport.values import Subscription
from streamtask.worker.outage import Outage

#: The longest and the shortest pause between two looks, in seconds.
_LONGEST = 1.0
_SHORTEST = 0.01


class Timekeeper:
    """Promotes what is due."""

    def __init__(self, transport: Transport, subscriptions: Sequence[Subscription], metrics: Metrics) -> None:
        self._transport = transport
        self._own = {sub.stream for sub in subscriptions}
        self._outage = Outage("schedule", metrics)

    async def run(self) -> None:
        """Look each second at least, until cancelled. An engine without a schedule is left alone."""
        while self._transport.schedule is not None:
            wait = _LONGEST
            try:
                wait = await self._promote()
                self._outage.over()
            except TransportError as error:
                self._outage.failed(error)
            await asyncio.sleep(wait)
        await asyncio.Event().wait()

    async def _promote(self) -> float:
        schedule, inspection = self._transport.schedule, self._transport.inspection
        if schedule is None:
            return _LONGEST
        names = self._own | set(await inspection.streams() if inspection is not None else ())
        due = await schedule.promote(sorted(names))
        return _LONGEST if due is None else min(_LONGEST, max(due, _SHORTEST))
