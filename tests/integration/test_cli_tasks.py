"""`streamtask tasks`: one call of a task, watched and cancelled from a shell."""

from __future__ import annotations

import asyncio

from streamtask import App, Context
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
