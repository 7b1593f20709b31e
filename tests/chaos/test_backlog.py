"""A backlog, and what many dead workers left behind: no command becomes slow, and no worker grows."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import redis

from streamtask import App
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Job, Ledger, dead_letters, nothing_pending, until
from tests.servers import RedisServer
from tests.stalls import Stalls

QUICK = """
@app.on(Job)
async def quick(job: Job, ctx: Context) -> None:
    note("end", job.n, ctx.attempt)
"""

#: Entries in all, and of those what each of ten dead workers had taken.
ENTRIES, TAKEN = (1_000_000, 10_000) if LONG else (100_000, 1000)


@one_server
@pytest.mark.timeout(900 if LONG else 180)
async def test_a_backlog_and_the_leavings_of_dead_workers_are_drained_without_a_slow_command(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, admin = redis_server.url, redis_server.client()
    await _make_a_backlog(url, admin)
    admin.config_set("slowlog-log-slower-than", 1000)
    admin.slowlog_reset()
    admin.config_resetstat()

    began = time.monotonic()
    worker = await start_worker(url, QUICK, concurrency=100)
    [pid] = await worker.child_pids()
    largest = 0

    def is_drained() -> bool:
        nonlocal largest
        largest = max(largest, _resident(pid))
        return ledger.path.read_bytes().count(b"\n") >= ENTRIES

    with Stalls() as stalls:
        await until(is_drained, 600 if LONG else 100, every=0.5)
    seconds = time.monotonic() - began
    await nothing_pending(url)

    measured("events a second", ENTRIES / seconds)
    measured("largest worker, MB", largest / 1e6)
    slow = [entry for entry in admin.slowlog_get(128) if entry["duration"] >= 50_000]
    measured("longest stall of the machine, s", stalls.longest)
    measured("commands that took 50 ms or longer", len(slow))
    latencies = _p99(admin)
    for command, ms in sorted(latencies.items(), key=lambda each: -each[1])[:3]:
        measured(f"p99 of {command}, ms", ms)
    assert ledger.count("end") == {str(n): 1 for n in range(ENTRIES)}
    assert await dead_letters(url, "jobs") == []
    # Redis 6.2 keeps no histogram.
    assert max(latencies.values(), default=0.0) < 50 + 1000 * stalls.longest
    assert largest < 200e6
    # Those who have nothing left go; nobody goes who has.
    assert {consumer["pending"] for consumer in admin.xinfo_consumers("stream:jobs", "chaos")} == {0}


async def _make_a_backlog(url: str, admin: redis.Redis) -> None:
    async with App("chaos", broker=url) as app:
        for first in range(0, ENTRIES, 5000):
            await app.publish_many([Job(n=n) for n in range(first, first + 5000)])
    admin.xgroup_create("stream:jobs", "chaos", "0")
    for number in range(10):
        taken = await asyncio.to_thread(admin.xreadgroup, "chaos", f"gone:{number}", {"stream:jobs": ">"}, count=TAKEN)
        assert len(taken[0][1]) == TAKEN


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _p99(admin: redis.Redis) -> dict[str, float]:
    """The 99th percentile of each command's time in the server, in ms."""
    stats = admin.info("latencystats")
    return {name.removeprefix("latency_percentiles_usec_"): found["p99"] / 1000 for name, found in stats.items()}
