"""Long handlers go on where they were, in each pool, after a kill of their worker; late owners may not."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.conftest import Measured, StartWorker
from tests.chaos.workers import Job, Ledger, dead_letters, emitted, nothing_pending, publish, until
from tests.command_line import ask
from tests.servers import RedisServer

#: A handler of 100 steps that checkpoints after each and stands still at the 60th of its first run. What it gets done
#: is noted; `pool` is what of the three it is.
STEPS = {
    "async": """
@app.on(Job, timeout=None)
async def work(job: Job, ctx: Context) -> Made:
    begin = (ctx.state or {"done": 0})["done"]
    note("start", job.n, ctx.attempt, begin=begin)
    for done in range(begin + 1, 101):
        note("step", done)
        await ctx.checkpoint({"done": done, "words": ["one", "two"]})
        ctx.progress(done / 100, f"step {done}")
        if done == 60 and not is_open("on"):
            await gate("on")
            await ctx.checkpoint({"done": 61})
    return Made(n=job.n, by=str(begin))
""",
    "thread": """
@app.on(Job)
def work(job: Job, ctx: Context) -> Made:
    begin = (ctx.state or {"done": 0})["done"]
    note("start", job.n, ctx.attempt, begin=begin)
    for done in range(begin + 1, 101):
        note("step", done)
        ctx.sync.checkpoint({"done": done})
        ctx.progress(done / 100, f"step {done}")
        if done == 60:
            blocking_gate("on")
    return Made(n=job.n, by=str(begin))
""",
}
STEPS["process"] = STEPS["thread"].replace("@app.on(Job)", '@app.on(Job, pool="process", concurrency=1)')
STEPS["async in a process"] = STEPS["async"].replace("timeout=None", 'pool="process", concurrency=1')

#: It kills its process after each tenth step, so that after two crashes it runs alone, and goes on there.
POISONOUS = """
@app.on(Job, pool=POOL)
async def work(job: Job, ctx: Context) -> Made:
    begin = ctx.state or 0
    note("start", job.n, ctx.attempt, begin=begin)
    for done in range(begin + 1, 31):
        await ctx.checkpoint(done)
        if done in (10, 20):
            os._exit(9)
    return Made(n=job.n, by=str(begin))
"""


@pytest.mark.parametrize("pool", STEPS)
async def test_what_is_killed_at_sixty_percent_goes_on_from_there(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured, pool: str
) -> None:
    url = redis_server.url
    worker = await start_worker(url, STEPS[pool])
    await publish(url, [Job(n=1)])
    await until(lambda: ledger.count("step")["60"] == 1, 20)
    # Noted before it is checkpointed.
    await until(lambda: has_progress(url, 0.6), 10)

    await worker.kill_child()
    ledger.open_gate("on")
    await nothing_pending(url, within=30)

    first, second = ledger.lines("start")
    measured("resumed at, of 100", second.more["begin"])
    assert first.more["begin"] == 0
    assert second.more["begin"] >= 55
    assert second.attempt == 1
    assert first.pid != second.pid
    assert await emitted(url, "made") == [{"n": 1, "by": str(second.more["begin"])}]
    assert nothing_is_kept(redis_server)


async def has_progress(url: str, fraction: float) -> bool:
    rows = (await ask(url, "inspect", "pending", "--json")).document
    return [row["progress"] and row["progress"]["fraction"] for row in rows] == [fraction]


def nothing_is_kept(server: RedisServer) -> bool:
    return not server.client().exists("{stream:jobs}:history:chaos")


@pytest.mark.parametrize("pool", ["async", "thread", "process"])
async def test_a_worker_that_stood_still_past_its_lease_keeps_nothing(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, pool: str
) -> None:
    url = redis_server.url
    late = await start_worker(url, STEPS[pool], lease=1.0)
    await publish(url, [Job(n=1)])
    await until(lambda: ledger.count("step")["60"] == 1, 20)

    await late.stop_whole()
    successor = await start_worker(url, STEPS[pool], lease=1.0)
    ledger.open_gate("on")
    await until(lambda: len(ledger.lines("start")) == 2, 30)
    await nothing_pending(url, within=20)
    await late.continue_whole()
    await until(lambda: bool(late.logs("lease_lost")), 20)

    first, second = ledger.lines("start")
    assert second.more["begin"] >= 59
    assert [(line.key, line.pid) for line in ledger.lines("step") if line.key == "100"] == [("100", second.pid)]
    assert first.pid != second.pid
    # Its next checkpoint was refused, and that has ended it.
    assert max(int(line.key) for line in ledger.lines("step") if line.pid == first.pid) <= 61
    assert await emitted(url, "made") == [{"n": 1, "by": str(second.more["begin"])}]
    assert successor.logs("lease_lost") == []
    assert await dead_letters(url, "jobs") == []
    assert nothing_is_kept(redis_server)


@pytest.mark.parametrize("pool", ["async", "process"])
async def test_what_kills_its_process_again_and_again_goes_on_each_time(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, pool: str
) -> None:
    url = redis_server.url
    await start_worker(url, f"POOL = {pool!r}\n{POISONOUS}")

    await publish(url, [Job(n=1)])
    await until(lambda: len(ledger.lines("start")) == 3, 40)
    await nothing_pending(url, within=20)

    assert [line.more["begin"] for line in ledger.lines("start")] == [0, 10, 20]
    assert await emitted(url, "made") == [{"n": 1, "by": "20"}]
    assert nothing_is_kept(redis_server)


async def test_a_checkpoint_waits_for_a_server_that_is_away_and_is_no_failure(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = private_redis.url
    worker = await start_worker(url, STEPS["async"])
    await publish(url, [Job(n=1)])
    await until(lambda: ledger.count("step")["60"] == 1, 20)

    private_redis.stop()
    ledger.open_gate("on")
    await until(lambda: bool(worker.logs("checkpoint.failed")), 20)
    await asyncio.sleep(1.0)
    private_redis.start()
    await nothing_pending(url, within=30)

    assert [line.attempt for line in ledger.lines("start")] == [1]
    assert await emitted(url, "made") == [{"n": 1, "by": "0"}]
    await until(lambda: worker.logs("checkpoint.works_again"), 10)
