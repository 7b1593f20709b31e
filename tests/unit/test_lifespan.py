"""What a worker makes before it handles events and takes down after: in order, in its turn, and never in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamtask import App, ConfigurationError, Event, Router, StreamtaskError
from streamtask.lifespan import Lifespans
from tests.chaos.workers import until


class Spoken(Event, stream="speech"):
    n: int


class Heard(Event, stream="heard"):
    n: int


def make_app(notes: list[str]) -> App:
    app = App("lifespans", broker="memory://")

    @app.on(Spoken)
    async def hear(event: Spoken) -> None:
        notes.append(f"handled {event.n}")

    return app


def add(app: Router, name: str, notes: list[str]) -> None:
    @app.worker_lifespan
    async def around(app: App) -> AsyncIterator[None]:
        notes.append(f"enter {name}")
        yield
        notes.append(f"leave {name}")


async def heard(app: App) -> list[int]:
    entries = await app.transport.read("heard", after="0", count=100, wait=0)
    return [app.broker.decode(entry).payload["n"] for entry in entries]


async def test_lifespans_are_entered_before_the_first_event_and_left_after_the_last_in_reverse_order() -> None:
    notes: list[str] = []
    app, router = make_app(notes), Router()
    add(app, "one", notes)
    add(router, "two", notes)
    app.include(router)
    add(app, "three", notes)
    async with app:
        await app.publish(Spoken(n=1))
        async with app.worker():
            await until(lambda: "handled 1" in notes, 5)

    assert notes == ["enter one", "enter two", "enter three", "handled 1", "leave three", "leave two", "leave one"]


async def test_the_function_itself_is_returned_and_gets_the_app_connected() -> None:
    app, given = make_app([]), []

    @app.worker_lifespan
    async def around(app: App) -> AsyncIterator[None]:
        given.append(app)
        await app.publish(Heard(n=1))
        yield
        await app.publish(Heard(n=2))

    async with app:
        async with app.worker():
            assert await heard(app) == [1]
        assert await heard(app) == [1, 2]
    assert given == [app]
    assert around.__name__ == "around"


async def test_running_handlers_still_have_what_was_made_while_the_worker_drains() -> None:
    notes: list[str] = []
    app = App("lifespans", broker="memory://")
    add(app, "model", notes)
    started = asyncio.Event()

    @app.on(Spoken)
    async def hear(event: Spoken) -> None:
        started.set()
        await asyncio.sleep(0.2)
        notes.append("handled")

    async with app:
        await app.publish(Spoken(n=1))
        async with app.worker():
            await started.wait()

    assert notes == ["enter model", "handled", "leave model"]


async def test_a_worker_of_which_one_lifespan_fails_does_not_start(caplog: pytest.LogCaptureFixture) -> None:
    notes: list[str] = []
    app = make_app(notes)
    add(app, "one", notes)

    @app.worker_lifespan
    async def models(_: App) -> AsyncIterator[None]:
        raise OSError("no such model")
        yield

    add(app, "three", notes)
    async with app:
        await app.publish(Spoken(n=1))
        with pytest.raises(StreamtaskError, match="models failed: OSError"):
            async with app.worker():
                notes.append("started")

    assert notes == ["enter one", "leave one"]
    [line] = [record for record in caplog.records if record.message == "lifespan.failed"]
    assert "models" in line.__dict__["lifespan"]
    assert line.exc_info is not None


async def test_what_was_made_is_taken_down_where_the_start_fails_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    app = make_app(notes)
    add(app, "one", notes)

    async def fail(_: object) -> None:
        raise ConfigurationError("no child can be started")

    monkeypatch.setattr("streamtask.worker.isolation.Isolation.prepare", fail)
    with pytest.raises(ConfigurationError):
        async with app.worker():
            notes.append("started")

    assert notes == ["enter one", "leave one"]


async def test_what_says_that_the_program_is_wrong_is_told_as_that_with_the_name_of_the_function() -> None:
    app = make_app([])

    @app.worker_lifespan
    async def models(_: App) -> AsyncIterator[None]:
        raise ConfigurationError("pip install '.[audio]'")
        yield

    with pytest.raises(ConfigurationError, match=r"models: pip install '.\[audio\]'"):
        async with app.worker():
            pass


async def test_what_fails_at_the_end_is_logged_and_the_rest_still_left(caplog: pytest.LogCaptureFixture) -> None:
    notes: list[str] = []
    app = make_app(notes)
    add(app, "one", notes)

    @app.worker_lifespan
    async def two(_: App) -> AsyncIterator[None]:
        yield
        raise OSError("cannot be saved")

    @app.worker_lifespan
    async def yields_twice(_: App) -> AsyncIterator[None]:
        try:
            yield
            yield
        finally:
            notes.append("closed")

    async with app.worker():
        pass

    assert notes == ["enter one", "closed", "leave one"]
    told = [record.__dict__["lifespan"] for record in caplog.records if record.message == "lifespan.left_badly"]
    assert [name.rpartition(".")[2] for name in told] == ["yields_twice", "two"]


async def test_a_lifespan_that_ends_without_a_yield_is_named() -> None:
    app = make_app([])

    @app.worker_lifespan
    async def models(_: App) -> AsyncIterator[None]:
        if app is None:
            yield

    with pytest.raises(ConfigurationError, match="models: a worker lifespan yields once"):
        async with app.worker():
            pass


def plain(_: App) -> None: ...


async def coroutine(_: App) -> None: ...


def generator(_: App) -> Any:
    yield


@pytest.mark.parametrize("function", [plain, coroutine, generator, None])
def test_what_is_no_async_generator_function_is_refused_at_once(function: Any) -> None:
    name = getattr(function, "__name__", "None")

    with pytest.raises(ConfigurationError, match=f"{name}: a worker lifespan is an `async def`"):
        Router().worker_lifespan(function)


async def test_nothing_is_entered_where_an_app_only_publishes() -> None:
    notes: list[str] = []
    app = make_app(notes)
    add(app, "one", notes)

    async with app:
        await app.publish(Spoken(n=1))

    assert notes == []


async def test_a_start_that_is_cancelled_leaves_what_it_had_entered() -> None:
    notes: list[str] = []
    app = make_app(notes)
    add(app, "one", notes)
    waits = asyncio.Event()

    @app.worker_lifespan
    async def slow(_: App) -> AsyncIterator[None]:
        waits.set()
        await asyncio.sleep(3600)
        yield

    entering = asyncio.create_task(Lifespans(app, app.worker_lifespans).enter())
    await waits.wait()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering

    assert notes == ["enter one", "leave one"]
