"""Events that kill the process that runs them: they end as dead letters, and nothing else does."""

from __future__ import annotations

import time

import pytest

from tests.chaos.conftest import Measured, StartWorker
from tests.chaos.workers import Job, Ledger, dead_letters, nothing_pending, publish, until
from tests.processes import lives
from tests.servers import RedisServer

POISON = """
@app.on(Job)
async def handle(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt, kind=job.kind)
    await asyncio.sleep(0.1 if job.kind == "poison" else 0.25)
    if job.kind == "poison":
        os._exit(9)
    note("end", job.n, ctx.attempt)
"""

IN_PROCESSES = """
class Task(Event, stream="tasks"):
    n: int
    kind: str = ""


@app.on(Task, pool="process", timeout=TIMEOUT, retry=Retry(2, backoff=0.1), concurrency=2)
def task(task: Task, ctx: Context) -> None:
    note("start", task.n, ctx.attempt, kind=task.kind)
    if task.kind == "dies":
        os._exit(9)
    if task.kind == "hangs":
        while True:
            pass
    note("end", task.n, ctx.attempt)


@app.on(Job)
async def beside(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    await asyncio.sleep(0.5)
    note("end", job.n, ctx.attempt)
"""

#: The usual layout of a larger app: the object in one module, the handlers in another, `-A` names the latter.
APART = """
from shop import app


@app.on(Job, pool="process")
def handle(job: Job) -> None:
    note("end", job.n)
"""

SOFT = """
from streamtask import SoftTimeoutError, Timeout

LIMITS = dict(timeout=Timeout(soft=0.5, hard=20), retry=Retry(1))


@app.on(Job, group="awaits", **LIMITS)
async def awaits(job: Job) -> None:
    note("start", "awaits")
    try:
        await asyncio.sleep(60)
    except SoftTimeoutError:
        note("soft", "awaits")


def busy(name):
    note("start", name)
    try:
        while True:
            time.sleep(0.01)
    except SoftTimeoutError:
        note("soft", name)


@app.on(Job, group="thread", **LIMITS)
def thread(job: Job) -> None:
    busy("thread")


@app.on(Job, group="process", pool="process", **LIMITS)
def process(job: Job) -> None:
    busy("process")
"""


@pytest.mark.timeout(120)
async def test_a_poison_event_becomes_a_dead_letter_and_a_hundred_events_beside_it_are_handled(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    worker = await start_worker(url, POISON, concurrency=200)
    began = time.monotonic()
    await publish(url, [Job(n=n) for n in range(100)] + [Job(n=666, kind="poison")])

    await until(lambda: len(ledger.count("end")) == 100, 90)
    await nothing_pending(url, within=30)

    dead = await dead_letters(url, "jobs")
    assert [letter.reason for letter in dead] == ["worker_lost"]
    assert b'"n":666' in b"".join(dead[0].fields).replace(b" ", b"")
    assert ledger.count("start")["666"] <= 5
    assert not ledger.count("end")["666"]
    assert {line.attempt for line in ledger.lines("end")} == {1}
    measured("seconds until all was settled", time.monotonic() - began)
    measured("runs of the poison event", ledger.count("start")["666"])
    measured("most runs of one innocent event", max(ledger.count("start")[str(n)] for n in range(100)))
    measured("children that died", len([line for line in worker.logs("child.ended") if line["how"] == "exit code 9"]))


async def test_a_handler_in_a_child_process_that_dies_fails_its_own_event_only(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    worker = await start_worker(url, "TIMEOUT = None\n" + IN_PROCESSES)
    before = await worker.child_pids()
    await _publish_tasks(url, "dies")

    await until(lambda: len(ledger.count("end")) == 30, 30)
    await nothing_pending(url, "tasks")
    await nothing_pending(url)

    dead = await dead_letters(url, "tasks")
    assert [(letter.reason, letter.attempts) for letter in dead] == [("worker_lost", 2)]
    assert ledger.count("start")["100"] == 2
    assert set(ledger.count("end").values()) == {1}
    assert {line.attempt for line in ledger.lines("end")} == {1}
    assert await worker.child_pids() == before


async def test_a_handler_in_a_child_process_is_killed_at_its_hard_timeout(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    worker = await start_worker(url, "TIMEOUT = 1.0\n" + IN_PROCESSES)
    before = await worker.child_pids()
    await _publish_tasks(url, "hangs")

    await until(lambda: len(ledger.count("end")) == 30, 30)
    await nothing_pending(url, "tasks")

    dead = await dead_letters(url, "tasks")
    assert [(letter.reason, letter.attempts) for letter in dead] == [("max_attempts", 2)]
    assert "HandlerTimeoutError" in dead[0].error
    runs = [line for line in ledger.lines("start") if line.key == "100"]
    assert [line.attempt for line in runs] == [1, 2]
    await until(lambda: not any(lives(line.pid) for line in runs), 5)
    assert set(ledger.count("end").values()) == {1}
    assert await worker.child_pids() == before
    measured("seconds between the two runs of what hangs", runs[1].at - runs[0].at)


async def test_a_soft_timeout_is_raised_inside_the_handler_wherever_it_runs(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    await start_worker(url, SOFT)
    await publish(url, [Job(n=1)])

    await until(lambda: len(ledger.lines("soft")) == 3, 20)
    for group in ("awaits", "thread", "process"):
        await nothing_pending(url, group=group)

    assert ledger.count("start") == ledger.count("soft") == {"awaits": 1, "thread": 1, "process": 1}
    assert await dead_letters(url, "jobs") == []
    starts = {line.key: line.at for line in ledger.lines("start")}
    for line in ledger.lines("soft"):
        measured(f"seconds until the soft timeout of 0.5 s, {line.key}", line.at - starts[line.key])
        assert line.at - starts[line.key] < 5


async def test_a_handler_runs_in_a_child_process_though_its_app_is_defined_in_another_module(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    await start_worker(url, APART, modules={"shop": 'from streamtask import App\n\napp = App("chaos")\n'})
    await publish(url, [Job(n=n) for n in range(10)])

    await until(lambda: ledger.count("end") == {str(n): 1 for n in range(10)}, 10)
    await nothing_pending(url)


async def _publish_tasks(url: str, kind: str) -> None:
    class Task(Job, stream="tasks"):
        pass

    await publish(url, [Task(n=100, kind=kind), *(Task(n=n) for n in range(10))])
    await publish(url, [Job(n=n) for n in range(10, 30)])
