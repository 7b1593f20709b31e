"""`streamtask tasks`: one call of a task, watched and cancelled from a shell."""

from __future__ import annotations

import asyncio

import pytest

from streamtask import App, Context, TaskCancelledError, chain, group
from tests.command_line import ask
from tests.servers import RedisServer


async def test_a_call_is_watched_to_its_end(redis_server: RedisServer) -> None:
    app = App("shop", broker=redis_server.url)
    go = asyncio.Event()

    @app.task
    async def render(ctx: Context, pages: int) -> str:
        if pages < 1:
            raise ValueError("\x1b[31mno pages")
        ctx.progress(0.5, "page 1\x1b[31m")
        await go.wait()
        return "done"

    async with app.worker():
        handle = await render.send(2)
        watching = asyncio.create_task(ask(app.url, "tasks", "watch", handle.id))
        assert (await anext(handle.progress())).fraction == 0.5
        go.set()
        said = await watching
        assert said.code == 0
        assert "50%  page 1\\x1b[31m" in said.out
        again = (await ask(app.url, "tasks", "watch", handle.id, "--stream", "shop-tasks", "--json")).document
        assert again == {"event_id": handle.id, "state": "done", "value": '"done"', "reason": None, "error": None}
        cancelled = await render.options(delay=60).send(3)
        assert (await ask(app.url, "tasks", "cancel", cancelled.id)).out == f"{cancelled.id} is cancelled.\n"
        said = await ask(app.url, "tasks", "watch", cancelled.id, "--stream", "shop-tasks")
        assert (said.code, "cancelled" in said.out) == (1, True)
        said = await ask(app.url, "tasks", "cancel", handle.id)
        assert (said.code, said.out) == (1, "")
        assert "has ended already" in said.err
        said = await ask(app.url, "tasks", "cancel", "nonsense")
        assert (said.code, said.out) == (1, "")
        assert "there is no event nonsense" in said.err


async def test_a_workflow_is_cancelled_by_its_id(redis_server: RedisServer) -> None:
    app = App("shop", broker=redis_server.url)

    @app.task
    async def add(x: int, y: int = 0) -> int:
        return x + y

    async with app:
        first = await chain(add.s(1), add.s(2)).send()
        other = await group(add.s(3), add.s(4)).send()
        assert (await ask(app.url, "tasks", "cancel", first.id)).out == f"{first.id} is cancelled.\n"
        assert (await ask(app.url, "tasks", "cancel", other.id, "--stream", "shop-tasks", "--json")).document == {
            "event_id": other.id,
            "cancelled": True,
        }
        for handle in (first, other):
            with pytest.raises(TaskCancelledError):
                await handle.result(timeout=5)
        said = await ask(app.url, "tasks", "cancel", first.id)
        assert (said.code, "has ended already" in said.err) == (1, True)
