"""Workflows whose workers are killed: each step's effects are committed once, and what comes after it is sent once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamtask import App, Context, Inspector, TaskFailedError, chain, chord, group
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Ledger, WorkerProcess, emitted, until
from tests.command_line import ask
from tests.servers import RedisServer

SOURCE = """
@app.task(name="square", retry=Retry(5, backoff=0.1))
async def square(ctx: Context, n: int, seconds: float = 0.0) -> int:
    note("square", n, ctx.attempt)
    await asyncio.sleep(seconds)
    ctx.emit(Made(n=n, by="square"))
    return n * n


@app.task(name="total")
async def total(ctx: Context, numbers: list[int]) -> int:
    note("total", len(numbers), ctx.attempt)
    ctx.emit(Made(n=len(numbers), by="total"))
    return sum(numbers)


@app.task(name="step", retry=Retry(5, backoff=0.1))
async def step(ctx: Context, done: int, chain: int) -> int:
    note("step", f"{chain}/{done}", ctx.attempt)
    await asyncio.sleep(0.1)
    ctx.emit(Made(n=done, by=str(chain)))
    return done + 1


@app.task(name="apart", pool="process", timeout=20, retry=Retry(1))
def apart(numbers: list[int], most: int = 1000) -> int:
    if sum(numbers) > most:
        os._exit(9)
    return sum(numbers)


@app.task(name="tell")
async def tell(failure: dict) -> None:
    note("told", failure["step"], reason=failure["reason"])
"""


#: Seconds for all of it. A machine with much else to do begins workers slowly.
_PATIENCE = 900.0 if LONG else 110.0

#: They are killed in turn: each lives long enough to do something, also where beginning takes seconds.
_WORKERS = 4 if LONG else 2


def sender(url: str) -> App:
    """The same tasks for who sends them."""
    app = App("chaos", broker=url)

    @app.task(name="square")
    async def square(n: int, seconds: float = 0.0) -> int:
        raise NotImplementedError

    @app.task(name="total")
    async def total(numbers: list[int]) -> int:
        raise NotImplementedError

    @app.task(name="step")
    async def step(ctx: Context, done: int, chain: int) -> int:
        raise NotImplementedError

    @app.task(name="apart")
    async def apart(numbers: list[int], most: int = 1000) -> int:
        raise NotImplementedError

    @app.task(name="tell")
    async def tell(failure: dict[str, object]) -> None:
        raise NotImplementedError

    return app


@asynccontextmanager
async def killing(workers: Sequence[WorkerProcess], *, every: float, most: int) -> AsyncIterator[list[int]]:
    """Kill worker processes in turn, every so many seconds, until what is within has ended."""
    killed: list[int] = []

    async def kill() -> None:
        while len(killed) < most:
            victim = workers[len(killed) % len(workers)]
            # It works again: on a machine with much else to do that takes longer than the next kill would.
            await until(victim.child_pids, 60)
            await asyncio.sleep(every)
            killed.append(await victim.kill_child())

    task = asyncio.create_task(kill())
    try:
        yield killed
    finally:
        task.cancel()


@one_server
@pytest.mark.timeout(_PATIENCE + 60)
async def test_the_body_of_a_chord_runs_once_with_all_values_although_workers_are_killed(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    n, every, kills, slowest = (1000, 2.0, 1000, 1.5) if LONG else (200, 0.6, 2, 0.3)
    app = sender(redis_server.url)
    square, total, *_ = app.tasks
    workers = [await start_worker(redis_server.url, SOURCE, concurrency=10) for _ in range(_WORKERS)]
    workflow = chord(group(square.s(number, number % 10 * slowest / 10) for number in range(n)), total.s())
    async with app:
        async with killing(workers, every=every, most=kills) as killed:
            handle = await workflow.send()
            assert await handle.result(timeout=_PATIENCE) == sum(number * number for number in range(n))
        states = Counter(call.state for call in await Inspector(app).workflow(handle.id))
        # It stands, for whoever asks later.
        assert await workflow.handle(handle.id).result(timeout=5) == await handle.result()

    made = Counter((each["by"], each["n"]) for each in await emitted(redis_server.url, "made"))
    starts, bodies = ledger.count("square"), ledger.lines("total")
    measured("members", n)
    measured("kills", len(killed))
    assert len(killed) >= 2
    measured("runs of members that a kill cut short", sum(starts.values()) - n)
    measured("bodies begun", len(bodies))
    assert made == {("total", n): 1} | {("square", number): 1 for number in range(n)}
    assert {line.key for line in bodies} == {str(n)}
    assert len(starts) == n
    assert states == {"done": n + 1}


@one_server
@pytest.mark.timeout(_PATIENCE + 60)
async def test_every_chain_ends_once_and_each_of_its_steps_is_committed_once_although_workers_are_killed(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    n, length, every, kills = (500, 10, 2.0, 1000) if LONG else (40, 10, 0.5, 2)
    app = sender(redis_server.url)
    step = app.tasks[2]
    workers = [await start_worker(redis_server.url, SOURCE, concurrency=10) for _ in range(_WORKERS)]
    async with app, killing(workers, every=every, most=kills) as killed:
        handles = [
            await chain(step.s(0, number), *(step.s(number) for _ in range(length - 1))).send() for number in range(n)
        ]
        results = await asyncio.gather(*(handle.result(timeout=_PATIENCE) for handle in handles))

    made = Counter((each["by"], each["n"]) for each in await emitted(redis_server.url, "made"))
    begun = sum(ledger.count("step").values())
    measured("chains", n)
    measured("steps", n * length)
    measured("kills", len(killed))
    assert len(killed) >= 2
    measured("runs of steps that a kill cut short", begun - n * length)
    assert results == [length] * n
    assert made == {(str(number), done): 1 for number in range(n) for done in range(length)}


#: Celery's words, in a script that has no event loop.
SCRIPT = """
import sys
from streamtask import App, chain, chord, group

app = App("chaos", broker=sys.argv[1])


@app.task(name="square")
async def square(n: int, seconds: float = 0.0) -> int: ...


@app.task(name="total")
async def total(numbers: list[int]) -> int: ...


print(chain(square.s(2), square.s()).delay().get(timeout=20))
print(group(square.s(n) for n in (1, 2, 3)).delay().get(timeout=20))
handle = chord(group(square.s(n) for n in (1, 2, 3)), total.s()).delay()
print(handle.get(timeout=20), handle.id)
"""


@one_server
async def test_scripts_send_workflows_and_the_command_line_shows_how_far_they_are(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, tmp_path: Path
) -> None:
    await start_worker(redis_server.url, SOURCE)
    script = tmp_path / "send.py"
    script.write_text(SCRIPT)

    def run() -> list[str]:
        done = subprocess.run(
            [sys.executable, script, redis_server.url], capture_output=True, text=True, timeout=50, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    chained, grouped, joined = await asyncio.to_thread(run)
    assert (chained, grouped) == ("16", "[1, 4, 9]")
    value, workflow = joined.split()
    assert value == "14"
    said = (await ask(redis_server.url, "inspect", "workflow", workflow, "--json")).document
    assert [tuple(row) for row in said] == [("step", "task", "event_id", "state")] * 4
    assert [(row["step"], row["task"], row["state"]) for row in said] == [
        ("1.1", "square", "done"),
        ("1.2", "square", "done"),
        ("1.3", "square", "done"),
        ("2", "total", "done"),
    ]
    table = (await ask(redis_server.url, "inspect", "workflow", workflow)).out
    assert "square" in table
    nobody = await ask(redis_server.url, "inspect", "workflow", "nobody")
    assert (nobody.code, "there is no workflow 'nobody'" in nobody.err) == (1, True)


@one_server
async def test_steps_that_run_in_processes_take_values_and_their_deaths_are_told(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    app = sender(redis_server.url)
    square, _, _, apart, tell = app.tasks
    await start_worker(redis_server.url, SOURCE)
    async with app:
        members = group(square.s(n) for n in range(5))
        assert await (await chord(members, apart.s()).send()).result(timeout=30) == 30
        with pytest.raises(TaskFailedError, match="apart failed") as caught:
            await (await (chord(members, apart.s(most=1)) | square.s()).on_error(tell.s()).send()).result(timeout=50)
    assert caught.value.reason == "worker_lost"
    await until(lambda: ledger.lines("told"), 10)
    assert [(line.key, line.more) for line in ledger.lines("told")] == [("2", {"reason": "worker_lost"})]
