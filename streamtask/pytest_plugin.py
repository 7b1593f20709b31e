"""The pytest plugin: fixtures for tests of programs that use streamtask. It does nothing where no test asks for one.

pytest imports it in every run of every project that has streamtask installed, so it imports the rest only in fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from streamtask.app import App
    from streamtask.testing import FrozenClock, InMemoryApp
    from streamtask.testing.faults import Faults

_INI = "streamtask_app"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take `streamtask_app = shop.events:app` in pytest's settings."""
    parser.addini(_INI, "module:attribute of the app that the fixture streamtask_app moves into memory")


@pytest.fixture
def streamtask_target(request: pytest.FixtureRequest) -> App:
    """The app under test: the one that the setting names. Override this fixture to make or choose another."""
    reference = request.config.getini(_INI)
    if not reference:
        raise pytest.UsageError(
            f"which app? Set `{_INI} = module:attribute` in pytest's settings, or define a fixture streamtask_target "
            "that returns it"
        )
    app: App = import_module("streamtask.loading").load_app(reference)
    return app


@pytest.fixture
def streamtask_clock() -> FrozenClock:
    """The clock of `streamtask_app`, which stands still until the test moves it."""
    clock: FrozenClock = import_module("streamtask.testing").FrozenClock()
    return clock


@pytest.fixture
def streamtask_app(streamtask_target: App, streamtask_clock: FrozenClock) -> Iterator[InMemoryApp]:
    """The app under test on a memory of this test's own; afterwards it has its own broker again."""
    with import_module("streamtask.testing").in_memory(streamtask_target, clock=streamtask_clock) as memory:
        yield memory


@pytest.fixture
def streamtask_faults(streamtask_target: App) -> Iterator[Faults]:
    """Runs the handlers of an event under faults, each time on a memory of its own, and tells what was not safe."""
    with import_module("streamtask.testing.faults").Faults(streamtask_target) as faults:
        yield faults
