"""Fixtures of the chaos tests: a ledger, and workers that are ended after the test."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.leaks import leaks
from tests.chaos.workers import LONG, Ledger, WorkerProcess
from tests.servers import ServerBinary, available_servers

#: (url, source, **options) -> a worker that works. Its handlers note in the test's ledger, or in another, `notes`.
StartWorker = Callable[..., Awaitable[WorkerProcess]]
#: (name, value) -> printed and recorded with the test.
Measured = Callable[[str, float], None]

#: For a test that takes long: one server program instead of each.
one_server = pytest.mark.parametrize(
    "server_binary", available_servers()[:1], ids=lambda binary: binary.name, indirect=True
)


@pytest.fixture(params=available_servers() if LONG else available_servers()[:1], ids=lambda binary: binary.name)
def server_binary(request: pytest.FixtureRequest) -> ServerBinary:
    """The first server program; each in turn in the long form. The conformance suite tries each of them always."""
    binary: ServerBinary = request.param
    return binary


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """What handlers have noted in this test."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture
async def start_worker(tmp_path: Path, ledger: Ledger) -> AsyncIterator[StartWorker]:
    """Start a worker; ended after the test, whatever happened, and looked for what it has left behind."""
    async with AsyncExitStack() as stack:
        workers: list[WorkerProcess] = []

        async def start(url: str, source: str, *, notes: Ledger = ledger, **options: Any) -> WorkerProcess:
            worker = WorkerProcess(url, source, tmp_path / f"worker-{len(workers) + 1}", notes, **options)
            workers.append(worker)
            return await stack.enter_async_context(worker)

        yield start
    for worker in workers:
        lines = worker.log_text().splitlines()[-40:]
        print(f"--- the last lines of {worker.folder.name}", *lines, sep="\n")  # noqa: T201 - shown where a test fails
    # In a thread: the way to the server may lead through a proxy on this loop.
    left = await asyncio.to_thread(leaks, workers)
    assert not left, f"workers left behind: {left}"


@pytest.fixture
def measured(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> Measured:
    """Note a measured number: `pytest -s` shows it, a report (`--junit-xml`) keeps it."""

    def measure(name: str, value: float) -> None:
        record_property(name, round(value, 3))
        print(f"\nMEASURED {request.node.name}: {name} = {value:.3f}")  # noqa: T201 - what it is for

    return measure


@pytest.fixture
def chance(measured: Measured) -> random.Random:
    """The chance of this test: STREAMTASK_SEED, which it prints, lets it happen again."""
    seed = int(os.environ.get("STREAMTASK_SEED", random.randrange(1_000_000)))
    measured("seed (STREAMTASK_SEED)", seed)
    return random.Random(seed)
