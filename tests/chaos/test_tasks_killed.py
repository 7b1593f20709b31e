"""Tasks whose workers are killed: who waits for a result gets it, and it is the one that was committed."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamtask import App, TaskFailedError
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Ledger, until
from tests.servers import RedisServer

SOURCE = """
@app.task(name="square", retry=Retry(3, backoff=0.1))
async def square(ctx: Context, n: int) -> int:
    note("start", n, ctx.attempt)
    await asyncio.sleep(n % 10 / 50)
    if n % 50 == 49 and ctx.attempt == 1:
        raise ValueError("again")
    note("end", n, ctx.attempt)
    return n * n


@app.task(name="threaded")
def threaded(n: int) -> str:
    return threading.current_thread().name


@app.task(name="apart", pool="process", timeout=20, retry=Retry(2, backoff=0.1))
def apart(ctx: Context, n: int) -> int:
    note("start", n, ctx.attempt)
    if n < 0:
        os._exit(9)
    return os.getpid()
"""


def sender(url: str) -> App:
    """The same tasks for who sends them: a name and a signature are all that has to be known."""
    app = App("chaos", broker=url)

    @app.task(name="square")
    async def square(n: int) -> int:
        raise NotImplementedError

    @app.task(name="threaded")
    def threaded(n: int) -> str:
        raise NotImplementedError

    @app.task(name="apart")
    def apart(n: int) -> int:
        raise NotImplementedError

    return app


@one_server
async def test_every_result_comes_once_although_workers_are_killed(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    n, kills = (5000, 20) if LONG else (400, 3)
    app = sender(redis_server.url)
    square = app.tasks[0]
    workers = [await start_worker(redis_server.url, SOURCE, concurrency=20) for _ in range(2)]
    async with app:
        handles = [await square.send(number) for number in range(n)]
        waiting = asyncio.gather(*(handle.result(timeout=50) for handle in handles))
        for number in range(kills):
            await asyncio.sleep(0.7)
            victim = workers[number % 2]
            await until(victim.child_pids, 20)
            await victim.kill_child()
        results = await waiting
        # They stand, for whoever asks later.
        again = await asyncio.gather(*(square.handle(handle.id).result(timeout=5) for handle in handles))

    assert results == again == [number * number for number in range(n)]
    runs = ledger.count("start")
    measured("results", len(results))
    measured("kills", kills)
    measured("runs that a kill cut short", sum(runs.values()) - n - n // 50)
    assert len(runs) == n


@one_server
async def test_a_result_comes_soon_after_its_task_is_done(
    redis_server: RedisServer, start_worker: StartWorker, measured: Measured
) -> None:
    app = sender(redis_server.url)
    square = app.tasks[0]
    await start_worker(redis_server.url, SOURCE)
    async with app:
        took = []
        for _ in range(50):
            began = time.monotonic()
            assert await (await square.send(10)).result(timeout=10) == 100
            took.append(time.monotonic() - began)
    measured("milliseconds from send to result, median", statistics.median(took) * 1000)
    measured("milliseconds from send to result, worst", max(took) * 1000)
    # Generous, and far below what asking every second would take.
    assert statistics.median(took) < 0.5


@one_server
async def test_tasks_run_in_threads_and_in_processes_too(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    app = sender(redis_server.url)
    _, threaded, apart = app.tasks
    worker = await start_worker(redis_server.url, SOURCE)
    async with app:
        assert "MainThread" not in await (await threaded.send(1)).result(timeout=20)
        assert await (await apart.send(1)).result(timeout=20) not in await worker.child_pids()
        with pytest.raises(TaskFailedError) as caught:
            await (await apart.send(-1)).result(timeout=50)
    assert caught.value.reason == "worker_lost"


#: Celery's words, in a script that has no event loop; then the same from a process that has only the id.
SCRIPT = """
import sys
from streamtask import App

app = App("chaos", broker=sys.argv[1])


@app.task(name="square")
async def square(n: int) -> int: ...


if len(sys.argv) > 2:
    print(square.handle(sys.argv[2]).get(timeout=5))
else:
    handle = square.delay(12)
    print(handle.get(timeout=20), handle.id)
"""


@one_server
async def test_scripts_send_and_wait_without_await(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, tmp_path: Path
) -> None:
    await start_worker(redis_server.url, SOURCE)
    script = tmp_path / "send.py"
    script.write_text(SCRIPT)

    def run(*arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, script, redis_server.url, *arguments],
            capture_output=True, text=True, timeout=40, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    value, event_id = await asyncio.to_thread(run)
    assert value == "144"
    assert await asyncio.to_thread(run, event_id) == ["144"]
    assert ledger.count("start") == {"12": 1}
