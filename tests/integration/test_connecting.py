"""An app is connected once, however many of its tasks connect it."""

from __future__ import annotations

import asyncio

from streamtask import App
from tests.chaos.workers import until
from tests.servers import RedisServer


async def test_an_app_that_several_tasks_enter_at_once_leaves_no_connection_behind(redis_server: RedisServer):
    app = App("test", broker=redis_server.url)
    client = redis_server.client()
    before = len(client.client_list())
    inside = asyncio.Barrier(5)

    async def enter() -> None:
        async with app:
            await app.records.read("x")
            await inside.wait()

    await asyncio.gather(*(enter() for _ in range(5)))
    await until(lambda: len(client.client_list()) == before, 5)
