"""Outcomes → one batched, atomic settle at a time.

What cannot be settled stays held and is tried again: transport trouble is never a handler's failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from streamtask.broker import Run
from streamtask.errors import TransportError
from streamtask.transport.port import Delivery, Outcome, Transport, Verdict
from streamtask.worker.outage import Outage

log = logging.getLogger(__name__)

_BATCH = 500
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0
#: Seconds until an outcome that was refused for a reason of its own is tried again.
_REFUSED_DELAY = 1.0


class Settlement(NamedTuple):
    """An outcome on its way, and what it came from."""

    delivery: Delivery
    outcome: Outcome
    #: None where no handler was chosen: bytes that cannot be decoded, somebody else's type, a hand-back.
    run: Run | None = None
    #: Seconds that the handler ran; None where it did not.
    seconds: float | None = None


#: Called for each outcome that is committed or refused.
Settled = Callable[[Settlement, Verdict], None]


class Settler:
    """Collects outcomes and commits them in batches: while one batch is on its way, the next one grows."""

    def __init__(self, transport: Transport, on_settled: Settled, outage: Outage) -> None:
        self._transport = transport
        self._on_settled = on_settled
        self._outage = outage
        self._waiting: list[Settlement] = []
        #: Refused one by one, and waiting for their next time; others pass them.
        self._refused: list[Settlement] = []
        #: Settled before with an unknown result. A later LOST may be our own success.
        self._unsure: set[Delivery] = set()
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, settlement: Settlement) -> None:
        """Have an outcome committed soon."""
        self._waiting.append(settlement)
        self._idle.clear()
        self._some.set()

    async def run(self) -> None:
        """Commit what comes, until cancelled."""
        while True:
            await self._some.wait()
            # One turn of the loop: whatever else finishes in this tick shares the round trip.
            await asyncio.sleep(0)
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            if not self._waiting:
                self._some.clear()
            await self._commit(batch)
            if not self._waiting and not self._refused:
                self._idle.set()

    async def drained(self) -> None:
        """Wait until every outcome is committed."""
        await self._idle.wait()

    async def _commit(self, batch: list[Settlement]) -> None:
        delay = _FIRST_DELAY
        while True:
            try:
                verdicts = await self._transport.settle([(each.delivery, each.outcome) for each in batch])
                break
            except TransportError as error:
                # Unknown whether it ran; and the others could not be settled either.
                self._unsure.update(each.delivery for each in batch)
                self._outage.failed(error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
        refused = []
        for settlement, verdict in zip(batch, verdicts, strict=True):
            delivery = settlement.delivery
            if isinstance(verdict, TransportError):
                self._unsure.add(delivery)
                refused.append(settlement)
                self._outage.failed(verdict)
                continue
            sure = delivery not in self._unsure
            self._unsure.discard(delivery)
            if verdict is Verdict.LOST and not sure:
                log.info("settle.unconfirmed", extra={"stream": delivery.stream, "entry_id": delivery.entry_id})
                verdict = Verdict.SETTLED  # noqa: PLW2901
            self._on_settled(settlement, verdict)
        if refused:
            if not self._refused:
                asyncio.get_running_loop().call_later(_REFUSED_DELAY, self._try_the_refused)
            self._refused += refused
        elif not self._refused:
            self._outage.over()

    def _try_the_refused(self) -> None:
        self._waiting, self._refused = self._waiting + self._refused, []
        self._some.set()
