"""What is due comes first, and nothing new waits for what nobody can look for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from streamtask.telemetry.metrics import Metrics
from streamtask.transport.values import Delivery, Release
from streamtask.worker.flow import Flow
from streamtask.worker.leases import Leases
from streamtask.worker.reclaimer import Reclaimer
from streamtask.worker.rounds import Rounds
from tests.conformance.engines import Consumer, MemoryEngine, eventually, order


def reclaimer_of(consumer: Consumer, flow: Flow, take: Any) -> Reclaimer:
    return Reclaimer(
        consumer.transport,
        consumer.owner,
        [consumer.subscription],
        flow=flow,
        leases=Leases(),
        keeper=SimpleNamespace(sees_the_dead=lambda now: False),  # type: ignore[arg-type]
        lease=60.0,
        metrics=Metrics(),
        take=take,
        expire=lambda deliveries: None,
        room=lambda subscription: 100,
        takes=lambda subscription: flow.free,
        rounds=Rounds(),
    )


async def test_new_events_do_not_wait_for_what_is_due_in_a_group_that_has_vanished() -> None:
    engine = MemoryEngine()
    consumer, flow = await engine.consumer(), Flow(1)
    for delivery in await consumer.publish_and_fetch(order(), order()):
        await consumer.settle(delivery, Release())

    def take(deliveries: list[Delivery]) -> None:
        flow.took(len(deliveries), due=True)

    async def holds_new_events_up() -> bool:
        return flow.free_for_new == 0

    async def lets_them_through() -> bool:
        return flow.free_for_new == 1

    reclaiming = asyncio.create_task(reclaimer_of(consumer, flow, take).run())
    try:
        await eventually(holds_new_events_up)
        engine.lose_group("orders", "shipping")
        # The slot is free again, while the other one is due.
        flow.left()
        await eventually(lets_them_through)
    finally:
        reclaiming.cancel()
        await asyncio.gather(reclaiming, return_exceptions=True)
