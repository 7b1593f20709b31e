"""Middleware and dependencies in real workers: on the loop, in threads, in child processes, and where these die."""

from __future__ import annotations

import pytest

from streamtask import Event
from tests.chaos.conftest import StartWorker
from tests.chaos.workers import Job, Ledger, dead_letters, emitted, nothing_pending, publish, until
from tests.servers import RedisServer

APP = """
from typing import Annotated

from streamtask import Depends, Middleware, SoftTimeoutError, Timeout


class Noting(Middleware):
    async def publish(self, event, options, call_next):
        if isinstance(event, Made):
            event = event.model_copy(update={"by": event.by + " stamped"})
        return await call_next(event, options)

    async def consume(self, event, ctx, call_next):
        note("before", event.n, ctx.attempt)
        try:
            returned = await call_next(event)
        except ValueError as error:
            note("swallowed", event.n)
            return Made(n=event.n, by=f"swallowed {error}")
        except BaseException as error:
            note("saw", event.n, error=type(error).__name__)
            raise
        note("after", event.n)
        return returned


app.add_middleware(Noting())


def model(owner: App):
    note("load", owner.name, thread=threading.current_thread() is threading.main_thread())
    yield f"model of {os.getpid()}"
    note("unload", owner.name)


async def connection(ctx: Context):
    note("connect", ctx.envelope.payload["n"])
    if ctx.envelope.payload["kind"] == "slow":
        await asyncio.sleep(1.5)
    try:
        yield asyncio.get_running_loop()
    finally:
        note("disconnect", ctx.envelope.payload["n"])


def session(job: Event, loop: Annotated[object, Depends(connection)]):
    note("+session", job.n, thread=threading.get_ident())
    try:
        yield "session"
    except Exception as error:
        note("rollback", job.n, error=type(error).__name__)
        raise
    finally:
        note("-session", job.n, thread=threading.get_ident())


Model = Annotated[str, Depends(model, scope="process")]
Session = Annotated[str, Depends(session)]


def running_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def work(job, model):
    note("run", job.n, job=job.kind, own=model == f"model of {os.getpid()}", loop=running_loop(),
         thread=threading.get_ident(), main=threading.current_thread() is threading.main_thread())
    if job.kind == "fails":
        raise ValueError("on purpose")
    return Made(n=job.n, by=job.kind)
"""

ASYNC = """
@app.on(Job)
async def handle(job: Job, ctx: Context, db: Session, model: Model) -> Made:
    return work(job, model)
"""

THREAD = """
@app.on(Job)
def handle(job: Job, ctx: Context, db: Session, model: Model) -> Made:
    ctx.sync.publish(Made(n=job.n, by="sync"))
    return work(job, model)
"""

PROCESS = """
@app.on(Job, pool="process", concurrency=1)
def handle(job: Job, ctx: Context, db: Session, model: Model) -> Made:
    ctx.sync.publish(Made(n=job.n, by="sync"))
    return work(job, model)


class Bare(Event, stream="jobs"):
    n: int


@app.on(Bare, pool="process", concurrency=1)
def handle_bare(bare: Bare) -> None:
    note("run bare", bare.n, loop=running_loop())
"""

ASYNC_PROCESS = """
@app.on(Job, pool="process", concurrency=1)
async def handle(job: Job, db: Session, model: Model) -> Made:
    return work(job, model)
"""


class Bare(Event, stream="jobs"):
    """Has a handler with nothing but the app's middleware around it."""

    n: int


@pytest.mark.parametrize("pool", ["async", "thread", "process", "async process"])
async def test_in_every_pool_a_handler_has_its_middleware_and_its_dependencies_around_it(
    redis_server: RedisServer, ledger: Ledger, start_worker: StartWorker, pool: str
) -> None:
    sources = {"async": ASYNC, "thread": THREAD, "process": PROCESS, "async process": ASYNC_PROCESS}
    worker = await start_worker(redis_server.url, APP + sources[pool])
    await publish(redis_server.url, [Job(n=0, kind=pool), Job(n=1, kind="fails")])
    await until(lambda: ledger.count("run").total() == 2, 20)
    await nothing_pending(redis_server.url)
    if pool == "process":
        # Only now: while the other runs, it would have a second child started, which loads, too.
        await publish(redis_server.url, [Bare(n=99)])
        await until(lambda: ledger.count("after")["99"] == 1, 20)
        await nothing_pending(redis_server.url)
        bare = [(line.what, line.more.get("loop", False)) for line in ledger.lines() if line.key == "99"]
        assert bare == [("before", False), ("run bare", False), ("after", False)]
    assert await worker.terminate() == 0

    runs = ledger.lines("run")
    assert [line.more["own"] for line in runs] == [True, True]
    assert {line.more["loop"] for line in runs} == {pool.startswith("async")}
    assert {line.more["main"] for line in runs} == {pool != "thread"}
    steps = [line for line in ledger.lines() if line.key == "0"]
    assert [line.what for line in steps] == [
        "before", "connect", "+session", "run", "-session", "disconnect", "after",
    ]  # fmt: skip
    failed = [line.what for line in ledger.lines() if line.key == "1"]
    assert failed == ["before", "connect", "+session", "run", "rollback", "-session", "disconnect", "swallowed"]
    if not pool.startswith("async"):
        assert len({line.more["thread"] for line in steps if "thread" in line.more}) == 1
    assert len({line.pid for line in [*steps, *runs]}) == 1

    made = sorted((each["n"], each["by"]) for each in await emitted(redis_server.url, "made"))
    by_sync = [] if pool.startswith("async") else [(0, "sync stamped"), (1, "sync stamped")]
    assert made == sorted([(0, pool), (1, "swallowed on purpose"), *by_sync])
    [load], [unload] = ledger.lines("load"), ledger.lines("unload")
    assert load.pid == unload.pid == runs[0].pid
    assert load.more["thread"] is ("process" in pool)


SLOW = """
@app.on(Job, pool="process", concurrency=1, timeout=Timeout(soft=1, hard=30), retry=Retry(max_attempts=1))
def handle(job: Job, db: Session) -> None:
    try:
        time.sleep(20)
    except SoftTimeoutError:
        note("soft", job.n)
        raise
"""


async def test_a_soft_timeout_rings_in_a_child_in_the_handler_and_in_nothing_around_it(
    redis_server: RedisServer, ledger: Ledger, start_worker: StartWorker
) -> None:
    await start_worker(redis_server.url, APP + SLOW)
    await publish(redis_server.url, [Job(n=0), Job(n=1, kind="slow")])

    await until(lambda: len(ledger.lines("saw")) == 2, 20)
    await nothing_pending(redis_server.url)
    slow_handler, slow_dependency = (
        [(line.what, line.more.get("error", "")) for line in ledger.lines() if line.key == n] for n in ("0", "1")
    )
    assert slow_handler == [
        ("before", ""), ("connect", ""), ("+session", ""), ("soft", ""), ("rollback", "SoftTimeoutError"),
        ("-session", ""), ("disconnect", ""), ("saw", "SoftTimeoutError"),
    ]  # fmt: skip
    assert slow_dependency == [("before", ""), ("connect", ""), ("disconnect", ""), ("saw", "SoftTimeoutError")]
    assert [letter.reason for letter in await dead_letters(redis_server.url, "jobs")] == ["max_attempts"] * 2


DEADLY = """
@app.on(Job, retry=Retry(max_attempts=9))
async def handle(job: Job, ctx: Context, db: Session, model: Model) -> Made:
    note("run", job.n, ctx.attempt, own=model == f"model of {os.getpid()}")
    if not is_open("mercy"):
        os._exit(9)
    return Made(n=job.n, by="alone")
"""


async def test_a_suspect_has_all_around_it_in_the_process_that_it_is_alone_in(
    redis_server: RedisServer, ledger: Ledger, start_worker: StartWorker
) -> None:
    worker = await start_worker(redis_server.url, APP + DEADLY)
    await publish(redis_server.url, [Job(n=1)])
    await until(lambda: ledger.count("run")["1"] == 2, 30)
    ledger.open_gate("mercy")

    await until(lambda: bool(worker.logs("event.isolated")), 20)
    await until(lambda: ledger.count("after")["1"] == 1, 20)
    await nothing_pending(redis_server.url)
    [*_, last] = ledger.lines("run")
    assert last.more["own"]
    there = [line.what for line in ledger.lines() if line.pid == last.pid]
    assert there[:2] == ["load", "before"]
    assert last.pid not in await worker.child_pids()
    assert await emitted(redis_server.url, "made") == [{"n": 1, "by": "alone"}]


WAITING = """
@app.on(Job)
async def handle(job: Job, ctx: Context, db: Session, model: Model) -> Made:
    await gate("go")
    return work(job, model)
"""


async def test_a_worker_that_is_killed_within_middleware_and_dependencies_loses_nothing(
    redis_server: RedisServer, ledger: Ledger, start_worker: StartWorker
) -> None:
    worker = await start_worker(redis_server.url, APP + WAITING)
    await publish(redis_server.url, [Job(n=n, kind="waits") for n in range(20)])
    await until(lambda: ledger.count("+session").total() == 20, 20)

    await worker.kill_child()
    ledger.open_gate("go")

    await until(lambda: ledger.count("after").total() == 20, 30)
    await nothing_pending(redis_server.url)
    made = sorted(each["n"] for each in await emitted(redis_server.url, "made"))
    assert made == list(range(20))
    assert set(ledger.count("before").values()) == {2}
