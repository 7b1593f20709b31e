"""The pytest plugin, in projects of its users: each test here runs a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SHOP = """
import asyncio
import sys

from streamtask import App, Context, Event, Reject

app = App("shop", broker="redis://nowhere.invalid:1")


class Placed(Event, stream="orders", key="order_id"):
    order_id: str


class Shipped(Event, stream="shipping"):
    order_id: str


class Reminder(Event, stream="reminders"):
    order_id: str


class Sketch(Event, stream="sketches"):
    of: str


class Drawn(Event, stream="drawings"):
    by: str


class Bank:
    async def charge(self, order_id, idempotency_key=None):
        await asyncio.sleep(0)


bank = Bank()


@app.on(Placed)
async def ship(order: Placed, ctx: Context) -> Shipped:
    await bank.charge(order.order_id, ctx.envelope.event_id)
    if order.order_id == "bad":
        raise Reject("no such order")
    ctx.emit(Reminder(order_id=order.order_id), delay=60)
    return Shipped(order_id=order.order_id)


@app.on(Reminder)
async def remind(reminder: Reminder) -> None:
    await bank.charge(reminder.order_id)


@app.on(Sketch, pool="process")
def draw(sketch: Sketch) -> Drawn:
    return Drawn(by="the test" if "pytest" in sys.modules else "a child")


@app.task()
def add(x: int, y: int) -> int:
    return x + y
"""

PLAIN = """
import pytest
from shop import *


def test_a_drain(streamtask_app, streamtask_clock):
    streamtask_app.sync.publish(Placed(order_id="1"))
    streamtask_app.sync.drain()
    assert streamtask_app.published == [Placed(order_id="1"), Shipped(order_id="1")]
    streamtask_clock.advance(60)
    streamtask_app.sync.drain()
    assert streamtask_app.published_of(Reminder) == [Reminder(order_id="1")]


def test_the_memory_is_another_one_in_each_test(streamtask_app):
    assert streamtask_app.published == []
    assert streamtask_app.app is app
    assert app.url == "memory://"


def test_a_task_of_the_app(streamtask_app):
    call = add.delay(2, 3)
    streamtask_app.sync.drain()
    assert call.get(timeout=5) == 5


def test_without_the_fixture_the_app_has_its_own_broker():
    assert app.url == "redis://nowhere.invalid:1"


def test_faults(streamtask_faults):
    effects = streamtask_faults.recorder()
    effects.wrap(bank, "charge")
    streamtask_faults.sync(Placed(order_id="1"), effects=effects, scenarios=["twice"]).assert_safe()
    with pytest.raises(AssertionError, match="happened 2 times"):
        streamtask_faults.sync(Reminder(order_id="1"), effects=effects).assert_safe()


def test_afterwards_nothing_is_wrapped():
    assert vars(bank) == {}
"""

CHILD = """
from shop import *


def test_a_handler_of_the_process_pool_runs_in_a_child(streamtask_app):
    streamtask_app.sync.publish(Sketch(of="a boat"))
    streamtask_app.sync.drain()
    assert streamtask_app.published == [Sketch(of="a boat"), Drawn(by="a child")]
"""

COROUTINES = """
from shop import *


async def test_a_drain(streamtask_app):
    await app.publish(Reminder(order_id="1"))
    await streamtask_app.drain()
    assert streamtask_app.published == [Reminder(order_id="1")]


async def test_a_task_of_the_app(streamtask_app):
    call = await add.send(2, 3)
    await streamtask_app.drain()
    assert await call.result(timeout=5) == 5


async def test_faults(streamtask_faults):
    report = await streamtask_faults(Reminder(order_id="1"))
    report.assert_safe()
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's project. Plugins are named, so that it does not matter whether streamtask is installed here."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("STREAMTASK_BROKER", raising=False)
    pytester.makepyfile(shop=SHOP)
    pytester.makeini("[pytest]\nstreamtask_app = shop:app\nfilterwarnings = error\n")
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "streamtask.pytest_plugin", *arguments)


def test_plain_tests_need_no_plugin_for_coroutines(project: pytest.Pytester) -> None:
    project.makepyfile(test_plain=PLAIN, test_child=CHILD)

    run(project).assert_outcomes(passed=7)


def test_coroutines_and_others_run_under_pytest_asyncio_in_any_order(project: pytest.Pytester) -> None:
    project.makepyfile(test_coroutines=COROUTINES, test_plain=PLAIN)
    settings = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")

    done = run(project, "-p", "asyncio", "-p", "randomly", *settings)

    done.assert_outcomes(passed=9)


def test_coroutines_run_under_anyio(project: pytest.Pytester) -> None:
    pytest.importorskip("anyio")
    project.makepyfile(test_coroutines=f"import pytest\npytestmark = pytest.mark.anyio\n{COROUTINES}")
    project.makeconftest("import pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n")

    run(project, "-p", "anyio").assert_outcomes(passed=3)


def test_a_failure_shows_where_the_handler_raised(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_dies="""
        from shop import *

        def test_it(streamtask_app):
            streamtask_app.sync.publish(Placed(order_id="bad"))
            streamtask_app.sync.drain()
        """
    )

    done = run(project)

    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*Placed of orders in group shop (rejected, 1 attempt): Reject: no such order*"])
    done.stdout.fnmatch_lines(['*raise Reject("no such order")*'])


def test_an_app_may_be_made_by_a_fixture_of_the_project(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nfilterwarnings = error\n")
    project.makeconftest(
        """
        import pytest
        from streamtask import App

        @pytest.fixture(scope="session")
        def streamtask_target():
            return App("made", broker="redis://nowhere.invalid:1")
        """
    )
    project.makepyfile(
        test_made="""
        def test_one(streamtask_app):
            assert streamtask_app.app.name == "made"

        def test_two(streamtask_app):
            assert streamtask_app.app.name == "made"
        """
    )

    run(project).assert_outcomes(passed=2)


def test_who_names_no_app_is_told_how(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\n")
    project.makepyfile("def test_it(streamtask_app): ...")

    done = run(project)

    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*Set `streamtask_app = module:attribute` in pytest's settings*"])


def test_the_plugin_is_what_setup_cfg_says_and_loads_nothing_heavy_by_itself() -> None:
    setup = RawConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    name, _, module = setup["options.entry_points"]["pytest11"].strip().partition(" = ")
    code = f"import sys, pytest; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert name == "streamtask"
    assert set(done.stdout.split()) == {"streamtask", module}


def test_nothing_that_runs_in_production_imports_what_is_for_tests() -> None:
    code = (
        "import sys, streamtask.cli.commands, streamtask.cli.main, streamtask.app, streamtask.feed, streamtask.trail;"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert [name for name in loaded if name.startswith(("streamtask.testing", "streamtask.pytest", "pytest"))] == []
