"""Handlers that leak: `--max-memory` replaces the process in which they do, in order, and no event notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime

import pytest

from streamtask.worker.memory import resident_mib
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Job, Ledger, WorkerProcess, dead_letters, emitted, nothing_pending, publish, until
from tests.processes import children_of
from tests.servers import RedisServer

#: Runs, each of which leaks a MiB.
RUNS = 5_000 if LONG else 130
#: MiB that a process may have. The app has some 60 to begin with.
LIMIT = 110
#: MiB that a worker leaks in a second, at most.
A_SECOND = 5

LEAKING = """
leaked = []


@app.on(Job, concurrency=1)
async def leak(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt)
    leaked.append(b"x" * (1 << 20))
    await asyncio.sleep(0.2)
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)
"""

LEAKING_CHILD = """
leaked = []


@app.on(Job, pool="process", concurrency=1)
def leak(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt)
    leaked.append(b"x" * (1 << 20))
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)
"""

HEAVY = """
@app.on(Job, group="waits")
async def waits(job: Job, ctx: Context) -> Made | None:
    if job.n:
        return None
    note("start", job.n, ctx.attempt)
    ballast = b"x" * (60 << 20)
    await gate("all")
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)


@app.on(Job, group="blocks")
def blocks(job: Job, ctx: Context) -> Made | None:
    if not job.n:
        return None
    note("start", job.n, ctx.attempt)
    ballast = b"x" * (60 << 20)
    blocking_gate("all")
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)
"""


@one_server
@pytest.mark.timeout(2400 if LONG else 180)
async def test_a_worker_whose_handlers_leak_stays_near_its_limit_and_handles_each_event_once(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    worker = await start_worker(redis_server.url, LEAKING, concurrency=5, max_memory=LIMIT)
    async with _weighed(lambda: children_of(worker.supervisor_pid)) as peaks:
        await _each_event_once(worker, ledger)

    slowest = max(_seconds_of_starts(worker))
    measured("MiB of a worker process, most", max(peaks.values()))
    measured("per cent of the limit", 100 * max(peaks.values()) / LIMIT)
    measured("worker processes replaced", len(worker.logs("child.recycled")))
    measured("seconds of a start, most", slowest)
    # It goes on to leak until its successor works, however long that takes on this machine.
    assert max(peaks.values()) < 1.1 * LIMIT + A_SECOND * slowest
    assert len(worker.logs("child.recycled")) >= RUNS // LIMIT
    assert {line["limit_mib"] for line in worker.logs("child.recycled")} == {LIMIT}
    # None was killed, and nothing was interrupted.
    assert {line["how"] for line in worker.logs("child.ended")} == {"exit code 0"}
    assert worker.logs("handler.interrupted") == worker.logs("lease_lost") == []


@one_server
@pytest.mark.timeout(600 if LONG else 180)
async def test_a_child_process_whose_handler_leaks_is_replaced_between_two_runs_and_its_worker_is_not(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    worker = await start_worker(redis_server.url, LEAKING_CHILD, concurrency=5, max_memory=LIMIT)
    [parent] = children_of(worker.supervisor_pid)
    async with _weighed(lambda: children_of(parent)) as peaks:
        await _each_event_once(worker, ledger)

    measured("MiB of a child process, most", max(peaks.values()))
    measured("child processes replaced", len(worker.logs("sandbox.recycled")))
    # A run leaks one, and allocates now and then for itself.
    assert max(peaks.values()) < LIMIT + 5
    assert len(worker.logs("sandbox.recycled")) >= RUNS // LIMIT
    assert children_of(worker.supervisor_pid) == [parent]


@one_server
@pytest.mark.timeout(180)
async def test_what_is_too_heavy_by_itself_runs_alone_at_the_third_time_and_is_not_begun_again_for_ever(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    worker = await start_worker(redis_server.url, HEAVY, max_memory=LIMIT, shutdown_timeout=0.5)
    await publish(worker.url, [Job(n=0), Job(n=1)])
    await until(lambda: ledger.count("start") == {"0": 3, "1": 3}, 120)
    ledger.open_gate("all")
    await until(lambda: len(ledger.count("end")) == 2, 60)
    await nothing_pending(worker.url)

    assert ledger.count("start") == {"0": 3, "1": 3}
    assert ledger.count("end") == {"0": 1, "1": 1}
    assert sorted(each["n"] for each in await emitted(worker.url, "made")) == [0, 1]
    assert {line.attempt for line in ledger.lines()} == {1}
    assert len(worker.logs("child.recycled")) == 2
    # By itself: no process was killed for it.
    assert {line["how"] for line in worker.logs("child.ended")} == {"exit code 0"}
    assert [line["charged"] for line in worker.logs("handler.interrupted")] == [True] * 4
    assert {line["crashes"] for line in worker.logs("event.isolated")} == {2}
    assert {line.pid for line in ledger.lines("end")}.isdisjoint(children_of(worker.supervisor_pid))


async def _each_event_once(worker: WorkerProcess, ledger: Ledger) -> None:
    """Publish events and wait until each is handled, in one run."""
    await publish(worker.url, [Job(n=n) for n in range(RUNS)])
    await until(lambda: len(ledger.count("end")) == RUNS, 60 + 2 * RUNS / A_SECOND, every=0.2)
    await nothing_pending(worker.url)
    assert ledger.count("start") == ledger.count("end") == {str(n): 1 for n in range(RUNS)}
    assert {line.attempt for line in ledger.lines()} == {1}
    assert sorted(each["n"] for each in await emitted(worker.url, "made")) == list(range(RUNS))
    assert await dead_letters(worker.url, "jobs") == []


def _seconds_of_starts(worker: WorkerProcess) -> list[float]:
    """How long each of its processes took from its start until it was ready."""
    moments = {
        event: {line["child_pid"]: datetime.fromisoformat(line["ts"]) for line in worker.logs(event)}
        for event in ("child.started", "child.ready")
    }
    started, ready = moments.values()
    return [(moment - started[pid]).total_seconds() for pid, moment in ready.items()]


@asynccontextmanager
async def _weighed(processes: Callable[[], Iterable[int]]) -> AsyncIterator[dict[int, float]]:
    """The most MiB that each of some processes has had meanwhile."""
    peaks: dict[int, float] = {}

    async def weigh() -> None:
        while True:
            for pid in processes():
                peaks[pid] = max(peaks.get(pid, 0.0), resident_mib(pid))
            await asyncio.sleep(0.02)

    weighing = asyncio.create_task(weigh())
    try:
        yield peaks
    finally:
        weighing.cancel()
        await asyncio.wait([weighing])
