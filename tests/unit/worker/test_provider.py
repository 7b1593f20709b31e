"""What handlers are given by a worker: in which order it is made and put away, where, and what a failure does."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest

from streamtask import App, ConfigurationError, Context, Depends, Event, Reject, Retry, StreamtaskError, Timeout
from streamtask.worker.provider import Provider
from tests.chaos.workers import until


class Placed(Event, stream="orders"):
    n: int


Notes = list[str]


def here() -> str:
    return "loop" if threading.current_thread() is threading.main_thread() else "thread"


@pytest.fixture
def notes() -> Notes:
    return []


@pytest.fixture
def app() -> App:
    return App("shop", broker="memory://")


async def handled(app: App, *events: Event) -> list[str]:
    """Have a worker handle events; what was given up, as reason and error."""
    async with app.worker() as worker:
        await app.publish_many(events or (Placed(n=1),))
        await worker.burst_done()
        letters = app.transport.dead_letters
        assert letters is not None
        return [f"{letter.reason}: {letter.error}" for letter in await letters.page("orders", after="", limit=10)]


class Made:
    """Dependencies of all four kinds that note what is done with them."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def plain(self) -> str:
        self._notes.append(f"plain in {here()}")
        return "plain"

    async def awaited(self) -> str:
        self._notes.append(f"awaited in {here()}")
        return "awaited"

    def generator(self) -> Iterator[str]:
        self._notes.append(f"+generator in {here()}")
        try:
            yield "generator"
        except BaseException as error:
            self._notes.append(f"generator told of {type(error).__name__}")
            raise
        finally:
            self._notes.append(f"-generator in {here()}")

    async def async_generator(self) -> AsyncIterator[str]:
        self._notes.append(f"+async generator in {here()}")
        try:
            yield "async generator"
        except BaseException as error:
            self._notes.append(f"async generator told of {type(error).__name__}")
            raise
        finally:
            self._notes.append(f"-async generator in {here()}")


# ── where and when ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_coroutine_has_its_plain_dependencies_in_threads_and_all_put_away_in_reverse_order(
    app: App, notes: Notes
) -> None:
    made = Made(notes)

    @app.on(Placed)
    async def ship(
        order: Placed,
        a: str = Depends(made.generator),
        b: str = Depends(made.async_generator),
        c: str = Depends(made.plain),
        d: str = Depends(made.awaited),
    ) -> None:
        notes.append(f"{a}, {b}, {c}, {d} in {here()}")

    assert await handled(app) == []
    assert notes == [
        "+generator in thread",
        "+async generator in loop",
        "plain in thread",
        "awaited in loop",
        "generator, async generator, plain, awaited in loop",
        "-async generator in loop",
        "-generator in thread",
    ]


async def test_a_plain_handler_has_its_plain_dependencies_in_its_own_thread_after_those_that_are_awaited(
    app: App, notes: Notes
) -> None:
    made = Made(notes)
    threads = set()

    def session() -> Iterator[str]:
        threads.add(threading.get_ident())
        yield "session"
        threads.add(threading.get_ident())

    @app.on(Placed)
    def ship(
        order: Placed,
        a: str = Depends(made.generator),
        b: str = Depends(made.async_generator),
        c: str = Depends(session),
    ) -> None:
        threads.add(threading.get_ident())
        notes.append(f"{a}, {b}, {c} in {here()}")

    assert await handled(app) == []
    assert len(threads) == 1
    assert notes == [
        "+async generator in loop",
        "+generator in thread",
        "generator, async generator, session in thread",
        "-generator in thread",
        "-async generator in loop",
    ]


@pytest.mark.parametrize("is_async", [True, False], ids=["coroutine", "plain"])
async def test_dependencies_have_dependencies_and_are_made_once_a_delivery(app: App, is_async: bool) -> None:
    calls: Notes = []

    def session(order: Placed, ctx: Context, owner: App) -> str:
        calls.append("session")
        return f"{order.n} {ctx.attempt} {owner is app}"

    async def stock(db: Annotated[str, Depends(session)]) -> str:
        calls.append("stock")
        return f"stock of {db}"

    def report(s: Annotated[str, Depends(stock)], db: Annotated[str, Depends(session, use_cache=False)]) -> str:
        return f"{s} and {db}"

    def said(report: str, stock: str, db: str) -> None:
        calls.append(f"{report}; {stock}; {db}")

    if is_async:

        @app.on(Placed)
        async def ship(
            order: Placed, a: str = Depends(report), b: str = Depends(stock), c: str = Depends(session)
        ) -> None:
            said(a, b, c)
    else:

        @app.on(Placed)
        def ship(order: Placed, a: str = Depends(report), b: str = Depends(stock), c: str = Depends(session)) -> None:
            said(a, b, c)

    assert await handled(app, Placed(n=1), Placed(n=2)) == []
    for n in (1, 2):
        assert f"stock of {n} 1 True and {n} 1 True; stock of {n} 1 True; {n} 1 True" in calls
    assert (calls.count("session"), calls.count("stock")) == (4, 2)


async def test_a_task_is_given_its_dependencies_beside_its_arguments(app: App) -> None:
    def session() -> str:
        return "db"

    @app.task
    def join(a: str, db: str = Depends(session), b: str = "b", *rest: str, c: str = "c") -> str:
        return " ".join((a, db, b, *rest, c))

    def size(call: Event, ctx: Context) -> int:
        return len(call.arguments) + ctx.attempt  # type: ignore[attr-defined]

    @app.task
    async def count(ctx: Context, a: int, n: int = Depends(size)) -> int:
        return a + n + ctx.attempt

    async with app.worker():
        assert await (await count.send(5)).result(5) == 8
        assert await (await join.send("a")).result(5) == "a db b c"
        assert await (await join.send("a", "x", "y", c="z")).result(5) == "a db x y z"


# ── failures ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_async", [True, False], ids=["coroutine", "plain"])
async def test_what_the_handler_raises_is_thrown_into_its_dependencies_and_is_its_failure(
    app: App, notes: Notes, is_async: bool
) -> None:
    made = Made(notes)
    options: dict[str, Any] = {"a": Depends(made.generator), "b": Depends(made.async_generator)}

    if is_async:

        @app.on(Placed)
        async def ship(order: Placed, a: str = options["a"], b: str = options["b"]) -> None:
            raise Reject("no such order")
    else:

        @app.on(Placed)
        def ship(order: Placed, a: str = options["a"], b: str = options["b"]) -> None:
            raise Reject("no such order")

    assert await handled(app) == ["rejected: Reject: no such order"]
    assert "generator told of Reject" in notes
    assert "async generator told of Reject" in notes


@pytest.mark.parametrize("is_async", [True, False], ids=["coroutine", "plain"])
async def test_a_dependency_cannot_swallow_a_failure(app: App, is_async: bool) -> None:
    def careless() -> Iterator[int]:
        with contextlib.suppress(ValueError):
            yield 1

    async def careless_too() -> AsyncIterator[int]:
        with contextlib.suppress(ValueError):
            yield 1

    retry = Retry(max_attempts=1)
    if is_async:

        @app.on(Placed, retry=retry)
        async def ship(order: Placed, a: int = Depends(careless), b: int = Depends(careless_too)) -> None:
            raise ValueError("it is full")
    else:

        @app.on(Placed, retry=retry)
        def ship(order: Placed, a: int = Depends(careless), b: int = Depends(careless_too)) -> None:
            raise ValueError("it is full")

    assert await handled(app) == ["max_attempts: ValueError: it is full"]


async def test_a_dependency_that_fails_behind_its_yield_has_failed_the_handler_and_nothing_is_emitted(
    app: App,
) -> None:
    class Shipped(Event, stream="shipped"):
        n: int

    async def session() -> AsyncIterator[int]:
        yield 1
        raise OSError("the commit failed")

    @app.on(Placed, retry=Retry(max_attempts=1))
    async def ship(order: Placed, db: Annotated[int, Depends(session)]) -> Shipped:
        return Shipped(n=order.n)

    async with app:
        assert await handled(app) == ["max_attempts: OSError: the commit failed"]
        assert await app.transport.read("shipped", after="0", count=10, wait=0) == []


async def test_a_dependency_that_fails_keeps_the_handler_from_being_called_and_puts_away_those_before_it(
    app: App, notes: Notes
) -> None:
    made = Made(notes)

    def broken() -> None:
        raise Reject("not here")

    @app.on(Placed)
    async def ship(order: Placed, a: str = Depends(made.generator), b: None = Depends(broken)) -> None:
        notes.append("called")

    assert await handled(app) == ["rejected: Reject: not here"]
    assert notes == ["+generator in thread", "generator told of Reject", "-generator in thread"]


async def test_a_timeout_ends_a_dependency_and_is_thrown_into_the_others(app: App, notes: Notes) -> None:
    made = Made(notes)

    async def slow() -> None:
        await asyncio.sleep(60)

    @app.on(Placed, timeout=0.05, retry=Retry(max_attempts=1))
    async def ship(order: Placed, a: str = Depends(made.async_generator), b: None = Depends(slow)) -> None:
        notes.append("called")

    @app.on(Placed, group="threads", timeout=0.05, retry=Retry(max_attempts=1))
    def pack(order: Placed, a: str = Depends(made.async_generator), b: None = Depends(slow)) -> None:
        notes.append("called")

    @app.on(Placed, group="soft", timeout=Timeout(soft=0.05), retry=Retry(max_attempts=1))
    async def weigh(order: Placed, a: str = Depends(made.async_generator), b: None = Depends(slow)) -> None:
        notes.append("called")

    errors = [error.partition(":")[2] for error in await handled(app)]
    assert len(errors) == 3
    assert sum("HandlerTimeoutError" in error for error in errors) == 2
    assert sum("SoftTimeoutError" in error for error in errors) == 1
    assert notes.count("-async generator in loop") == 3
    assert "called" not in notes


async def test_what_a_cancelled_coroutine_was_opening_in_a_thread_is_closed_again(app: App, notes: Notes) -> None:
    opening, opened = threading.Event(), threading.Event()

    def session() -> Iterator[int]:
        opening.set()
        assert opened.wait(10)
        notes.append("opened")
        try:
            yield 1
        except BaseException as error:
            # A generator that is forgotten is closed by the garbage collector: with a GeneratorExit.
            notes.append(f"closed by {type(error).__name__}")
            raise

    @app.on(Placed, timeout=0.05, retry=Retry(max_attempts=1))
    async def ship(order: Placed, db: Annotated[int, Depends(session)]) -> None:
        notes.append("called")

    async with app.worker() as worker:
        await app.publish(Placed(n=1))
        await until(opening.is_set, 5)
        await asyncio.sleep(0.1)  # the timeout rings meanwhile, or later: both are as good
        opened.set()
        await worker.burst_done()
    assert notes == ["opened", "closed by CancelledError"]


# ── once a process ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_made_once_a_process_is_there_before_the_first_event_and_put_away_after_the_last(
    app: App, notes: Notes
) -> None:
    async def config(owner: App) -> str:
        notes.append("config")
        return owner.name

    def model(name: Annotated[str, Depends(config, scope="process")]) -> Iterator[str]:
        notes.append("load")
        yield f"model of {name}"
        notes.append("unload")

    async def pool() -> AsyncIterator[str]:
        notes.append("connect")
        yield "pool"
        notes.append("disconnect")

    @app.worker_lifespan
    async def lifespan(_: App) -> AsyncIterator[None]:
        notes.append("enter")
        yield
        notes.append("leave")

    @app.on(Placed)
    async def ship(order: Placed, m: str = Depends(model, scope="process")) -> None:
        notes.append(f"{m}")

    @app.on(Placed, group="threads")
    def pack(order: Placed, m: str = Depends(model, scope="process"), p: str = Depends(pool, scope="process")) -> None:
        notes.append(f"{m}, {p}")

    async with app.worker() as worker:
        assert notes == ["enter", "config", "load", "connect"]
        await app.publish_many([Placed(n=1), Placed(n=2)])
        await worker.burst_done()
    assert sorted(notes[4:8]) == ["model of shop", "model of shop", "model of shop, pool", "model of shop, pool"]
    assert notes[8:] == ["disconnect", "unload", "leave"]


async def test_a_worker_whose_process_dependency_fails_does_not_start_and_puts_away_what_was_made(
    app: App, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    made = Made(notes)

    def missing() -> None:
        raise OSError("no such model")

    @app.on(Placed)
    async def ship(
        order: Placed,
        a: str = Depends(made.async_generator, scope="process"),
        b: None = Depends(missing, scope="process"),
    ) -> None: ...

    with pytest.raises(StreamtaskError, match=r"the dependency .*missing failed: OSError\('no such model'\)"):
        async with app.worker():
            pass
    assert notes == ["+async generator in loop", "-async generator in loop"]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "dependency.failed"
    ]
    notes.clear()
    [handler] = app.handlers
    assert handler.dependencies is not None
    with pytest.raises(StreamtaskError):
        await Provider(app, {}, asyncio.to_thread).prepare([handler.dependencies])
    assert notes == ["+async generator in loop", "-async generator in loop"]


async def test_a_process_dependency_that_says_what_is_wrong_is_no_accident(app: App) -> None:
    async def unset() -> None:
        raise ConfigurationError("set MODEL")

    @app.on(Placed)
    async def ship(order: Placed, a: None = Depends(unset, scope="process")) -> None: ...

    with pytest.raises(ConfigurationError, match=r"unset: set MODEL"):
        async with app.worker():
            pass


async def test_a_process_dependency_that_is_left_badly_is_logged_and_the_others_are_still_left(
    app: App, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    made = Made(notes)

    async def sticky() -> AsyncIterator[None]:
        yield
        raise OSError("stuck")

    @app.on(Placed)
    async def ship(
        order: Placed,
        a: str = Depends(made.async_generator, scope="process"),
        b: None = Depends(sticky, scope="process"),
    ) -> None: ...

    async with app.worker():
        pass
    assert notes == ["+async generator in loop", "-async generator in loop"]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "dependency.left_badly"
    ]


# ── overrides ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_overrides_take_the_place_of_dependencies_at_every_depth_and_are_looked_at_anew(
    app: App, notes: Notes
) -> None:
    def session() -> str:
        raise AssertionError("not in tests")

    def stock(db: Annotated[str, Depends(session)]) -> str:
        return f"stock of {db}"

    async def model() -> str:
        return "model"

    @app.on(Placed)
    async def ship(order: Placed, s: str = Depends(stock), m: str = Depends(model, scope="process")) -> None:
        notes.append(f"{s}, {m}")

    app.dependency_overrides[session] = lambda: "fake"
    async with app.worker() as worker:
        await app.publish(Placed(n=1))
        await worker.burst_done()
        app.dependency_overrides[model] = lambda: "fake model"
        await app.publish(Placed(n=2))
        await worker.burst_done()
        app.dependency_overrides[stock] = lambda: "nothing"
        await app.publish(Placed(n=3))
        await worker.burst_done()
    assert notes == ["stock of fake, model", "stock of fake, fake model", "nothing, fake model"]
