"""The look for leaks sees each kind of them, and none where a worker has ended in order."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.chaos.leaks import leaks
from tests.chaos.oracle import LOAD
from tests.chaos.workers import Job, Ledger, WorkerProcess, nothing_pending, publish, until
from tests.servers import RedisServer


async def test_whatever_is_left_behind_is_seen(
    redis_server: RedisServer, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, admin = redis_server.url, redis_server.client()
    async with WorkerProcess(url, LOAD, tmp_path / "worker", ledger) as worker:
        await publish(url, [Job(n=n) for n in range(10)])
        await until(lambda: len(ledger.lines("end")) == 10, 10)
        await nothing_pending(url)
        assert await worker.terminate() == 0
    assert leaks([worker]) == []

    monkeypatch.setattr("tests.chaos.leaks._PATIENCE", 0.5)
    [stopped] = worker.logs("worker.stopped")
    owner = stopped["owner"]
    admin.set("{streamtask}:odd", 1)
    admin.set("{stream:jobs}:pub:for-ever", 1)
    admin.set("streamtask:blob:x", "part 1")
    admin.set("{streamtask:blob:x}:part", "1")
    admin.hset("streamtask:record:r", "a", 1)
    admin.set("streamtask:blob:y", "part 1", ex=60)
    admin.set("{streamtask}:beat:" + owner, "{}", ex=60)
    admin.hset("{stream:jobs}:history:chaos", "1-0:f", 1)
    admin.zadd("{stream:jobs}:retry:chaos", {"2-0": 1})
    admin.xadd("stream:jobs", {"envelope": "{}"})
    admin.xreadgroup("chaos", owner, {"stream:jobs": ">"})
    sleeper = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import time; time.sleep(60)", cwd=worker.folder
    )
    waiting = asyncio.create_task(asyncio.to_thread(redis_server.client().blpop, ["nothing"], 8))
    try:
        await until(lambda: admin.info("clients")["blocked_clients"] == 1, 5)
        found = "\n".join(await asyncio.to_thread(leaks, [worker]))
    finally:
        sleeper.kill()
        await sleeper.wait()
        admin.rpush("nothing", "")
        await waiting

    for kind in (
        f"process {sleeper.pid}",
        "1 clients that wait",
        "key {streamtask}:odd stays",
        "key {stream:jobs}:pub:for-ever stays",
        "key streamtask:blob:x stays",
        "key {streamtask:blob:x}:part stays",
        "key streamtask:record:r stays",
        f"{owner} still counts as alive",
        "history of entry 1-0:f",
        "entry 2-0 of jobs/chaos is due",
        f"consumer {owner} of jobs/chaos",
    ):
        assert kind in found
    assert "streamtask:blob:y" not in found
