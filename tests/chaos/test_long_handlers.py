"""Handlers that run far longer than their lease run once, whatever they block; and nothing waits behind them."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Job, Ledger, WorkerProcess, dead_letters, nothing_pending, publish, until
from tests.servers import RedisServer

#: Seconds that the server is away: longer than anything by which a worker that says nothing is taken for dead.
OUTAGE = 20.0 if LONG else 12.0

#: One handler of `LENGTH` seconds, in the way that its kind says.
HANDLERS = {
    "awaits": """
@app.on(Job, group="awaits")
async def awaits(job: Job, ctx: Context) -> None:
    note("start", "awaits", ctx.attempt)
    await asyncio.sleep(LENGTH)
    note("end", "awaits", ctx.attempt)
""",
    "blocks the loop": """
@app.on(Job, group="spins")
async def spins(job: Job, ctx: Context) -> None:
    note("start", "blocks the loop", ctx.attempt)
    end = time.monotonic() + LENGTH
    while time.monotonic() < end:
        sum(range(10_000))
    note("end", "blocks the loop", ctx.attempt)
""",
    "in a thread": """
@app.on(Job, group="thread")
def thread(job: Job, ctx: Context) -> None:
    note("start", "in a thread", ctx.attempt)
    time.sleep(LENGTH)
    note("end", "in a thread", ctx.attempt)
""",
    "in a process": """
@app.on(Job, group="process", pool="process")
def process(job: Job, ctx: Context) -> None:
    note("start", "in a process", ctx.attempt)
    time.sleep(LENGTH)
    note("end", "in a process", ctx.attempt)
""",
}

#: Handles `long` in 20 s and everything else at once.
MIXED = """
@app.on(Job)
async def mixed(job: Job, ctx: Context) -> None:
    note("start", job.n)
    await asyncio.sleep(20.0 if job.kind == "long" else 0.001)
    note("end", job.n)
"""


async def _two_workers_for_each(
    start_worker: StartWorker, url: str, length: float, lease: float
) -> dict[str, WorkerProcess]:
    """Two workers of each kind: one runs the handler, the other would take it over if it could."""
    sources = {kind: f"LENGTH = {length}\n{source}" for kind, source in HANDLERS.items()}
    return {kind: await start_worker(url, source, lease=lease, processes=2) for kind, source in sources.items()}


@one_server
async def test_a_handler_ten_times_longer_than_its_lease_runs_once(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    workers = await _two_workers_for_each(start_worker, url, 10.0, 1.0)
    await publish(url, [Job(n=1)])

    await until(lambda: len(ledger.lines("end")) == len(HANDLERS), 40)
    for group in ("awaits", "spins", "thread", "process"):
        await nothing_pending(url, group=group)

    assert ledger.count("start") == ledger.count("end") == dict.fromkeys(HANDLERS, 1)
    assert {line.attempt for line in ledger.lines()} == {1}
    _nothing_was_lost(workers)


@one_server
@pytest.mark.timeout(120)
async def test_an_outage_of_many_leases_makes_no_running_handler_run_twice(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = private_redis.url
    workers = await _two_workers_for_each(start_worker, url, OUTAGE + 10.0, 1.5)
    await publish(url, [Job(n=1)])
    await until(lambda: len(ledger.lines("start")) == len(HANDLERS), 15)

    private_redis.stop()
    await asyncio.sleep(OUTAGE)
    private_redis.start()
    await until(lambda: len(ledger.lines("end")) >= len(HANDLERS), 40)
    for group in ("awaits", "spins", "thread", "process"):
        await nothing_pending(url, group=group)

    assert ledger.count("start") == ledger.count("end") == dict.fromkeys(HANDLERS, 1)
    _nothing_was_lost(workers)


async def test_what_ends_while_the_server_is_away_is_acked_afterwards_and_not_run_again(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = private_redis.url
    workers = await _two_workers_for_each(start_worker, url, 3.0, 1.0)
    await publish(url, [Job(n=1)])
    await until(lambda: len(ledger.lines("start")) == len(HANDLERS), 15)

    private_redis.stop()
    await until(lambda: len(ledger.lines("end")) == len(HANDLERS), 15)
    private_redis.start()
    for group in ("awaits", "spins", "thread", "process"):
        await nothing_pending(url, group=group, within=20)

    assert ledger.count("start") == dict.fromkeys(HANDLERS, 1)
    assert await dead_letters(url, "jobs") == []
    _nothing_was_lost(workers)


@pytest.mark.parametrize(("processes", "concurrency"), [(1, 2), (2, 1)], ids=["two-slots", "two-workers"])
async def test_a_long_handler_delays_no_event_that_a_free_slot_could_take(
    redis_server: RedisServer,
    start_worker: StartWorker,
    ledger: Ledger,
    measured: Measured,
    *,
    processes: int,
    concurrency: int,
) -> None:
    url = redis_server.url
    await start_worker(url, MIXED, processes=processes, concurrency=concurrency)
    # Fast ones first: from now on the workers fetch ahead.
    await publish(url, [Job(n=n) for n in range(500)])
    await until(lambda: len(ledger.lines("end")) == 500, 20)

    published: dict[str, float] = {}
    for batch in range(10):
        jobs = [Job(n=1000 + batch * 20 + n) for n in range(20)]
        if batch == 0:
            jobs.insert(0, Job(n=999, kind="long"))
        published |= {str(job.n): time.monotonic() for job in jobs}
        await publish(url, list(jobs))
        await asyncio.sleep(0.3)
    await until(lambda: len(ledger.lines("start")) == 500 + 201, 15)

    starts = {line.key: line.at for line in ledger.lines("start")}
    delays = [starts[key] - moment for key, moment in published.items()]
    measured("longest delay beside a long handler", max(delays))
    assert set(ledger.count("start").values()) == {1}
    assert not ledger.count("end")["999"]
    assert max(delays) < 4


def _nothing_was_lost(workers: dict[str, WorkerProcess]) -> None:
    assert {kind: worker.logs("lease_lost") for kind, worker in workers.items()} == {kind: [] for kind in workers}
