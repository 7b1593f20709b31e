"""Worker lifespans and last words in real processes: where they run, when, and what a failure of one does."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.chaos.conftest import StartWorker
from tests.chaos.workers import Job, Ledger, WorkerProcess, dead_letters, emitted, nothing_pending, publish, until
from tests.servers import RedisServer

MODELS = """
model = None


@app.worker_lifespan
async def models(app):
    global model
    note("enter", "models")
    while not is_open("loaded"):
        await asyncio.sleep(0.02)
    await app.publish(Made(n=0, by="lifespan"))
    model = f"model of {os.getpid()}"
    yield
    note("leave", "models", model=model)
    model = None
"""

HANDLER = """
@app.on(Job)
async def handle(job: Job) -> None:
    note("start", job.n, model=model)
    if job.kind == "waits":
        await gate("let-it-end")
    note("end", job.n, model=model)
"""

IN_PROCESSES = """
class Task(Event, stream="jobs", type="Job"):
    n: int
    kind: str = ""


@app.on(Task, pool="process", concurrency=1, timeout=10)
def handle(task: Task) -> None:
    note("end", task.n, model=model)
"""

POISON = """
def say(job, dead):
    return Made(n=job.n, by=f"{dead.reason} {dead.attempts}")


@app.on(Job, on_dead=say)
async def handle(job: Job) -> None:
    note("start", job.n, model=model)
    if job.kind == "poison":
        os._exit(9)
    note("end", job.n, model=model)
"""


async def test_a_worker_is_ready_only_when_its_lifespans_are_entered_and_leaves_them_after_the_drain(
    redis_server: RedisServer, ledger: Ledger, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = WorkerProcess(redis_server.url, MODELS + HANDLER, tmp_path / "worker", ledger)
    try:
        worker.start()
        await until(lambda: ledger.count("enter")["models"] == 1, 40)
        await publish(redis_server.url, [Job(n=1, kind="waits")])
        assert worker.logs("child.ready") == []

        ledger.open_gate("loaded")
        await worker.wait_until_ready()
        await until(lambda: ledger.count("start")["1"] == 1, 10)
        worker.send(signal.SIGTERM)
        await until(lambda: bool(worker.logs("worker.draining")), 10)
        assert ledger.lines("leave") == []
        ledger.open_gate("let-it-end")

        assert await worker.exit_code() == 0
    finally:
        await worker.close()
    assert [line.what for line in ledger.lines()] == ["enter", "start", "end", "leave"]
    assert len({line.pid for line in ledger.lines()}) == 1
    assert worker.supervisor_pid not in {line.pid for line in ledger.lines()}
    assert all(line.more["model"] == f"model of {line.pid}" for line in ledger.lines()[1:])
    assert await emitted(redis_server.url, "made") == [{"n": 0, "by": "lifespan"}]


BLOCKS = """
@app.worker_lifespan
async def models(app):
    note("enter", "models")
    WAIT
    yield
"""


@pytest.mark.parametrize(
    "wait", ["time.sleep(300)", "await asyncio.sleep(300)", "await asyncio.to_thread(time.sleep, 300)"]
)
async def test_a_worker_that_is_told_to_end_while_it_loads_ends_at_once(
    redis_server: RedisServer, ledger: Ledger, tmp_path: Path, wait: str
) -> None:
    worker = WorkerProcess(redis_server.url, BLOCKS.replace("WAIT", wait) + HANDLER, tmp_path / "worker", ledger)
    try:
        worker.start()
        await until(lambda: ledger.count("enter")["models"] == 1, 40)

        assert await worker.terminate(within=10) == 0
    finally:
        await worker.close()
    assert worker.logs("child.drain_timed_out") == []


async def test_a_worker_whose_lifespan_fails_is_tried_again_with_pauses_and_given_up(
    redis_server: RedisServer, ledger: Ledger, tmp_path: Path
) -> None:
    source = (
        HANDLER
        + """
@app.worker_lifespan
async def models(app):
    note("enter", "models")
    raise OSError("no such model")
    yield
"""
    )
    worker = WorkerProcess(redis_server.url, source, tmp_path / "worker", ledger)
    try:
        assert await worker.start().exit_code(50) == 1
    finally:
        await worker.close()

    assert ledger.count("enter")["models"] == 5
    assert {line["lifespan"] for line in worker.logs("lifespan.failed")} == {"chaos_app.models"}
    assert len(worker.logs("child.given_up")) == 1
    assert worker.logs("child.ready") == []


async def test_the_children_of_the_process_pool_have_what_the_lifespans_make(
    redis_server: RedisServer, ledger: Ledger, start_worker: StartWorker
) -> None:
    ledger.open_gate("loaded")
    worker = await start_worker(redis_server.url, MODELS + IN_PROCESSES)

    await publish(redis_server.url, [Job(n=n) for n in range(3)])
    await nothing_pending(redis_server.url)
    assert await worker.terminate() == 0

    handled = ledger.lines("end")
    assert [line.key for line in handled] == ["0", "1", "2"]
    assert all(line.more["model"] == f"model of {line.pid}" for line in handled)
    entered, left = ({line.pid for line in ledger.lines(what)} for what in ("enter", "leave"))
    assert entered == left
    assert len(entered) == 2  # the worker, and its one child


async def test_a_suspect_has_it_too_and_a_lost_process_is_told_to_on_dead(
    redis_server: RedisServer, ledger: Ledger, start_worker: StartWorker
) -> None:
    ledger.open_gate("loaded")
    await start_worker(redis_server.url, MODELS + POISON)

    [poison] = await publish(redis_server.url, [Job(n=1, kind="poison")])

    async def has_died() -> bool:
        return bool(await dead_letters(redis_server.url, "jobs"))

    await until(has_died, 50)
    [letter] = await dead_letters(redis_server.url, "jobs")
    assert (letter.event_id, letter.reason) == (poison, "worker_lost")
    assert all(line.more["model"] == f"model of {line.pid}" for line in ledger.lines("start"))
    said = [each for each in await emitted(redis_server.url, "made") if each["by"] != "lifespan"]
    assert said == [{"n": 1, "by": f"worker_lost {letter.attempts}"}]
