"""Many async handlers at once: concurrency is used, and each event is acked once."""

from __future__ import annotations

import time

from tests.chaos.conftest import Measured, StartWorker
from tests.chaos.workers import Job, Ledger, dead_letters, nothing_pending, publish, until
from tests.servers import RedisServer

SLEEPER = """
@app.on(Job)
async def sleeper(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    await asyncio.sleep(0.1)
    note("end", job.n, ctx.attempt)
"""


async def test_a_thousand_sleeping_handlers_share_two_hundred_slots_and_each_event_is_acked_once(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    await start_worker(url, SLEEPER, concurrency=200)
    began = time.monotonic()
    await publish(url, [Job(n=n) for n in range(1000)])

    await until(lambda: len(ledger.lines("end")) >= 1000, 30)
    await nothing_pending(url)

    assert ledger.count("start") == ledger.count("end") == {str(n): 1 for n in range(1000)}
    assert await dead_letters(url, "jobs") == []
    ends = [line.at for line in ledger.lines("end")]
    measured("seconds from publishing to the last end", max(ends) - began)
    measured("seconds from the first start to the last end", max(ends) - ledger.lines("start")[0].at)
