"""Workers that are killed: nothing is lost, and what they were running is restarted soon."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import time
from collections import Counter

import pytest

from streamtask import App
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Job, Ledger, dead_letters, emitted, nothing_pending, publish, until
from tests.processes import lives
from tests.servers import RedisServer

SLEEPER = """
@app.on(Job)
async def sleeper(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    # Of different lengths: slots become free one by one, never all at once.
    await asyncio.sleep(0.1 + job.n % 20 / 100)
    note("end", job.n, ctx.attempt)
"""

#: The load that kills are counted under: short, a hundredth fails at first.
STANDARD = """
@app.on(Job, retry=Retry(3, backoff=0.1))
async def standard(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt)
    await asyncio.sleep(job.n % 20 / 1000)
    if job.n % 100 == 99 and ctx.attempt == 1:
        raise ValueError("again")
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)
"""

#: Runs until the test opens the gate.
HELD = """
@app.on(Job)
async def held(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    await gate("go")
    note("end", job.n, ctx.attempt)
"""


@one_server
async def test_with_one_of_two_workers_killed_every_event_is_handled_and_what_it_ran_is_restarted_soon(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, n = redis_server.url, 5000
    victim = await start_worker(url, SLEEPER, concurrency=100)
    # Smaller, so that it has a backlog for all this time: what was running comes before what has not begun.
    survivor = await start_worker(url, SLEEPER, concurrency=50)
    victims, others = set(await victim.child_pids()), set(await survivor.child_pids())
    await publish(url, [Job(n=number) for number in range(n)])
    await until(lambda: sum(pid in victims for _, pid in ledger.running()) >= 95, 10)

    await victim.kill_whole()
    killed = time.monotonic()
    in_flight = {key for key, pid in ledger.running() if pid in victims}
    await until(lambda: len(ledger.count("end")) == n, 60)
    await nothing_pending(url)

    again = [line for line in ledger.lines("start") if line.pid in others and line.key in in_flight]
    restarted = sorted(line.at - killed for line in again)
    measured("in flight when killed", len(in_flight))
    measured("seconds until restarted, p95", statistics.quantiles(restarted, n=20)[-1])
    measured("seconds until restarted, last", restarted[-1])
    assert len(in_flight) >= 50
    assert len(restarted) == len(in_flight)
    assert statistics.quantiles(restarted, n=20)[-1] < 15
    # Run twice is only what the victim had started and cannot have acked.
    started_by_victim = {line.key for line in ledger.lines("start") if line.pid in victims and line.at > killed - 2}
    assert {key for key, runs in ledger.count("start").items() if runs > 1} <= started_by_victim
    assert {line.attempt for line in ledger.lines()} == {1}
    assert await dead_letters(url, "jobs") == []


async def test_what_a_killed_child_ran_is_restarted_at_once_by_another_worker(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    worker = await start_worker(url, HELD, processes=2, concurrency=100)
    await publish(url, [Job(n=number) for number in range(100)])
    await until(lambda: len(ledger.running()) == 100, 10)

    pid = await worker.kill_child()
    killed = time.monotonic()
    in_flight = {key for key, runner in ledger.running() if runner == pid}
    await until(lambda: _started_after(ledger, killed) >= in_flight, 15)
    last = max(line.at for line in ledger.lines("start"))
    ledger.open_gate("go")
    await until(lambda: len(ledger.count("end")) == 100, 10)
    await nothing_pending(url)

    measured("in flight when killed", len(in_flight))
    measured("seconds until all were restarted", last - killed)
    assert last - killed < 5
    assert set(ledger.count("end").values()) == {1}
    assert {line.attempt for line in ledger.lines()} == {1}


async def test_what_the_only_child_ran_is_restarted_by_its_replacement(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    worker = await start_worker(url, HELD, concurrency=100)
    await publish(url, [Job(n=number) for number in range(100)])
    await until(lambda: len(ledger.running()) == 100, 10)

    await worker.kill_child()
    killed = time.monotonic()
    await until(lambda: len(_started_after(ledger, killed)) == 100, 15)
    last = max(line.at for line in ledger.lines("start"))
    ledger.open_gate("go")
    await nothing_pending(url)

    measured("seconds until all were restarted", last - killed)
    assert last - killed < 5
    assert ledger.count("end") == {str(n): 1 for n in range(100)}
    assert len(await worker.child_pids()) == 1


async def test_a_supervisor_killed_alone_takes_its_children_with_it_and_their_events_are_restarted_elsewhere(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    worker = await start_worker(url, HELD, processes=2, concurrency=50)
    children = await worker.child_pids()
    await publish(url, [Job(n=number) for number in range(20)])
    await until(lambda: len(ledger.running()) == 20, 10)
    await start_worker(url, HELD)

    os.kill(worker.supervisor_pid, signal.SIGKILL)
    killed = time.monotonic()
    await until(lambda: not any(lives(pid) for pid in children), 5, every=0.001)
    measured("seconds until the children had ended", time.monotonic() - killed)
    await until(lambda: len(_started_after(ledger, killed)) == 20, 30)
    measured("seconds until all were restarted", max(line.at for line in ledger.lines("start")) - killed)
    ledger.open_gate("go")
    await nothing_pending(url)

    assert ledger.count("end") == {str(n): 1 for n in range(20)}


def _started_after(ledger: Ledger, moment: float) -> set[str]:
    return {line.key for line in ledger.lines("start") if line.at > moment}


@one_server
@pytest.mark.timeout(600 if LONG else 120)
async def test_workers_killed_at_random_all_the_time_lose_nothing_and_double_nothing(
    redis_server: RedisServer,
    start_worker: StartWorker,
    ledger: Ledger,
    measured: Measured,
    chance: random.Random,
) -> None:
    url, n, slots = redis_server.url, 50_000 if LONG else 5000, 8
    workers = [await start_worker(url, STANDARD, processes=2, concurrency=slots, lease=5.0) for _ in range(2)]
    in_flight = []
    publishing = asyncio.create_task(_publish_slowly(url, n, seconds=60.0 if LONG else 10.0))
    # On a slow machine longer than that, until it is as much as is asked for.
    while not publishing.done() or len(in_flight) < 10:
        await asyncio.sleep(0.5)
        worker = chance.choice(workers)
        victims = await worker.child_pids()
        if victims:
            victim = chance.choice(victims)
            os.kill(victim, signal.SIGKILL)
            in_flight.append(sum(pid == victim for _, pid in ledger.running()))
    await publishing
    quiet = time.monotonic()
    await until(lambda: len(ledger.count("end")) == n, 60)
    await nothing_pending(url, within=30)

    extra = ledger.count("start").total() - n - sum(number % 100 == 99 for number in range(n))
    measured("workers killed", len(in_flight))
    measured("of those, with handlers in flight", sum(count > 0 for count in in_flight))
    measured("handlers in flight when killed", sum(in_flight))
    measured("extra runs", extra)
    measured("seconds until all was settled", time.monotonic() - quiet)
    assert len(in_flight) >= 10
    assert Counter(each["n"] for each in await emitted(url, "made")) == dict.fromkeys(range(n), 1)
    assert await dead_letters(url, "jobs") == []
    assert extra <= len(in_flight) * slots


async def _publish_slowly(url: str, n: int, *, seconds: float) -> None:
    batch = 100
    async with App("chaos", broker=url) as app:
        for first in range(0, n, batch):
            await app.publish_many([Job(n=number) for number in range(first, first + batch)])
            await asyncio.sleep(seconds * batch / n)
