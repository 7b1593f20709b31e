"""Outcomes → one batched, atomic settle at a time.

What cannot be settled stays held and is tried again: transport trouble is never a handler's failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import repeat

import msgspec

from streamtask import failpoints
from streamtask.broker import Run
from streamtask.errors import TransportError
from streamtask.transport.port import Transport
from streamtask.transport.values import Delivery, Outcome, Release, Verdict
from streamtask.worker.outage import Outage

log = logging.getLogger(__name__)

_BATCH = 500
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0


class Settlement(msgspec.Struct, eq=False, gc=False):
    """An outcome on its way, and what it came from."""

    delivery: Delivery
    outcome: Outcome
    #: None where no handler was chosen: bytes that cannot be decoded, somebody else's type, a hand-back.
    run: Run | None = None
    #: Seconds that the handler ran; None where it did not.
    seconds: float | None = None
    #: Of `Together`: what it is to each of them.
    members: Sequence[Settlement] = ()


#: Called with the outcomes that were committed or refused.
Settled = Callable[[Sequence[tuple[Settlement, Verdict]]], None]


class Settler:
    """Collects outcomes and commits them in batches: while one batch is on its way, the next one grows."""

    def __init__(self, transport: Transport, on_settled: Settled, outage: Outage) -> None:
        self._transport = transport
        self._on_settled = on_settled
        self._outage = outage
        self._waiting: list[Settlement] = []
        #: Some of them may stand for several.
        self._has_groups = False
        #: How many the server has refused singly. They wait for their next try; others pass them.
        self._refused = 0
        self._refused_delay = _FIRST_DELAY
        #: Settled before with an unknown result. A later LOST may be our own success.
        self._unsure: set[Delivery] = set()
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, settlement: Settlement) -> None:
        """Have an outcome committed soon."""
        if settlement.members:
            self._has_groups = True
        self.put_all((settlement,))

    def put_all(self, settlements: Sequence[Settlement]) -> None:
        """The same for several that have no members."""
        if not self._waiting:
            self._idle.clear()
            self._some.set()
        self._waiting += settlements

    async def run(self) -> None:
        """Commit what comes, until cancelled."""
        while True:
            await self._some.wait()
            # One turn of the loop: whatever else finishes in this tick shares the round trip.
            await asyncio.sleep(0)
            has_groups = self._has_groups
            size = self._fitting() if has_groups else _BATCH
            batch, self._waiting = self._waiting[:size], self._waiting[size:]
            if not self._waiting:
                self._some.clear()
            await self._commit(batch, has_groups=has_groups)
            if not self._waiting and not self._refused:
                self._idle.set()

    def _fitting(self) -> int:
        """How many outcomes are no more work for the server than so many that stand for one delivery each."""
        room = _BATCH
        for place, each in enumerate(self._waiting):
            room -= max(1, len(each.members))
            if room < 0:
                return max(1, place)
        self._has_groups = False
        return _BATCH

    async def drained(self) -> None:
        """Wait until every outcome is committed."""
        await self._idle.wait()

    async def _commit(self, batch: list[Settlement], *, has_groups: bool) -> None:
        if failpoints.armed:
            failpoints.reached("before_settle")
        verdicts = await self._settle(batch)
        if failpoints.armed:
            failpoints.reached("after_settle")
        refused: list[Settlement] = []
        if has_groups or self._unsure or verdicts.count(Verdict.SETTLED) < len(verdicts):
            settled = self._told(batch, verdicts, refused)
        else:
            # As nearly always.
            settled = list(zip(batch, repeat(Verdict.SETTLED)))
        if settled:
            self._on_settled(settled)
        if refused:
            self._refused += len(refused)
            asyncio.get_running_loop().call_later(self._refused_delay, self._try_again, refused)
            self._refused_delay = min(self._refused_delay * 2, _LONGEST_DELAY)
        elif not self._refused:
            self._refused_delay = _FIRST_DELAY
            self._outage.over()

    def _told(
        self, batch: list[Settlement], verdicts: list[Verdict | TransportError], refused: list[Settlement]
    ) -> list[tuple[Settlement, Verdict]]:
        """What was settled; what was `refused` for now goes there."""
        settled: list[tuple[Settlement, Verdict]] = []
        for settlement, verdict in zip(batch, verdicts, strict=True):
            if isinstance(verdict, TransportError):
                refused.append(settlement)
                if verdict.is_unknown:
                    self._unsure.add(settlement.delivery)
                self._outage.failed(verdict)
            else:
                if self._unsure:
                    verdict = self._confirmed(settlement.delivery, verdict)  # noqa: PLW2901 - what it comes to
                settled += self._each(settlement, verdict) if settlement.members else ((settlement, verdict),)
        return settled

    async def _settle(self, batch: list[Settlement]) -> list[Verdict | TransportError]:
        """The verdicts, however long the server is away."""
        delay = _FIRST_DELAY
        while True:
            try:
                return await self._transport.settle([(each.delivery, each.outcome) for each in batch])
            except TransportError as error:
                # Unknown whether it ran; and the others could not be settled either.
                self._unsure.update(each.delivery for each in batch)
                self._outage.failed(error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)

    def _each(self, whole: Settlement, verdict: Verdict) -> list[tuple[Settlement, Verdict]]:
        """What a verdict on several together says of each. Where it was torn, all go back, uncharged."""
        if verdict is not Verdict.TORN:
            return [(member, verdict) for member in whole.members]
        delivery = whole.delivery
        log.warning(
            "batch.torn",
            extra={"stream": delivery.stream, "group": delivery.group, "events": len(whole.members)},
        )
        for member in whole.members:
            self.put(Settlement(member.delivery, Release(), member.run))
        return []

    def _confirmed(self, delivery: Delivery, verdict: Verdict) -> Verdict:
        """The verdict; LOST after a try of which the result is unknown may be our own success."""
        if delivery not in self._unsure:
            return verdict
        self._unsure.discard(delivery)
        if verdict is not Verdict.LOST:
            return verdict
        log.info("settle.unconfirmed", extra={"stream": delivery.stream, "entry_id": delivery.entry_id})
        return Verdict.SETTLED

    def _try_again(self, refused: list[Settlement]) -> None:
        self._refused -= len(refused)
        self._waiting += refused
        self._has_groups = True
        self._some.set()
