"""Limits of starts: held by all workers together, at the price of no slot, and without a backlog that is held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Job, Ledger, Made, pending, publish, until
from tests.servers import RedisServer

WORKERS, SECONDS = (4, 20.0) if LONG else (2, 5.0)
CONCURRENCY = 10

LIMITED = """
@app.on(Job, rate_limit="100/s", retry=Retry(3, backoff=0.1))
async def limited(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    if job.n % 10 == 0 and ctx.attempt == 1:
        raise OSError("again")
"""

BESIDE = """
from streamtask import RateLimit

@app.on(Job, rate_limit=RateLimit("10/s", per="kind"))
async def limited(job: Job) -> None:
    note("start", job.n)

@app.on(Made)
async def other(made: Made) -> None:
    await asyncio.sleep(0.2)
    note("other", made.n)
"""


def most_within(moments: Sequence[float], seconds: float) -> int:
    """The most moments in any stretch of so many seconds."""
    found, first, ordered = 0, 0, sorted(moments)
    for last, moment in enumerate(ordered):
        while moment - ordered[first] >= seconds:
            first += 1
        found = max(found, last - first + 1)
    return found


@one_server
async def test_no_second_has_more_starts_than_the_limit_and_one_whatever_the_workers(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    await publish(url, [Job(n=n) for n in range(int(100 * SECONDS) + 500)])
    await asyncio.gather(*(start_worker(url, LIMITED, concurrency=CONCURRENCY) for _ in range(WORKERS)))
    began, held = time.monotonic(), 0
    while time.monotonic() < began + SECONDS:
        held = max(held, await pending(url, "jobs"))
        await asyncio.sleep(0.05)
    starts = [line.at for line in ledger.lines("start") if line.at < began + SECONDS]

    most = most_within(starts, 1.0)
    reached = sum(moment >= began for moment in starts) / SECONDS
    measured("most starts in any second", most)
    measured("starts a second", reached)
    measured("most entries that were pending", held)
    assert most <= 101
    assert reached > 60
    assert held < 40 * WORKERS


@one_server
async def test_what_waits_for_its_start_takes_no_slot_from_others(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    # Of each of five kinds five at least wait at any time: more than there are slots.
    await publish(url, [Job(n=n, kind=str(n % 5)) for n in range(1000)])
    await start_worker(url, BESIDE, concurrency=CONCURRENCY)
    await until(lambda: len(ledger.lines("start")) > 20, 10)
    began = time.monotonic()
    await publish(url, [Made(n=n) for n in range(100)])
    await until(lambda: len(ledger.lines("other")) == 100, 30)
    # Ten slots, a fifth of a second each.
    took = time.monotonic() - began
    measured("seconds for what takes two in all slots", took)
    measured("limited starts a second meanwhile", sum(line.at >= began for line in ledger.lines("start")) / took)
    # In slots they would wait for those that wait: twenty seconds and more.
    assert took < 10.0
