"""What `@app.cron` and `@app.every` make of a function; in memory, where a worker runs it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest

from streamtask import App, ConfigurationError, Context, Depends, Retry, Router, Tick
from streamtask.event import describe
from tests.chaos.workers import until


@pytest.fixture
def app() -> App:
    return App("shop", broker="memory://")


def tidy() -> None:
    """Tidy up."""


# ── what a function becomes ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_rule_is_a_task_that_runs_by_itself_and_by_hand(app: App) -> None:
    ran: list[datetime | None] = []

    @app.every(1)
    async def count(tick: Tick | None = None) -> int:
        ran.append(tick and tick.at)
        return len(ran)

    async with app.worker():
        await until(lambda: len(ran) >= 2, 5)
        handle = await count.send()
        assert await handle.result(timeout=5) >= 3

    first, second, *_ = [at for at in ran if at is not None]
    assert (second - first, first.microsecond, first.tzinfo) == (timedelta(seconds=1), 0, UTC)
    assert None in ran
    assert await count() == len(ran)


async def test_rules_run_where_tasks_do_and_may_take_a_context_first(app: App) -> None:
    ran: dict[str, Any] = {}

    @app.cron("* * * * * *")
    def in_a_thread(ctx: Context, tick: Tick) -> None:
        ran["thread"] = (threading.current_thread() is threading.main_thread(), ctx.envelope.event_type, tick.at)

    @app.cron("* * * * * *", tz="Europe/Berlin", stream="others", group="few", name="mine", result_ttl=None)
    async def on_the_loop(*, depth: int = 3) -> None:
        ran["loop"] = depth

    async with app.worker():
        await until(lambda: len(ran) == 2, 5)

    is_main, event_type, at = ran["thread"]
    assert (is_main, event_type, at.microsecond) == (False, in_a_thread.name, 0)
    assert ran["loop"] == 3
    assert (describe(on_the_loop.event).stream, on_the_loop.name) == ("others", "mine")


async def test_a_rule_is_given_what_it_depends_on(app: App) -> None:
    ran: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()

    @app.every(1)
    async def count(tick: Tick, door: Annotated[str, Depends(lambda: "open")]) -> None:
        if not ran.done():
            ran.set_result((door, tick.at.tzinfo == UTC))

    async with app.worker():
        assert await asyncio.wait_for(ran, 5) == ("open", True)


async def test_a_tick_is_retried_and_dead_lettered_as_any_task(app: App) -> None:
    attempts: list[int] = []

    @app.every(1, retry=Retry(2, backoff=0.01))
    async def fails(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise ValueError("no")

    async with app.worker():
        await until(lambda: len(attempts) >= 2, 5)
        letters = app.transport.dead_letters
        assert letters is not None

        async def dead() -> int:
            return await letters.count("shop-tasks")

        await until(dead, 5)
        [letter, *_] = await letters.page("shop-tasks", after="", limit=10)

    assert attempts[:2] == [1, 2]
    assert (letter.reason, letter.event_type) == ("max_attempts", fails.name)


async def test_a_router_brings_its_rules_along(app: App) -> None:
    router, ran = Router(), asyncio.Event()

    @router.every(timedelta(seconds=1))
    async def beat() -> None:
        ran.set()

    app.include(router)
    async with app.worker():
        await asyncio.wait_for(ran.wait(), 5)

    assert beat.event is describe(beat.event).cls


async def test_a_worker_publishes_the_ticks_of_what_it_runs_and_no_others(app: App) -> None:
    ran = asyncio.Event()

    @app.every(1)
    async def ours() -> None:
        ran.set()

    @app.every(1, stream="elsewhere")
    async def others() -> None: ...

    async with app.worker(streams=("shop-tasks",)):
        await asyncio.wait_for(ran.wait(), 5)
        assert app.transport.inspection is not None
        assert (await app.transport.inspection.stream("elsewhere")).length == 0


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────


def needs(url: str) -> None: ...


def needs_a_list(ticks: list[Tick]) -> None: ...


def needs_its_place(tick: Tick, /) -> None: ...


def needs_context_first(url: str = "", *, ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("decorate", "said"),
    [
        (lambda app: app.cron("61 * * * *")(tidy), "tidy: '61 \\* \\* \\* \\*' is no cron text"),
        (lambda app: app.cron("* * * * *", tz="Mars/Base")(tidy), "tidy: 'Mars/Base' is no time zone"),
        (lambda app: app.cron("* * * * *", missed="some")(tidy), "tidy: missed is 'skip', 'once' or 'all', not 'some'"),
        (lambda app: app.every(0)(tidy), "tidy: an interval is in seconds"),
        (lambda app: app.every(9)(needs), "needs runs by itself, and nobody gives it url"),
        (lambda app: app.every(9)(needs_context_first), "needs_context_first runs by itself, and nobody gives it ctx"),
        (lambda app: app.every(9)(needs_a_list), "nobody gives it ticks"),
        (lambda app: app.every(9)(needs_its_place), "nobody gives it tick"),
        (lambda app: app.every(9)(app.task(tidy)), "tidy is a task already"),
        (lambda app: app.every(9, pool="async")(tidy), "tidy: pool='async'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_the_name_of_its_function(
    app: App, decorate: Callable[[App], object], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        decorate(app)

    assert app.rules == []


def test_an_option_that_there_is_not_is_a_type_error(app: App) -> None:
    with pytest.raises(TypeError, match="dedupe"):
        app.every(9, dedupe=True)(tidy)  # type: ignore[call-arg]


def test_an_app_without_cron_texts_does_not_load_what_reads_them() -> None:
    code = "import sys; from streamtask import App; App('a', broker='memory://').every(3)(print); print(*sys.modules)"
    code = code.replace("(print)", "(lambda: None)")
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "streamtask.timetable" in loaded
    assert {"cronsim", "streamtask.cron"} & set(loaded) == set()


# ── what is scheduled ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_delayed_call_is_moved_and_cancelled(app: App) -> None:
    ran: list[int] = []

    @app.task
    async def add(x: int) -> None:
        ran.append(x)

    async with app.worker():
        sooner, never, later = [await add.options(delay=600).send(n) for n in range(3)]

        assert await app.reschedule(add.event, sooner.id, delay=0.01) is True
        assert await app.cancel_scheduled("stream:shop-tasks", never.id) is True
        assert await app.reschedule(add.event, later.id, at=datetime.now(UTC) + timedelta(hours=1)) is True
        await sooner.result(timeout=5)

        assert await app.cancel_scheduled(add.event, sooner.id) is False
        assert await app.reschedule(add.event, never.id, delay=1) is False
    assert ran == [0]


#: In a process of its own: the loop of `app.sync` lives as long as its process.
BLOCKING = """
from streamtask import App
app = App("shop", broker="memory://")
add = app.task(lambda: None)
one, two = [add.options(delay=600).delay().id for _ in range(2)]
print(app.sync.cancel_scheduled(add.event, one), app.sync.cancel_scheduled(add.event, one))
print(app.sync.reschedule(add.event, two, delay=1), app.sync.reschedule("shop-tasks", one, delay=1))
"""


def test_the_blocking_twins_do_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKING], capture_output=True, text=True, timeout=20, check=True)

    assert done.stdout.split() == ["True", "False", "True", "False"]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({}, "when"),
        ({"delay": 1, "at": datetime.now(UTC)}, "not both"),
        ({"delay": -1}, "from 0"),
        ({"at": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001 - that is what is refused
    ],
)
async def test_a_time_that_is_none_is_refused(app: App, when: dict[str, Any], said: str) -> None:
    async with app:
        with pytest.raises(ValueError, match=said):
            await app.reschedule("orders", "e-1", **when)
