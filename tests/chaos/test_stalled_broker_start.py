"""Workers that are started while the server cannot serve them: they wait, and begin when it can."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Job, Ledger, WorkerProcess, nothing_pending, publish, until
from tests.servers import RedisServer

HANDLER = """
@app.on(Job)
async def handle(job: Job, ctx: Context) -> None:
    note("end", job.n, ctx.attempt)
"""

#: In the long form longer than a worker process that ends in trouble is started again.
_STALLED = 8.0 if LONG else 3.0


@one_server
@pytest.mark.parametrize("how", ["is down", "is loading its data", "is a replica"])
async def test_a_worker_started_while_the_server_cannot_serve_it_waits_and_begins_when_it_can(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured, *, how: str
) -> None:
    url = private_redis.url
    jobs = [Job(n=n) for n in range(100)]
    await publish(url, list(jobs))
    if how == "is down":
        private_redis.stop()
    elif how == "is a replica":
        private_redis.client().replicaof("127.0.0.1", 1)
    else:
        _make_loading_slow(private_redis)
        private_redis.stop()
        private_redis.start("--key-load-delay", "400", wait=False)

    began = time.monotonic()
    starting = asyncio.create_task(start_worker(url, HANDLER))
    if how == "is loading its data":
        await asyncio.to_thread(private_redis.wait_until_ready)
        assert time.monotonic() - began > _STALLED
    else:
        await asyncio.sleep(_STALLED)
        if how == "is down":
            private_redis.start()
        else:
            private_redis.client().replicaof("no", "one")
    serves = time.monotonic()
    worker = await starting
    await until(lambda: len(ledger.lines("end")) == len(jobs), 15)
    await nothing_pending(url)

    measured("seconds until all was handled", max(line.at for line in ledger.lines("end")) - serves)
    assert max(line.at for line in ledger.lines("end")) - serves < 15
    assert ledger.count("end") == {str(job.n): 1 for job in jobs}
    assert worker.logs("child.ended") == []
    assert len(worker.logs("worker.waits_for_broker")) <= 10


@one_server
async def test_a_worker_that_waits_for_a_server_ends_at_once_when_asked_to(
    private_redis: RedisServer, ledger: Ledger, tmp_path: Path, measured: Measured
) -> None:
    private_redis.stop()
    worker = WorkerProcess(private_redis.url, HANDLER, tmp_path / "worker", ledger)
    worker.start()
    try:
        await until(lambda: worker.logs("worker.waits_for_broker"), 15)
        asked = time.monotonic()
        assert await worker.terminate() == 0
        measured("seconds until it had ended", time.monotonic() - asked)
        assert time.monotonic() - asked < 3
    finally:
        await worker.close()


def _make_loading_slow(server: RedisServer) -> None:
    """Write what takes longer to load than we want it to stall, at 400 microseconds a command."""
    with server.client().pipeline(transaction=False) as pipeline:
        for _ in range(round(_STALLED / 0.0004) + 2000):
            pipeline.incr("filler")
        pipeline.execute()
