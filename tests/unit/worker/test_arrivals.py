"""A reply that waited too long brings nothing that somebody else has taken over."""

from __future__ import annotations

import time

import pytest

from streamtask.worker.arrivals import still_ours
from streamtask.worker.keeper import BEAT_TTL
from tests.conformance.engines import MemoryEngine, order


@pytest.mark.parametrize(("waited", "lease"), [(BEAT_TTL + 1, 60.0), (3.5, 3.0)], ids=["no beat", "no renewal"])
async def test_what_was_taken_over_while_its_reply_waited_here_is_left_out(waited: float, lease: float) -> None:
    engine = MemoryEngine()
    ours, other = await engine.consumer("ours"), await engine.consumer("other")
    taken_over, kept = await ours.publish_and_fetch(order(), order())
    await other.recovery.hand_back("orders", "shipping", "ours", keep=[kept.entry_id])

    found = await still_ours(ours.transport, [taken_over, kept], asked_at=time.monotonic() - waited, lease=lease)

    assert found == [kept]
    assert (await other.claim_one()).entry_id == taken_over.entry_id


async def test_a_reply_that_is_looked_at_in_time_costs_no_round_trip() -> None:
    engine = MemoryEngine()
    ours = await engine.consumer("ours")
    deliveries = await ours.publish_and_fetch(order(), order())
    engine.lose_group("orders", "shipping")

    assert await still_ours(ours.transport, deliveries, asked_at=time.monotonic(), lease=60.0) == deliveries
