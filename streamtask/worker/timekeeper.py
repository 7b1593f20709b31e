"""Delayed events: any living worker moves what is due into its stream, for every stream that is known.

It sleeps until the next one is due, and looks in between whether a sooner one has come: nobody tells it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Schedule, Transport
from streamtask.transport.values import Subscription
from streamtask.worker.outage import Outage
from streamtask.worker.rounds import Rounds

#: The longest pause between two looks while something waits, in seconds: what is published for sooner than that may be
#: so late. Where nothing waits at all, as in most fleets at most times, it is a round of the worker.
_LONGEST = 0.22
#: The shortest one: what is due meanwhile goes together.
_SHORTEST = 0.01
#: Seconds between two looks at which streams there are, and the pause after trouble.
_STREAMS = 2.0
_TROUBLE = 1.0


class Timekeeper:
    """Promotes what is due."""

    def __init__(
        self, transport: Transport, subscriptions: Sequence[Subscription], metrics: Metrics, rounds: Rounds
    ) -> None:
        self._transport = transport
        self._rounds = rounds
        self._own = {sub.stream for sub in subscriptions}
        self._streams = sorted(self._own)
        #: When the streams are to be asked for again, by the loop's clock.
        self._ask_at = 0.0
        self._outage = Outage("schedule", metrics)

    async def run(self) -> None:
        """Promote what is due, until cancelled. An engine without a schedule is left alone."""
        while self._transport.schedule is not None:
            wait: float | None = _TROUBLE
            try:
                wait = await self._promote(self._transport.schedule)
                self._outage.over()
            except TransportError as error:
                self._outage.failed(error)
            await (self._rounds.next() if wait is None else asyncio.sleep(wait))
        await asyncio.Event().wait()

    async def _promote(self, schedule: Schedule) -> float | None:
        """Promote what is due; the seconds until it is worth looking again, None: nothing waits."""
        now = asyncio.get_running_loop().time()
        if now >= self._ask_at and self._transport.inspection is not None:
            self._streams = sorted(self._own | set(await self._transport.inspection.streams()))
            self._ask_at = now + _STREAMS
        due = await schedule.promote(self._streams)
        return None if due is None else min(_LONGEST, max(due, _SHORTEST))
