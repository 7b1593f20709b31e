"""What is scheduled, in numbers: it waits in the server and not in workers, and comes when it is due."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from streamtask.transport.connect import open_transport
from streamtask.transport.values import Outgoing
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Job, Ledger, publish, until
from tests.servers import RedisServer
from tests.stalls import Stalls

SOURCE = """
@app.on(Job)
async def handle(job: Job) -> None:
    note("ran", job.n, now=time.time())
"""

#: How many are scheduled in all, how many of them come due in the test, and how many of these a second.
_ALL, _DUE, _RATE = (1_000_000, 120_000, 1000) if LONG else (20_000, 1_500, 1000)
#: Seconds: until the first of these is due, and the others; the error of firing that 99 of 100 stay below.
_AHEAD = 60.0 if LONG else 5.0
_FAR = 7200.0
_ERROR = 0.25 if LONG else 1.0
#: Mebibytes that a worker may grow by.
_GROWTH = 20


@one_server
@pytest.mark.timeout(900 if LONG else 60)
async def test_very_many_delayed_events_cost_workers_no_memory_and_come_when_they_are_due(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    workers = [await start_worker(redis_server.url, SOURCE) for _ in range(2)]
    await publish(redis_server.url, [Job(n=-n) for n in range(1, 2000)])
    await until(lambda: len(ledger.count("ran")) == 1999, 20)
    pids = [pid for worker in workers for pid in await worker.child_pids()]
    before = {pid: memory(pid) for pid in pids}

    began = time.time()
    await schedule(redis_server.url, dict.fromkeys(range(_DUE, _ALL), began + _FAR))
    measured("seconds to schedule most of them", time.time() - began)
    first = time.time() + _AHEAD
    due = {n: round(first + n / _RATE, 3) for n in range(_DUE)}
    await schedule(redis_server.url, due)
    assert time.time() < first, "this machine is too slow for this test"
    with Stalls() as stalls:
        limit = _AHEAD + _DUE / _RATE + 30
        await until(lambda: sum(int(n) >= 0 for n in ledger.count("ran")) == _DUE, limit, every=0.5)

    ran = [line for line in ledger.lines("ran") if int(line.key) >= 0]
    assert len(ran) == _DUE
    errors = sorted(line.more["now"] - due[int(line.key)] for line in ran)
    growth = max(memory(pid) - before[pid] for pid in pids)
    measured("error of firing, p50, s", errors[len(errors) // 2])
    measured("error of firing, p99, s", errors[len(errors) * 99 // 100])
    measured("largest error, s", errors[-1])
    measured("longest stall of the machine, s", stalls.longest)
    measured("largest growth of a worker, MiB", growth)
    # The server counts in milliseconds.
    assert errors[0] > -0.002
    assert errors[len(errors) * 99 // 100] <= _ERROR + stalls.longest
    assert growth < _GROWTH


async def schedule(url: str, due: Mapping[int, float]) -> None:
    """Schedule jobs by their numbers, each for its moment."""
    transport = open_transport(url)
    await transport.connect()
    try:
        for numbers in batched(due, 500):
            stored = await transport.publish([job(n, due[n]) for n in numbers])
            assert not [each for each in stored if isinstance(each, Exception)]
    finally:
        await transport.close()


def batched(numbers: Iterable[int], size: int) -> Iterator[list[int]]:
    """All of them, so many at a time."""
    rest = iter(numbers)
    while batch := list(islice(rest, size)):
        yield batch


def job(n: int, due: float) -> Outgoing:
    """A `Job` for a moment."""
    event_id = str(uuid.uuid4())
    envelope: dict[str, Any] = {
        "schema_version": "v1",
        "event_id": event_id,
        "event_type": "Job",
        "source": "test",
        "timestamp": datetime.now(UTC).isoformat(),
        "trace_id": uuid.uuid4().hex,
        "payload": {"n": n, "kind": "x" * 100},
    }
    at = datetime.fromtimestamp(due, UTC)
    return Outgoing(stream="jobs", body=json.dumps(envelope).encode(), event_id=event_id, at=at)


def memory(pid: int) -> float:
    """What a process has in memory, in MiB."""
    [line] = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) / 1024
