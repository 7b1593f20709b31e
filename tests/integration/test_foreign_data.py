"""What other programs leave on the server: names that are no text, dead letters that are none. It ends no duty."""

from __future__ import annotations

import pytest

from streamtask.transport.connect import open_transport
from streamtask.transport.values import Outgoing, Subscription
from tests.servers import RedisServer

ORDERS = Subscription(stream="orders", group="shipping", handles=frozenset({("OrderPlaced", "v1")}))
NO_TEXT = b"\xff\xfe name"


@pytest.fixture
def foreign(redis_server: RedisServer) -> RedisServer:
    client = redis_server.client()
    client.xgroup_create("stream:orders", "shipping", "0", mkstream=True)
    client.xgroup_create("stream:orders", NO_TEXT, "0")
    client.xadd("{stream:orders}:dead", {"foo": "bar", NO_TEXT: NO_TEXT}, id="18446744073709551000-1")
    client.set("{streamtask}:beat:alien", "not json")
    client.zadd("{streamtask}:workers", {"alien": 1, NO_TEXT: 2})
    client.sadd("{streamtask}:streams", "orders")
    return redis_server


async def test_duties_and_questions_work_beside_names_that_are_no_text(foreign: RedisServer) -> None:
    transport = open_transport(foreign.url)
    await transport.connect()
    try:
        inspection, retention, letters = transport.inspection, transport.retention, transport.dead_letters
        assert inspection is not None
        assert retention is not None
        assert letters is not None
        await transport.register(ORDERS)
        await transport.publish([Outgoing(stream="orders", body=b"{}", event_id=str(n)) for n in range(3)])
        foreign.client().xreadgroup("shipping", NO_TEXT, {"stream:orders": ">"}, count=2)

        [(owner, state)] = (await transport.recovery.lost_owners("orders", "shipping", lease=60)).items()
        assert state == "dead"
        assert await transport.recovery.hand_back("orders", "shipping", owner) == 2
        assert len((await transport.recovery.claim(ORDERS, "me", count=10)).deliveries) == 2

        assert {stats.pending for stats in await transport.stats("orders")} == {0, 2}
        assert len(await inspection.groups("orders")) == 2
        assert len(await inspection.consumers("orders", "shipping")) == 2
        assert len(await inspection.pending("orders", "shipping", limit=10)) == 2
        assert [worker["worker"] for worker in await inspection.workers()] == ["alien"]
        [letter] = await letters.page("orders", after="", limit=10)
        assert (letter.reason, letter.group, letter.attempts) == ("unknown", "", 0)
        await retention.trim("orders", max_age=60, max_entries=10)
        await retention.sweep_consumers("orders", "shipping", idle=0.0)
    finally:
        await transport.close()
