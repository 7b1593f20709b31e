"""Rules whose workers are killed: each tick stands in the stream once, and is handled."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial

import redis

from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Ledger, WorkerProcess, until
from tests.servers import RedisServer

SOURCE = """
from streamtask import Tick

# Where both workers are held up for more than a second, which a busy machine may do, nothing is left out either.
@app.every(1, name="beat", missed="all")
async def beat(tick: Tick) -> None:
    note("ran", tick.at.isoformat())
"""
_SECONDS = 600 if LONG else 4
#: Seconds that a tick may be late; on a machine that does other things, more.
_LATE = 2.0 if LONG else 5.0


@one_server
async def test_ticks_come_each_once_although_workers_are_killed(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    workers = [await start_worker(redis_server.url, SOURCE) for _ in range(2)]
    client = redis_server.client()
    await until(lambda: ticks(client), 5)
    ends, kills = time.monotonic() + _SECONDS, 0
    while time.monotonic() < ends:
        await workers[kills % 2].kill_child()
        kills += 1
        # Both are never away at once: the other one is back.
        await until(partial(is_back, workers, kills), 20)
        await asyncio.sleep(0.3)

    found = ticks(client)
    moments = [at for at, _ in found]
    await until(lambda: set(moments) <= {datetime.fromisoformat(key).timestamp() for key in ledger.count("ran")}, 20)

    assert Counter(moments).most_common(1)[0][1] == 1
    assert moments == [moments[0] + n for n in range(len(moments))]
    assert len(moments) >= _SECONDS - 1
    measured("kills", kills)
    measured(f"latest of {len(found)} ticks, s", max(late for _, late in found))
    assert max(late for _, late in found) < _LATE


def is_back(workers: Sequence[WorkerProcess], kills: int) -> bool:
    """Whether each child that was killed has a successor that works."""
    return sum(len(worker.logs("child.ready")) for worker in workers) == len(workers) + kills


def ticks(client: redis.Redis) -> list[tuple[float, float]]:
    """The moments of all ticks in the stream, in order, and how late each came there, in seconds."""
    found = []
    for entry_id, fields in client.xrange("stream:chaos-tasks"):
        at = datetime.fromisoformat(json.loads(fields[b"envelope"])["payload"]["arguments"]["tick"]["at"]).timestamp()
        found.append((at, int(entry_id.partition(b"-")[0]) / 1000 - at))
    return found
