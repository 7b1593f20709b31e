"""What `@app.task` makes of a function: its event, its name, its call; in memory, where a worker runs it."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from streamtask import (
    App,
    ConfigurationError,
    Context,
    Event,
    Reject,
    ResultTimeoutError,
    Retry,
    Router,
    TaskCancelledError,
    TaskFailedError,
)
from streamtask.event import describe, dump


class Point(BaseModel):
    x: float
    y: float = 0.0


class Added(Event, stream="added"):
    total: int


def add(x: int, y: int = 2) -> int:
    """Add two numbers."""
    return x + y


async def fetch(ctx: Context, url: str, *rest: int, deep: bool = False, **more: float) -> str:
    return f"{ctx.attempt} {url} {rest} {deep} {more}"


def distance(a: Point, b: Annotated[Point, Field(description="the other")]) -> Point:
    return Point(x=b.x - a.x, y=b.y - a.y)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App("shop", broker="memory://")
    async with app:
        yield app


# ── what a function becomes ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_is_still_the_function(app: App) -> None:
    task = app.task(add)

    assert task(2) == 4
    assert (task.__name__, task.__doc__) == ("add", "Add two numbers.")
    assert inspect.iscoroutinefunction(fetch)
    running = app.task(fetch)(Context(None, 1, app), "u")  # type: ignore[arg-type] # it looks at the attempt only
    assert await running == "1 u () False {}"


async def test_the_event_of_a_task_says_what_is_called_with_what(app: App) -> None:
    event = app.task(add).call((1,), {"y": 5})

    described = describe(type(event))
    assert (described.type, described.stream, described.key) == (f"{__name__}.add", "shop-tasks", ())
    assert json.loads(dump(event)) == {"arguments": {"x": 1, "y": 5}}


async def test_the_name_and_the_stream_of_a_task_can_be_chosen(app: App) -> None:
    task = app.task(name="sum", stream="sums")(add)

    assert (describe(task.event).type, describe(task.event).stream) == ("sum", "sums")


async def test_arguments_are_converted_and_checked_when_they_are_sent(app: App) -> None:
    task = app.task(add)

    assert task.call(("7",), {}).arguments == {"x": 7}  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match=r"arguments\.x"):
        await task.send("seven")  # type: ignore[arg-type]
    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"z": 1})):
        with pytest.raises(TypeError):
            await task.send(*args, **kwargs)


@pytest.mark.parametrize("name", ["schema", "json", "copy", "model_config", "arguments", "self", "event", "_x"])
async def test_parameters_may_be_called_anything(app: App, name: str) -> None:
    scope: dict[str, Any] = {"__name__": "anywhere"}
    exec(f"def odd({name}: int, *, class_: str = 'a') -> int: return {name} + 1", scope)  # noqa: S102
    task = app.task(scope["odd"])

    async with app.worker():
        assert await (await task.send(1)).result(5) == 2


async def test_what_annotated_says_of_a_parameter_is_checked_too(app: App) -> None:
    async def wait(ctx: Annotated[Context, "first"], seconds: Annotated[int, Field(ge=0)]) -> None: ...

    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        await app.task(wait).send(-1)


async def test_two_tasks_of_one_name_are_refused(app: App) -> None:
    app.task(add)
    with pytest.raises(ConfigurationError, match=r"two event classes have the type"):
        app.task(add)


async def test_what_cannot_be_written_is_refused_where_the_task_is_made(app: App) -> None:
    def odd(thing: asyncio.AbstractEventLoop) -> int:
        return 0

    def odder() -> asyncio.AbstractEventLoop:
        raise NotImplementedError

    for function in (odd, odder):
        with pytest.raises(ConfigurationError, match="cannot be written"):
            app.task(function)  # type: ignore[arg-type]


# ── where it runs ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_call_comes_back_with_its_value(app: App) -> None:
    tasks = app.task(add), app.task(fetch), app.task(distance)
    async with app.worker():
        assert await (await tasks[0].send(2, y=3)).result(5) == 5
        assert await (await tasks[1].send("u", 1, 2, deep=True, z=0.5)).result(5) == "1 u (1, 2) True {'z': 0.5}"
        found = await (await tasks[2].send(Point(x=1), Point(x=3, y=4))).result(5)
        assert found == Point(x=2, y=4)


async def test_a_task_of_a_router_belongs_to_the_app_that_includes_it(app: App) -> None:
    router = Router()
    task = router.task(add)
    with pytest.raises(ConfigurationError, match="is in no app yet"):
        await task.send(1)
    app.include(router)

    async with app.worker():
        assert await (await task.send(1)).result(5) == 3
    with pytest.raises(ConfigurationError, match="is of the app 'shop' already"):
        App("other", broker="memory://").include(router)


async def test_a_handle_is_made_again_from_its_id(app: App) -> None:
    task = app.task(add)
    async with app.worker():
        handle = await task.send(1)
        assert await task.handle(handle.id).result(5) == await handle.result(5) == 3
        # Whenever it is asked, and however often.
        assert await asyncio.gather(*(handle.result(5) for _ in range(20))) == [3] * 20


async def test_a_task_that_fails_says_so_to_who_waits(app: App) -> None:
    @app.task(retry=Retry(2, backoff=0.01))
    async def fail(n: int) -> int:
        raise LookupError(f"no {n}")

    @app.task
    async def reject() -> None:
        raise Reject("never")

    async with app.worker():
        with pytest.raises(TaskFailedError, match="no 7") as caught:
            await (await fail.send(7)).result(5)
        assert (caught.value.reason, caught.value.attempts) == ("max_attempts", 2)
        assert caught.value.error == "LookupError: no 7"
        assert 'raise LookupError(f"no {n}")' in caught.value.__notes__[0]
        with pytest.raises(TaskFailedError) as refused:
            await (await reject.send()).result(5)
        assert refused.value.reason == "rejected"


async def test_a_value_that_does_not_fit_its_annotation_fails_the_task(app: App) -> None:
    @app.task
    async def lies() -> int:
        return "a text"  # type: ignore[return-value]

    async with app.worker():
        with pytest.raises(TaskFailedError, match="does not fit its annotation") as caught:
            await (await lies.send()).result(5)
        assert caught.value.attempts == 1


async def test_waiting_may_have_an_end_and_the_task_goes_on(app: App) -> None:
    gate = asyncio.Event()

    @app.task
    async def slow() -> str:
        await gate.wait()
        return "there"

    async with app.worker():
        handle = await slow.send()
        with pytest.raises(ResultTimeoutError, match=r"within 0\.05 s"):
            await handle.result(timeout=0.05)
        gate.set()
        assert await handle.result(5) == "there"


async def test_what_a_task_emits_is_published_and_what_it_returns_is_not(app: App) -> None:
    seen: list[int] = []
    has_seen = asyncio.Event()

    @app.on(Added)
    async def note(event: Added) -> None:
        seen.append(event.total)
        has_seen.set()

    @app.task
    async def add_up(ctx: Context, x: int) -> Added:
        ctx.emit(Added(total=x))
        return Added(total=x + 1)

    async with app.worker():
        assert (await (await add_up.send(1)).result(5)).total == 2
        async with asyncio.timeout(5):
            await has_seen.wait()
    assert seen == [1]


async def test_a_task_may_keep_no_result(app: App) -> None:
    task = app.task(result_ttl=None)(add)
    async with app.worker():
        handle = await task.send(1)
        with pytest.raises(ConfigurationError, match="keeps no results"):
            await handle.result(5)


async def test_options_are_those_of_publishing(app: App) -> None:
    task = app.task(add)
    await task.options(delay=3600).send(1)
    await task.options(at=datetime(2100, 1, 1, tzinfo=UTC)).send(1)

    assert app.transport.schedule is not None
    assert len(await app.transport.schedule.scheduled("shop-tasks", limit=10)) == 2
    with pytest.raises(TypeError):
        app.task(name="other", delay=3)(add)  # type: ignore[call-overload]


async def test_blocking_within_a_running_loop_names_the_async_form(app: App) -> None:
    task = app.task(add)
    with pytest.raises(ConfigurationError, match=r"await app\.publish\(\.\.\.\)"):
        task.delay(1)
    with pytest.raises(ConfigurationError, match=r"await handle\.result\(\.\.\.\)"):
        task.handle("id").get()


# ── cancelled, watched, sent once ─────────────────────────────────────────────────────────────────────────────────


async def test_a_call_that_waits_is_cancelled_and_one_that_is_done_is_not(app: App) -> None:
    task = app.task(add)
    waits, later = await task.send(1), await task.options(delay=3600).send(2)
    assert await waits.cancel()
    assert await later.cancel()
    with pytest.raises(TaskCancelledError, match=r"test_task\.add was cancelled"):
        await later.result(timeout=5)
    async with app.worker():
        done = await task.send(3)
        assert await done.result(timeout=5) == 5
        with pytest.raises(TaskCancelledError):
            await waits.result(timeout=5)
        assert not await done.cancel()


async def test_a_task_that_keeps_no_result_is_cancelled_as_well(app: App) -> None:
    ran = []

    @app.task(result_ttl=None)
    async def silent(n: int) -> None:
        ran.append(n)

    for delay in (None, 0.0):
        await (await silent.options(delay=delay).send(1)).cancel()
    async with app.worker(burst=True) as worker:
        await silent.send(2)
        await worker.burst_done()
    assert ran == [2]


async def test_a_task_that_catches_its_cancellation_leaves_no_effects(app: App) -> None:
    begun = asyncio.Event()

    @app.task
    async def stubborn(ctx: Context) -> int:
        ctx.emit(Added(total=1))
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return 1
        return 2

    async with app.worker():
        handle = await stubborn.send()
        await begun.wait()
        assert await handle.cancel()
        with pytest.raises(TaskCancelledError):
            await handle.result(timeout=5)
    assert app.transport.inspection is not None
    assert (await app.transport.inspection.stream("added")).length == 0


async def test_progress_is_heard_until_the_end_and_by_who_comes_late(app: App) -> None:
    go = asyncio.Event()

    @app.task
    async def tells(ctx: Context) -> None:
        ctx.progress(0.5, "half")
        await go.wait()

    async with app.worker():
        handle = await tells.send()
        for _ in range(2):
            heard = handle.progress()
            assert (await anext(heard)).message == "half"
        go.set()
        assert [progress async for progress in heard] == []


async def test_who_sends_a_call_again_under_its_key_waits_for_the_first(app: App) -> None:
    task = app.task(add)
    handles = [await task.options(dedup_key="k").send(n) for n in range(3)]
    late = await task.options(dedup_key="l", delay=0.01).send(7)
    later = await task.options(dedup_key="l", delay=0.01).send(8)
    assert {handle.id for handle in handles} == {handles[0].id}
    assert late.id == later.id
    async with app.worker():
        assert [await handle.result(timeout=5) for handle in handles] == [2, 2, 2]
        assert await later.result(timeout=5) == 9
