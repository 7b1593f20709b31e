"""A kill, a pause or an error at each place where a crash leaves a different state behind: nothing is lost or doubled.

The load is one worker and a publisher. Each event is handled into one other event, so that an effect that was committed
twice shows in the stream. One grant is one hit; the next comes when everything that the last one held up is committed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from streamtask import failpoints
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import (
    LONG,
    Emitted,
    Job,
    Ledger,
    Publisher,
    WorkerProcess,
    dead_letters,
    emitted,
    nothing_pending,
    publish,
    until,
)
from tests.servers import RedisServer

SLOTS = 8
#: A tenth fails at first, so that something is always due again; a twentieth is long enough to be renewed.
LOAD = """
from streamtask import failpoints


@app.on(Job, retry=Retry(3, backoff=0.05))
async def load(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt)
    await asyncio.sleep(0.7 if job.n % 20 == 7 else job.n % 5 / 250)
    if failpoints.armed:
        failpoints.reached("in_handler")
    if job.n % 10 == 3 and ctx.attempt == 1:
        raise ValueError("again")
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)
"""

#: Each waits for its gate, so that all of them end at the same moment.
HELD = """
@app.on(Job)
async def held(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt)
    await gate("go")
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)
"""

#: Kills for each place: the long form bounds the rate of losses to 3 in as many at 95 %.
HITS = 200 if LONG else 3
#: These end the supervisor as well; somebody (systemd, Kubernetes: here, the test) starts it again.
_END_THE_SUPERVISOR = ("while_stopping", "before_hand_back")
#: These are no worker's: `tests/chaos/test_sql_outbox_killed.py`, `tests/chaos/test_bridge_killed.py`.
_ELSEWHERE = ("outbox_published", "bridge_published")
PLACES = [place for place in get_args(failpoints.Place) if place not in _ELSEWHERE]
#: Places that are tried at a time, each on a database of its own: the machine has few cores.
_AT_A_TIME = 4


class Trial:
    """Kills at one place, again and again, under load."""

    def __init__(self, place: str, url: str, folder: Path, start_worker: StartWorker, seed: float) -> None:
        folder.mkdir()
        self.place = place
        self.ledger = Ledger(folder / "ledger")
        #: Seconds from each hit until all that had been published before it was committed.
        self.recoveries: list[float] = []
        self._url = url
        self._left = folder / "left"
        self._left.touch()
        self._start_worker = start_worker
        self._random = random.Random(seed)

    async def run(self, hits: int) -> None:
        worker = await self._start()
        async with Emitted(self._url, "made") as made, Publisher(self._url, every=0.01) as publisher:
            for _ in range(hits):
                await asyncio.sleep(self._random.uniform(0.0, 0.3))
                await self._hit(worker)
                hit = time.monotonic()
                due = {n for n, returned in publisher.returned.items() if returned < hit}
                if self.place in _END_THE_SUPERVISOR:
                    await worker.exit_code()
                    worker = await self._start()
                await until(lambda due=due: self._are_made(made, due), 40, every=0.05)
                self.recoveries.append(time.monotonic() - hit)
        await self._all_is_well(publisher, hits)

    async def _start(self) -> WorkerProcess:
        environment = {failpoints.VARIABLE: f"{self.place}:kill:{self._left}"}
        return await self._start_worker(
            self._url, LOAD, notes=self.ledger, concurrency=SLOTS, lease=3.0, environment=environment
        )

    async def _hit(self, worker: WorkerProcess) -> None:
        """Grant one hit, and bring the worker there where it does not come by itself."""
        self._left.write_bytes(b".")
        if self.place == "while_stopping":
            worker.send(signal.SIGTERM)
        elif self.place == "before_hand_back":
            await worker.kill_child()
        await until(lambda: self._left.stat().st_size == 0, 20, every=0.005)

    async def _are_made(self, made: Emitted, wanted: set[int]) -> bool:
        return wanted <= {each["n"] for each in await made.all()}

    async def _all_is_well(self, publisher: Publisher, hits: int) -> None:
        published = dict.fromkeys(publisher.returned, 1)
        await until(lambda: len(self.ledger.count("end")) >= len(published), 30)
        await nothing_pending(self._url, within=20)
        assert Counter(each["n"] for each in await emitted(self._url, "made")) == published, self.place
        assert await dead_letters(self._url, "jobs") == [], self.place
        runs = len(published) + sum(n % 10 == 3 for n in published)
        extra = self.ledger.count("start").total() - runs
        assert extra <= hits * SLOTS, self.place
        assert {line.attempt for line in self.ledger.lines()} <= {1, 2}, self.place


@one_server
@pytest.mark.timeout(3600 if LONG else 240)
async def test_a_worker_killed_at_any_place_loses_nothing_doubles_nothing_and_is_made_up_for_in_seconds(
    redis_server: RedisServer, start_worker: StartWorker, measured: Measured, tmp_path: Path, chance: random.Random
) -> None:
    trials = [
        Trial(place, f"{redis_server.url}?db={index}", tmp_path / place, start_worker, chance.random())
        for index, place in enumerate(PLACES)
    ]
    began = time.monotonic()
    few = asyncio.Semaphore(_AT_A_TIME)

    async def run(trial: Trial) -> None:
        async with few:
            await trial.run(HITS)

    async with asyncio.TaskGroup() as group:
        # The last one waits for missing heartbeats, and takes longest.
        for trial in reversed(trials):
            group.create_task(run(trial))

    for trial in trials:
        measured(f"{trial.place}, hits", len(trial.recoveries))
        measured(f"{trial.place}, seconds until made up for, median", statistics.median(trial.recoveries))
        measured(f"{trial.place}, seconds until made up for, longest", max(trial.recoveries))
    recoveries = [seconds for trial in trials for seconds in trial.recoveries]
    measured("all places, seconds until made up for, p99", statistics.quantiles(recoveries, n=100)[-1])
    measured("seconds in all", time.monotonic() - began)
    assert [len(trial.recoveries) for trial in trials] == [HITS] * len(trials)
    # A lease, a look at the dead, a start of Python; and the machine is busy.
    assert max(recoveries) < 30


async def test_a_worker_that_stops_between_handler_and_settlement_changes_nothing_when_it_goes_on(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured, tmp_path: Path
) -> None:
    url, left = redis_server.url, tmp_path / "left"
    left.write_bytes(b".")
    environment = {failpoints.VARIABLE: f"before_settle:stop:{left}"}
    stopped = await start_worker(url, HELD, concurrency=20, lease=1.5, environment=environment)
    await publish(url, [Job(n=n) for n in range(20)])
    await until(lambda: len(ledger.running()) == 20, 10)
    [child] = await stopped.child_pids()
    ledger.open_gate("go")
    await until(lambda: left.stat().st_size == 0, 10)

    await start_worker(url, HELD, concurrency=20, lease=1.5)
    async with Emitted(url, "made") as made:

        async def has_taken_over() -> bool:
            return len(await made.all()) == 20

        await until(has_taken_over, 30)
        os.kill(child, signal.SIGCONT)
        await until(lambda: len(stopped.logs("lease_lost")) == 20, 15)
        await nothing_pending(url)
        assert sorted(each["n"] for each in await made.all()) == list(range(20))
    assert ledger.count("end") == {str(n): 2 for n in range(20)}
    assert {line.attempt for line in ledger.lines()} == {1}
    measured("settlements that were refused", len(stopped.logs("lease_lost")))


async def test_a_duty_that_breaks_ends_the_process_and_its_replacement_goes_on(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, tmp_path: Path
) -> None:
    url, left = redis_server.url, tmp_path / "left"
    left.write_bytes(b".")
    environment = {failpoints.VARIABLE: f"after_fetch:raise:{left}"}
    worker = await start_worker(url, LOAD, concurrency=SLOTS, environment=environment)
    await publish(url, [Job(n=n) for n in range(20)])

    await until(lambda: len(ledger.count("end")) == 20, 20)
    await nothing_pending(url)
    assert [line["duty"] for line in worker.logs("worker.duty_failed")] == ["streamtask-fetcher-0"]
    assert Counter(each["n"] for each in await emitted(url, "made")) == dict.fromkeys(range(20), 1)


async def test_a_failpoint_that_is_none_is_an_error_at_the_start(
    redis_server: RedisServer, ledger: Ledger, tmp_path: Path
) -> None:
    environment = {failpoints.VARIABLE: "after_lunch:kill"}
    worker = WorkerProcess(redis_server.url, LOAD, tmp_path / "worker", ledger, environment=environment).start()
    try:
        assert await worker.exit_code() == 2
    finally:
        await worker.close()
    [line] = worker.logs("worker.misconfigured")
    assert "after_lunch" in line["error"]
    assert all(place in line["error"] for place in get_args(failpoints.Place))
