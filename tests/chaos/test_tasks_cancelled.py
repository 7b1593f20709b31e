"""Tasks that their senders cancel: before they begin, while they run, and across the death of a worker."""

from __future__ import annotations

import asyncio
import time

import pytest

from streamtask import App, Progress, Task, TaskCancelledError
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import Ledger, until
from tests.processes import lives
from tests.servers import RedisServer

SOURCE = """
@app.task(name="sleeps")
async def sleeps(n: int) -> int:
    note("start", n)
    try:
        await gate("never")
    except asyncio.CancelledError:
        note("cancelled", n)
        raise
    return n


@app.task(name="threaded", concurrency=1)
def threaded(ctx: Context, n: int) -> int:
    note("start", n)
    ctx.emit(Made(n=n))
    blocking_gate("threads")
    note("end", n)
    return n


@app.task(name="apart", pool="process")
def apart(n: int) -> int:
    note("start", n)
    blocking_gate("never")
    return n


@app.task(name="tells")
async def tells(ctx: Context, n: int) -> int:
    note("start", n, ctx.attempt)
    ctx.progress(0.1 * ctx.attempt, f"attempt {ctx.attempt}")
    await gate("tell more")
    ctx.progress(0.9, "nearly")
    await gate("tell the end")
    return n
"""


def sender(url: str) -> App:
    app = App("chaos", broker=url)
    for name in ("sleeps", "threaded", "apart", "tells"):
        declare(app, name)
    return app


def declare(app: App, name: str) -> None:
    @app.task(name=name)
    async def called(n: int) -> int:
        raise NotImplementedError


async def cancelled_within(task: Task[[int], int, [int], object], call_id: str, seconds: float) -> float:
    """Cancel a call, and wait until it is known to be; how long that took."""
    handle = task.handle(call_id)
    began = time.monotonic()
    assert await handle.cancel()
    with pytest.raises(TaskCancelledError, match="cancelled"):
        await handle.result(timeout=seconds)
    return time.monotonic() - began


@one_server
async def test_a_queued_task_never_starts_also_where_its_worker_has_died(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    app = sender(redis_server.url)
    sleeps = app.tasks[0]
    async with app:
        # Queued with no worker there; scheduled; and held by a worker that dies.
        queued, wanted = await sleeps.send(1), await sleeps.send(2)
        later = await sleeps.options(delay=0.5).send(3)
        assert await queued.cancel()
        assert await later.cancel()
        worker = await start_worker(redis_server.url, SOURCE)
        await until(lambda: ledger.count("start")["2"], 20)
        for handle in (queued, later):
            with pytest.raises(TaskCancelledError):
                await handle.result(timeout=10)
        await worker.kill_whole()
        assert await wanted.cancel()
        await start_worker(redis_server.url, SOURCE)
        with pytest.raises(TaskCancelledError):
            await wanted.result(timeout=30)
        assert not await wanted.cancel()
    assert ledger.count("start") == {"2": 1}


@one_server
async def test_a_running_task_is_cancelled_soon_and_its_process_is_killed(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    app = sender(redis_server.url)
    sleeps, _, apart, _ = app.tasks
    await start_worker(redis_server.url, SOURCE)
    async with app:
        running = [await sleeps.send(n) for n in range(5)]
        in_process = await apart.send(10)
        await until(lambda: len(ledger.count("start")) == 6, 30)
        took = [await cancelled_within(sleeps, handle.id, 10) for handle in running]
        measured("seconds until a running async task was cancelled, worst of 5", max(took))
        assert max(took) < 5.0
        took_apart = await cancelled_within(apart, in_process.id, 10)
        measured("seconds until a task in a process was killed", took_apart)
        [pid] = [line.pid for line in ledger.lines("start") if line.key == "10"]
        await until(lambda: not lives(pid), 10)
        # The next one finds a process of its own.
        again = await apart.send(11)
        await until(lambda: "11" in ledger.count("start"), 30)
        await again.cancel()
        # What has ended cannot be cancelled.
        assert not await running[0].cancel()
    assert ledger.count("cancelled") == {str(n): 1 for n in range(5)}


@one_server
async def test_a_cancelled_thread_is_waited_for_and_its_effects_are_dropped(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    app = sender(redis_server.url)
    threaded = app.tasks[1]
    await start_worker(redis_server.url, SOURCE)
    async with app:
        running, behind = await threaded.send(1), await threaded.send(2)
        await until(lambda: ledger.count("start")["1"], 20)
        assert await running.cancel()
        assert await behind.cancel()
        with pytest.raises(TimeoutError):
            await running.result(timeout=1)
        ledger.open_gate("threads")
        for handle in (running, behind):
            with pytest.raises(TaskCancelledError):
                await handle.result(timeout=20)
    assert ledger.count("end") == {"1": 1}
    assert redis_server.client().exists("stream:made") == 0


@one_server
async def test_progress_is_watched_live_also_across_the_death_of_a_worker(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    app = sender(redis_server.url)
    tells = app.tasks[3]
    worker = await start_worker(redis_server.url, SOURCE)
    heard: list[Progress] = []

    async def watch() -> None:
        async for progress in tells.handle(call.id).progress():
            heard.append(progress)  # noqa: PERF401 - it is looked at meanwhile

    async with app:
        call = await tells.send(7)
        watching = asyncio.create_task(watch())
        await until(lambda: heard, 20)
        await worker.kill_whole()
        await start_worker(redis_server.url, SOURCE)
        await until(lambda: ledger.count("start")["7"] == 2, 30)
        said = time.monotonic()
        ledger.open_gate("tell more")
        await until(lambda: heard[-1].message == "nearly", 20)
        measured("seconds from saying to hearing", time.monotonic() - said)
        ledger.open_gate("tell the end")
        await asyncio.wait_for(watching, 20)
        assert await call.result(timeout=5) == 7
    assert heard[0] == Progress(0.1, "attempt 1")
    assert heard[-1] == Progress(0.9, "nearly")
