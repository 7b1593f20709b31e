"""What `on_dead` emits stands once beside its dead letter, wherever the process that wrote both is killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from streamtask import failpoints
from tests.chaos.conftest import StartWorker
from tests.chaos.workers import Job, dead_letters, emitted, nothing_pending, publish, until
from tests.servers import RedisServer

HOPELESS = """
@app.on(Job, on_dead=lambda job, dead: Made(n=job.n, by=dead.reason))
async def hopeless(job: Job) -> None:
    raise Reject("it never works")
"""

EVENTS = 200
KILLS = 3


@pytest.mark.parametrize("place", ["after_effect", "before_settle", "settle_sent", "after_settle"])
async def test_each_death_is_told_once_whenever_its_worker_is_killed(
    redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path, place: str
) -> None:
    url, left = redis_server.url, tmp_path / "left"
    left.write_bytes(b"x" * KILLS)
    ids = await publish(url, [Job(n=n) for n in range(EVENTS)])
    await start_worker(url, HOPELESS, concurrency=20, environment={failpoints.VARIABLE: f"{place}:kill:{left}"})

    async def are_dead() -> bool:
        return len(await dead_letters(url, "jobs")) >= EVENTS

    await until(are_dead, 40)
    await nothing_pending(url)

    letters = Counter(letter.event_id for letter in await dead_letters(url, "jobs"))
    told = Counter(each["n"] for each in await emitted(url, "made"))
    assert left.read_bytes() == b""
    assert letters == Counter(ids)
    assert told == Counter(range(EVENTS))
