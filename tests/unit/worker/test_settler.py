"""Settling when it is unknown, for some of a batch, whether it was done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.values import Delivery, Done, Outcome, Together, Verdict
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


def together(*names: str) -> Settlement:
    """Several deliveries whose outcome is one."""
    first, *others = [Settlement(Delivery("orders", "g", name, "a", []), Done()) for name in names]
    outcome = Together((), None, tuple((each.delivery, None) for each in others))
    return Settlement(first.delivery, outcome, members=(first, *others))


async def settle(settlement: Settlement, *answers: Verdict | TransportError) -> list[tuple[str, str, Verdict]]:
    """Settle, with these answers; what was told of each: entry id, outcome, verdict."""
    transport: Any = Transport(*answers)
    told: list[tuple[Settlement, Verdict]] = []
    settler = Settler(transport, told.extend, Outage("settle", Metrics()))
    running = asyncio.create_task(settler.run())
    settler.put(settlement)
    async with asyncio.timeout(5):
        await settler.drained()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return [(each.delivery.entry_id, type(each.outcome).__name__, verdict) for each, verdict in told]


async def test_what_is_settled_together_is_told_of_each() -> None:
    for verdict in (Verdict.SETTLED, Verdict.LOST):
        assert await settle(together("1-0", "2-0"), verdict) == [("1-0", "Done", verdict), ("2-0", "Done", verdict)]


async def test_what_was_torn_goes_back_singly_also_where_it_was_unknown_before() -> None:
    answers = [_NoReplyError("cut off"), Verdict.TORN, Verdict.LOST, Verdict.SETTLED]

    told = await settle(together("1-0", "2-0"), *answers)

    assert told == [("1-0", "Release", Verdict.LOST), ("2-0", "Release", Verdict.SETTLED)]


async def test_what_was_settled_together_is_our_own_success_where_all_is_lost_and_it_was_unknown_before() -> None:
    told = await settle(together("1-0", "2-0"), _NoReplyError("cut off"), Verdict.LOST)

    assert [verdict for *_, verdict in told] == [Verdict.SETTLED, Verdict.SETTLED]


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


async def test_outcomes_that_stand_for_many_are_settled_few_at_a_time() -> None:
    sizes = []

    class Counting(Transport):
        async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> list[Verdict | TransportError]:
            sizes.append(len(settlements))
            return [Verdict.SETTLED for _ in settlements]

    transport: Any = Counting()
    settler = Settler(transport, lambda settled: None, Outage("settle", Metrics()))
    for number in range(4):
        settler.put(together(*(f"{number}-{each}" for each in range(200))))
    settler.put(together(*(f"9-{each}" for each in range(1000))))
    for number in range(600):
        settler.put(Settlement(Delivery("orders", "g", f"10-{number}", "a", []), Done()))
    running = asyncio.create_task(settler.run())
    async with asyncio.timeout(5):
        await settler.drained()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert sizes == [2, 2, 1, 500, 100]
