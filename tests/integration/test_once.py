"""One run for many publishes: the first under a dedup key, the last under a debounce key."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from streamtask import App, Event
from streamtask.transport.redis import keys
from tests.chaos.workers import until
from tests.servers import RedisServer


class Saved(Event, stream="saved"):
    n: int


def app_of_url(url: str) -> tuple[App, list[tuple[int, float]]]:
    """An app that notes what it handles, and when."""
    app, handled = App("once", broker=url), list[tuple[int, float]]()

    @app.on(Saved)
    async def index(event: Saved) -> None:
        handled.append((event.n, time.monotonic()))

    return app, handled


async def test_a_hundred_publishes_of_one_dedup_key_at_once_are_one_run(redis_server: RedisServer) -> None:
    app, handled = app_of_url(redis_server.url)
    apps = [App("once", broker=redis_server.url) for _ in range(10)]
    async with app.worker() as worker:
        for each in apps:
            await each.__aenter__()
        ids = await asyncio.gather(*(apps[n % 10].publish(Saved(n=n), dedup_key="user-17") for n in range(100)))
        for each in apps:
            await each.__aexit__()
        await asyncio.wait_for(worker.burst_done(), 10)
        await app.publish(Saved(n=100), dedup_key="user-17")
        await app.publish(Saved(n=101), dedup_key="user-18")
        await until(lambda: len(handled) == 2, 10)
        await asyncio.wait_for(worker.burst_done(), 10)

    assert len(ids) == 100
    assert [n for n, _ in handled][1:] == [101]
    assert redis_server.client().xlen("stream:saved") == 2


async def test_a_burst_of_fifty_under_one_debounce_key_is_one_run_of_the_last_and_some_time_after_it(
    redis_server: RedisServer,
) -> None:
    app, handled = app_of_url(redis_server.url)
    async with app.worker() as worker:
        for n in range(50):
            await app.publish(Saved(n=n), delay=0.5, debounce_key="user-17")
            await asyncio.sleep(0.005)
        last = time.monotonic()
        await app.publish(Saved(n=50), delay=0.1, debounce_key="user-18")
        await until(lambda: len(handled) == 2, 10)
        await app.publish(Saved(n=51), delay=0.1, debounce_key="user-17")
        await until(lambda: len(handled) == 3, 10)
        await asyncio.wait_for(worker.burst_done(), 10)

    assert [n for n, _ in handled] == [50, 49, 51]
    assert handled[1][1] - last > 0.4
    assert redis_server.client().exists(keys.debounced("saved")) == 0


async def test_a_debounced_task_is_called_once_with_the_last_arguments(redis_server: RedisServer) -> None:
    app = App("once", broker=redis_server.url)
    called = []

    @app.task
    async def index(user: int, text: str) -> int:
        called.append((user, text))
        return len(called)

    async with app.worker():
        calls = [await index.options(delay=0.3, debounce_key="17").send(17, text) for text in "abc"]
        assert await calls[-1].result(timeout=10) == 1

    assert called == [(17, "c")]


def test_code_that_is_not_async_debounces_too(redis_server: RedisServer) -> None:
    # In a process of its own: the loop of `app.sync` lives as long as the process.
    code = (
        "import sys\nfrom tests.integration.test_once import Saved, app_of_url\napp, _ = app_of_url(sys.argv[1])\n"
        "for n in range(5): app.sync.publish(Saved(n=n), delay=60, debounce_key='k')\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, redis_server.url], check=True, timeout=40, cwd=root)

    [body] = redis_server.client().hvals(keys.delayed_bodies("saved"))
    assert b'"payload":{"n":4}' in body


async def test_a_debounced_call_that_is_cancelled_leaves_its_key(redis_server: RedisServer) -> None:
    app = App("once", broker=redis_server.url)

    @app.task
    async def index(text: str) -> str:
        return text

    async with app.worker():
        debounced = index.options(delay=0.2, debounce_key="17")
        assert await (await debounced.send("a")).cancel()
        assert redis_server.client().exists(keys.debounced("once-tasks")) == 0
        assert await (await debounced.send("b")).result(timeout=10) == "b"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"debounce_key": "k"}, "needs a delay"),
        ({"debounce_key": "", "delay": 1}, "empty"),
        ({"debounce_key": "k", "delay": 1, "dedup_key": "d"}, "not both"),
    ],
)
async def test_a_debounce_key_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    async with App("once", broker="memory://") as app:
        with pytest.raises(ValueError, match=message):
            await app.publish(Saved(n=1), **options)
