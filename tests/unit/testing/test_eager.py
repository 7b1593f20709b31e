"""One handler on one event, and contexts for plain calls."""

from __future__ import annotations

import asyncio
import threading
from typing import Annotated, Any

import pytest

from streamtask import (
    App,
    ConfigurationError,
    ConsumeNext,
    Context,
    Depends,
    Event,
    HandlerTimeoutError,
    Middleware,
)
from streamtask.testing import eager, in_memory, make_context
from streamtask.transport.values import Progress


class Chunk(Event, stream="t-chunks"):
    n: int


class Text(Event, stream="t-texts"):
    words: str


def voice() -> str:
    return "real"


app = App("t-eager", broker="redis://nowhere.invalid:1")


@app.on(Chunk, timeout=30)
async def transcribe(chunk: Chunk, ctx: Context) -> list[Text]:
    if chunk.n < 0:
        raise ValueError("no such chunk")
    await ctx.checkpoint({"done": chunk.n})
    ctx.progress(0.5, "half")
    ctx.emit(Text(words=f"attempt {ctx.attempt} after {ctx.state}"), delay=5)
    return [Text(words="a"), Text(words="b")]


@app.task()
async def count(ctx: Context, words: str) -> int:
    await ctx.checkpoint(words)
    return len(words)


async def test_it_gives_what_was_returned_emitted_and_checkpointed() -> None:
    handled = await eager(transcribe, Chunk(n=3), app=app, attempt=2, state={"done": 2})

    last = Text(words="attempt 2 after {'done': 2}")
    assert handled.returned == [Text(words="a"), Text(words="b")]
    assert handled.emits == [(Text(words="a"), None), (Text(words="b"), None), (last, 5)]
    assert handled.emitted == handled.emitted_of(Text)
    assert handled.checkpoints == [{"done": 3}]
    assert handled.progress == [Progress(0.5, "half")]


async def test_it_raises_what_the_handler_raised() -> None:
    with pytest.raises(ValueError, match="no such chunk"):
        await eager(transcribe, Chunk(n=-1), app=app)


async def test_a_state_without_a_failure_is_one_that_a_hand_back_has_left() -> None:
    handled = await eager(transcribe, Chunk(n=1), app=app, state="kept")

    assert handled.emitted[-1] == Text(words="attempt 1 after kept")


async def test_nothing_is_published_and_the_app_is_as_it_was() -> None:
    with in_memory(app) as memory:
        await memory.eager(transcribe, Chunk(n=1))
        assert memory.published == []
    assert app.url == "redis://nowhere.invalid:1"


async def test_a_plain_function_runs_in_a_thread_as_in_a_worker() -> None:
    def work(chunk: Chunk, ctx: Context) -> None:
        ctx.sync.checkpoint(threading.current_thread().name)

    handled = await eager(work, Chunk(n=1))

    assert handled.returned is None
    assert handled.checkpoints[0].startswith("streamtask-handler")


async def test_middleware_and_dependencies_are_around_it() -> None:
    class Loud(Middleware):
        async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:
            return [await call_next(event), Text(words="loud")]

    own = App("t-around", broker="memory://", middleware=[Loud()])

    @own.on(Chunk)
    async def say(chunk: Chunk, words: Annotated[str, Depends(voice)]) -> Text:
        return Text(words=words)

    own.dependency_overrides[voice] = lambda: "fake"

    assert (await eager(say, Chunk(n=1), app=own)).emitted == [Text(words="fake"), Text(words="loud")]
    with in_memory(own) as memory:
        await memory.publish(Chunk(n=1))
        await memory.drain()
        assert memory.published_of(Text) == [Text(words="fake"), Text(words="loud")]


async def test_the_time_limit_of_the_handler_holds() -> None:
    own = App("t-limits", broker="memory://")

    @own.on(Chunk, timeout=0.01)
    async def sleep(_: Chunk) -> None:
        await asyncio.Event().wait()

    with pytest.raises(HandlerTimeoutError):
        await eager(sleep, Chunk(n=1), app=own)


async def test_a_function_that_is_no_handler_is_named() -> None:
    async def other(_: Chunk) -> None: ...

    with pytest.raises(ConfigurationError, match=r"other is no handler of Chunk in the app 't-eager'"):
        await eager(other, Chunk(n=1), app=app)


async def test_a_task_is_called_as_it_is_with_a_context_of_the_test() -> None:
    ctx = make_context(attempt=3, state=[1])

    assert await count(ctx, "four") == 4
    assert (ctx.attempt, ctx.state, ctx.checkpoints) == (3, [1], ["four"])
    with pytest.raises(ConfigurationError, match=r"call it.*count\(make_context\(\), \.\.\.\)"):
        await eager(count, Chunk(n=1), app=app)


async def test_a_handler_may_be_called_with_a_context_of_its_event() -> None:
    ctx = make_context(Chunk(n=7), app=app)

    await transcribe(Chunk(n=7), ctx)

    assert ctx.envelope.payload == {"n": 7}
    assert ctx.emits == [(Text(words="attempt 1 after None"), 5)]
    assert ctx.reports == [Progress(0.5, "half")]
