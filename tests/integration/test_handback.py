"""Handing back for the dead: due at once, and only what had been started is charged."""

from __future__ import annotations

import asyncio

from streamtask.transport.connect import open_transport
from streamtask.transport.values import Delivery, Outgoing, Subscription
from streamtask.worker.handback import hand_back
from streamtask.worker.started import StartedTable
from tests.servers import RedisServer

ORDERS = Subscription(stream="orders", group="billing")
SHIPPING = Subscription(stream="shipping", group="billing")


async def test_what_a_dead_owner_held_is_due_at_once_and_only_what_it_had_started_is_charged(
    redis_server: RedisServer,
) -> None:
    table = StartedTable.create(4)
    transport = open_transport(redis_server.url)
    await transport.connect()
    try:
        for subscription in (ORDERS, SHIPPING):
            await transport.register(subscription)
            await transport.publish([_outgoing(subscription.stream, number) for number in range(2)])
        await transport.recovery.beat("dead", b"{}", ttl=60)
        held = await transport.fetch("billing", "dead", ["orders", "shipping"], count=2, wait=1)
        table.mark(0, 1, _ids(held, "shipping")[0])

        handed_back = await asyncio.to_thread(_hand_back, redis_server.url, table.copy())

        assert handed_back == 4
        crashes: dict[tuple[str, str], int] = {}
        for subscription in (ORDERS, SHIPPING):
            claimed = await transport.recovery.claim(subscription, "alive", count=10)
            crashes |= {(one.stream, one.entry_id): one.crashes for one in claimed.deliveries}
        assert len(crashes) == 4
        assert [key for key, count in crashes.items() if count] == [("shipping", _ids(held, "shipping")[0])]
        assert transport.inspection is not None
        assert await transport.inspection.workers() == []
    finally:
        table.close()
        await transport.close()


def test_what_was_in_the_memory_of_the_dead_died_with_it() -> None:
    assert hand_back("memory://", "dead", [("orders", "billing")], b"") == 0


def _hand_back(url: str, started: bytes) -> int:
    return hand_back(url, "dead", [("orders", "billing"), ("shipping", "billing")], started)


def _outgoing(stream: str, number: int) -> Outgoing:
    return Outgoing(stream=stream, body=b"{}", event_id=f"{stream}-{number}")


def _ids(held: list[Delivery], stream: str) -> list[str]:
    return [delivery.entry_id for delivery in held if delivery.stream == stream]
