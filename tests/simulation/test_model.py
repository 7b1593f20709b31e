"""Every engine does what the model says, step by step, whatever the order of the steps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chaos.workers import LONG
from tests.servers import RedisServer, ServerBinary, available_servers
from tests.simulation.gate_machine import GateMachine
from tests.simulation.machine import TransportMachine
from tests.simulation.subjects import MemorySubject, RedisSubject, Subject

#: A hunt for a bug that is known to be there asks for more: it ends with the first example that shows it.
_EXAMPLES = int(os.environ.get("STREAMTASK_EXAMPLES", "20000" if LONG else "120"))
_STEPS = 50


@pytest.fixture(params=[None, *available_servers()], ids=lambda binary: "memory" if binary is None else binary.name)
def make_subject(request: pytest.FixtureRequest) -> Iterator[Callable[[], Subject]]:
    """Makes each engine in turn, empty."""
    binary: ServerBinary | None = request.param
    if binary is None:
        yield MemorySubject
        return
    server = RedisServer(binary, appendfsync="everysec")
    server.start()

    def make() -> Subject:
        server.flush()
        return RedisSubject(server)

    yield make
    server.close()


@pytest.mark.timeout(14_400 if LONG else 240)
def test_an_engine_does_what_the_model_says(make_subject: Callable[[], Subject]) -> None:
    run_state_machine_as_test(lambda: TransportMachine(make_subject()), settings=_settings(_EXAMPLES))


@pytest.mark.timeout(14_400 if LONG else 240)
def test_gates_let_through_what_they_may_and_leave_nothing_behind(make_subject: Callable[[], Subject]) -> None:
    run_state_machine_as_test(lambda: GateMachine(make_subject()), settings=_settings(_EXAMPLES // 8))


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=_STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
