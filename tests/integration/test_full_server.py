"""A Redis server that is out of memory: publishers are refused, housekeeping and settling go on, which makes room."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streamtask.errors import StoreFullError
from streamtask.transport.connect import open_transport
from streamtask.transport.port import Transport
from streamtask.transport.values import Dead, Done, Outgoing, Retry, Subscription
from tests.servers import RedisServer

ORDERS = Subscription(stream="orders", group="shipping", handles=frozenset({("OrderPlaced", "v1")}))


def order(number: int, *, delay: float | None = None) -> Outgoing:
    return Outgoing(stream="orders", body=b"x" * 200, event_id=f"id-{number}", delay=delay)


@pytest.fixture
async def transport(private_redis: RedisServer) -> AsyncIterator[Transport]:
    transport = open_transport(private_redis.url)
    await transport.connect()
    await transport.register(ORDERS)
    yield transport
    await transport.close()


async def test_a_full_server_refuses_events_and_lets_workers_make_room(
    transport: Transport, private_redis: RedisServer
) -> None:
    assert transport.schedule is not None
    assert transport.retention is not None
    await transport.publish([order(number) for number in range(2000)])
    await transport.publish([order(9999, delay=0.0)])
    held = await transport.fetch("shipping", "me", ["orders"], count=2000, wait=0)
    client = private_redis.client()
    client.config_set("maxmemory", 1)

    [refused] = await transport.publish([order(-1)])
    assert isinstance(refused, StoreFullError)
    assert await transport.recovery.beat("me", b"{}", ttl=5)
    assert not (await transport.register(ORDERS)).created
    await transport.schedule.promote(["orders"])
    outcomes = [Done(), Retry(60.0), Dead(reason="rejected"), Done(emits=(order(7),))] * 500
    verdicts = await transport.settle(list(zip(held, outcomes, strict=True)))
    assert {str(verdict) for verdict in verdicts} == {"Verdict.SETTLED"}
    removed = await transport.retention.trim("orders", max_age=0.0, max_entries=0)

    assert removed >= 1499
    client.config_set("maxmemory", 0)
    assert client.xlen("{stream:orders}:dead") == 500
    assert client.zcard("{stream:orders}:retry:shipping") == 500
