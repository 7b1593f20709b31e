"""The bridge from Celery, on queues of real Celery: Redis, kombu's memory, and RabbitMQ where there is one.

`STREAMTASK_TEST_AMQP` is the URL of a RabbitMQ server that may be written to.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from streamtask import App, ConfigurationError
from streamtask.bridge.bridge import Bridge
from streamtask.bridge.sources import RedisSource, open_source
from tests.chaos.conftest import one_server
from tests.servers import RedisServer

celery = pytest.importorskip("celery")

AMQP = os.environ.get("STREAMTASK_TEST_AMQP")
PREFIXED = {"global_keyprefix": "old:"}


class Queue:
    """A queue of Celery's, and the app of streamtask that is to take it over."""

    def __init__(self, url: str, broker: str, **options: Any) -> None:
        self.url = url
        self.name = f"queue-{uuid.uuid4().hex[:8]}"
        self.options = options
        self.celery = celery.Celery("old", broker=url, set_as_current=False)
        self.celery.conf.update(broker_transport_options=options, task_default_queue=self.name)
        self.app = App("new", broker=broker)

        @self.app.task(name="shop.record", stream="bridged")
        def record(n: int) -> int:
            return n

    def send(self, *numbers: object, task: str = "shop.record", **options: Any) -> None:
        for n in numbers:
            self.celery.send_task(task, (n,), **options)

    def bridge(self) -> Bridge:
        return Bridge(self.app, self.source, self.name)

    def source(self) -> Any:
        return open_source(self.url, self.name, self.options)

    async def drain(self) -> Bridge:
        """Carry over what there is."""
        bridge = self.bridge()
        await asyncio.to_thread(bridge.run, burst=True)
        return bridge

    async def bridged(self) -> list[int]:
        async with self.app:
            found = await self.app.transport.read("bridged", after="0", count=1000, wait=0.0)
        return [self.app.broker.decode(each).payload["arguments"]["n"] for each in found]

    def aside(self) -> list[Any]:
        """What was put aside, as Celery would read it."""
        found = []
        with (
            self.celery.connection_for_read() as connection,
            closing(connection.SimpleQueue(f"{self.name}.unbridged")) as queue,
        ):
            while True:
                try:
                    message = queue.get(timeout=0.2)
                except queue.Empty:
                    return found
                message.ack()
                found.append(message)


@pytest.fixture(params=["redis", "memory", "amqp"])
def queue(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Queue]:
    url = {"memory": "memory://", "amqp": AMQP}.get(request.param, f"redis+socket://{redis_server.socket}")
    if url is None:
        pytest.skip("STREAMTASK_TEST_AMQP names no RabbitMQ")
    made = Queue(url, redis_server.url, **(PREFIXED if request.param == "redis" else {}))
    yield made
    made.celery.close()


@pytest.fixture
def redis_queue(redis_server: RedisServer) -> Iterator[Queue]:
    made = Queue(f"redis+socket://{redis_server.socket}", redis_server.url)
    yield made
    made.celery.close()


@one_server
async def test_a_queue_is_drained_in_order_and_what_cannot_become_a_call_is_put_aside_whole(queue: Queue) -> None:
    queue.send(0, 1)
    queue.send(2, compression="zlib")
    queue.send(99, task="shop.unknown", compression="zlib")
    queue.send(*range(3, 120))

    bridge = await queue.drain()

    assert await queue.bridged() == list(range(120))
    assert dict(bridge.counts) == {"published": 120, "refused": 1}
    [kept] = queue.aside()
    assert kept.headers["task"] == "shop.unknown"
    assert "no task of the name" in kept.headers["streamtask_refused"]
    assert kept.payload[0] == [99]


@one_server
async def test_what_was_put_aside_can_be_drained_once_its_task_is_there(redis_queue: Queue) -> None:
    redis_queue.send(7, task="shop.late", compression="bzip2")
    await redis_queue.drain()

    @redis_queue.app.task(name="shop.late", stream="bridged")
    def late(n: int) -> int:
        return n

    redis_queue.name = f"{redis_queue.name}.unbridged"
    assert (await redis_queue.drain()).counts == {"published": 1}
    assert await redis_queue.bridged() == [7]


@one_server
async def test_what_a_killed_bridge_had_in_hand_is_carried_over_first_and_once(redis_queue: Queue) -> None:
    redis_queue.send(*range(10))
    killed: RedisSource = redis_queue.source()
    assert len(killed.take(4)) == 4
    redis_queue.send(10)

    bridge = await redis_queue.drain()

    assert await redis_queue.bridged() == list(range(11))
    assert bridge.counts == {"published": 11}
    killed.close()


@one_server
async def test_of_two_bridges_that_have_the_same_message_one_puts_it_aside(
    redis_queue: Queue, redis_server: RedisServer
) -> None:
    redis_queue.send("no number")
    one: RedisSource = redis_queue.source()
    [first] = one.take(5)
    two: RedisSource = redis_queue.source()
    [second] = two.take(5)
    one.put_aside(first, "why")
    two.put_aside(second, "why")
    client = redis_server.client()
    assert client.llen(f"{redis_queue.name}.unbridged") == 1
    assert client.llen(f"{redis_queue.name}.bridging") == 0
    one.close()
    two.close()


@one_server
async def test_the_most_urgent_calls_come_first(redis_queue: Queue) -> None:
    redis_queue.send(3, priority=9)
    redis_queue.send(2, priority=4)
    redis_queue.send(1, priority=0)
    await redis_queue.drain()
    assert await redis_queue.bridged() == [1, 2, 3]


@one_server
async def test_a_call_whose_message_comes_again_is_stored_once(redis_queue: Queue, redis_server: RedisServer) -> None:
    redis_queue.send(1)
    [raw] = redis_server.client().lrange(redis_queue.name, 0, -1)
    await redis_queue.drain()
    # As Celery's own broker does after its visibility timeout.
    redis_server.client().lpush(redis_queue.name, raw)
    assert (await redis_queue.drain()).counts == {"published": 1}
    assert await redis_queue.bridged() == [1]


@one_server
async def test_a_stream_that_refuses_keeps_its_calls_in_the_source_and_out_of_the_way(
    redis_queue: Queue, redis_server: RedisServer
) -> None:
    redis_server.client().set("stream:bridged", "this is no stream")
    redis_queue.send(1)
    assert (await redis_queue.drain()).counts == {"refused": 1}
    [kept] = redis_queue.aside()
    assert "is not a stream" in kept.headers["streamtask_refused"]


@one_server
@pytest.mark.parametrize("away", ["source", "target"])
async def test_a_broker_that_goes_away_and_comes_back_loses_and_doubles_nothing(
    redis_server: RedisServer, private_redis: RedisServer, away: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = (private_redis, redis_server) if away == "source" else (redis_server, private_redis)
    queue = Queue(f"redis+socket://{source.socket}", target.url)
    caplog.set_level(logging.INFO, "streamtask")
    bridge = queue.bridge()
    queue.send(*range(50))
    private_redis.kill()
    running = asyncio.create_task(asyncio.to_thread(bridge.run))
    try:
        await until(lambda: "bridge.failed" in caplog.messages)
        private_redis.start()
        await until(lambda: bridge.counts["published"] == 50)
        queue.send(*range(50, 60))
        await until(lambda: bridge.counts["published"] == 60)
    finally:
        bridge.stop()
        await running
    assert await queue.bridged() == list(range(60))
    assert [message for message in caplog.messages if message.startswith("bridge.")] == [
        "bridge.failed",
        "bridge.works_again",
    ]
    queue.celery.close()


async def until(condition: Any, within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_a_url_of_no_transport_is_an_error_of_settings_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="kombu cannot use it") as caught:
        open_source("nothing://me:hunter2@host", "celery", {})
    assert "hunter2" not in str(caught.value)


def test_without_the_driver_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kombu.transport.redis.redis", None)
    with pytest.raises(ConfigurationError, match=re.escape("pip install '.[bridge]'")):
        open_source("redis://:canary@h/0", "celery", {})


def test_a_message_put_aside_keeps_every_field_that_celery_gave_it(
    redis_queue: Queue, redis_server: RedisServer
) -> None:
    redis_queue.send("no number", priority=3, task_id="one")
    client = redis_server.client()
    [raw] = client.lrange(f"{redis_queue.name}\x06\x163", 0, -1)
    source: RedisSource = redis_queue.source()
    [taken] = source.take(1)
    source.put_aside(taken, "why")
    [kept] = client.lrange(f"{redis_queue.name}.unbridged", 0, -1)
    before, after = json.loads(raw), json.loads(kept)
    assert after["headers"].pop("streamtask_refused") == "why"
    assert after == before
    source.close()
