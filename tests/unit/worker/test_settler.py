"""Settling when it is unknown, for some of a batch, whether it was done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.values import Delivery, Done, Outcome, Verdict
from streamtask.worker.outage import Outage
from streamtask.worker.settler import Settlement, Settler


class _NoReplyError(TransportError):
    is_unknown = True


class Transport:
    """Answers each settle with the next verdict in the list."""

    def __init__(self, *answers: Verdict | TransportError) -> None:
        self._answers = list(answers)

    async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> list[Verdict | TransportError]:
        return [self._answers.pop(0) for _ in settlements]


@pytest.mark.parametrize(
    ("refused_by", "verdict"),
    [(_NoReplyError("cut off"), Verdict.SETTLED), (TransportError("OOM"), Verdict.LOST)],
)
async def test_lost_is_our_own_success_only_where_it_was_unknown_whether_it_was_done(
    refused_by: TransportError, verdict: Verdict
) -> None:
    transport: Any = Transport(refused_by, Verdict.LOST)
    told: list[tuple[Settlement, Verdict]] = []
    settler = Settler(transport, told.extend, Outage("settle", Metrics()))
    running = asyncio.create_task(settler.run())

    settler.put(Settlement(Delivery("orders", "g", "1-0", "a", []), Done()))
    async with asyncio.timeout(5):
        await settler.drained()

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [found for _, found in told] == [verdict]
