"""`ordered_by` and concurrency across workers: what holds while workers are killed and handlers fail."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from random import Random

import pytest

from streamtask import Event
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Job, Ledger, Line, Made, nothing_pending, publish, until
from tests.servers import RedisServer

#: Seconds within which what a killed worker held is taken up again.
TAKEN_UP = 10.0

ORDERED = """
@app.on(Job, ordered_by="kind", retry=Retry(4, backoff=0.05))
async def handle(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt, by=job.kind)
    await asyncio.sleep(job.n % 7 / 1000)
    if job.n % 10 == 3 and ctx.attempt == 1:
        raise ValueError("fails once")
    note("end", job.n, ctx.attempt, by=job.kind)
    if job.n % 40 == 7:
        raise Reject("given up")
    return Made(n=job.n)
"""

LIMITED = """
from streamtask import Concurrency

@app.on(Job, concurrency=Concurrency(3, per="kind"), retry=Retry(4, backoff=0.05))
async def handle(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt, by=job.kind)
    await asyncio.sleep(0.7 if job.kind.startswith("held") else job.n % 7 / 200)
    note("end", job.n, ctx.attempt, by=job.kind)
    if job.n % 10 == 3 and ctx.attempt == 1:
        raise ValueError("fails once")
"""

QUICK = """
from streamtask import Concurrency


class Plain(Event, stream="plain"):
    n: int


@app.on(Plain)
async def plain(event: Plain) -> None:
    note("plain", event.n)


@app.on(Job, ordered_by="kind")
async def ordered(job: Job) -> None:
    note("ordered", job.n, by=job.kind)


@app.on(Made, concurrency=Concurrency(1))
async def alone(made: Made) -> None:
    note("start", made.n, by="all")
    await asyncio.sleep(0)
    note("end", made.n, by="all")
"""


SLOW = """
@app.on(Job, ordered_by="kind")
async def handle(job: Job) -> None:
    await asyncio.sleep(0.04)
    note("end", job.n)
"""


class Plain(Event, stream="plain"):
    """What goes through no gate."""

    n: int


@one_server
@pytest.mark.timeout(600 if LONG else 100)
async def test_the_order_of_each_key_holds_through_retries_and_kills(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, chance: Random, measured: Measured
) -> None:
    url = redis_server.url
    keys, n, kills = (100, 10_000, 40) if LONG else (20, 600, 3)
    worker = await start_worker(url, ORDERED, concurrency=20, processes=2)
    jobs = [Job(n=number, kind=f"k{chance.randrange(keys)}") for number in range(n)]
    publishing = asyncio.create_task(_publish_slowly(url, jobs))
    for _ in range(kills):
        await asyncio.sleep(0.5)
        await until(worker.child_pids, 20)
        os.kill(chance.choice(await worker.child_pids()), signal.SIGKILL)
    await publishing
    await nothing_pending(url, within=200 if LONG else 60)

    starts = _starts_by_key(ledger.lines("start"))
    assert sum(len(set(of_key)) for of_key in starts.values()) == n
    for key, of_key in starts.items():
        # Whoever ran twice did so before the next one began.
        assert of_key == sorted(of_key), key
    _assert_each_ended_before_the_next_began(ledger.lines())
    measured("keys", len(starts))
    measured("events", n)
    measured("kills", kills)
    measured("runs beside the first", len(ledger.lines("start")) - n)


@one_server
@pytest.mark.timeout(600 if LONG else 100)
async def test_no_key_has_more_at_a_time_than_its_limit_while_workers_are_killed(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, chance: Random, measured: Measured
) -> None:
    url = redis_server.url
    keys, n, kills = (100, 10_000, 40) if LONG else (10, 500, 3)
    first, second = await asyncio.gather(*(start_worker(url, LIMITED, concurrency=30) for _ in range(2)))
    jobs = [Job(n=number, kind=f"k{chance.randrange(keys)}") for number in range(n)]
    publishing = asyncio.create_task(_publish_slowly(url, jobs[: n // 2]))
    killed: dict[int, float] = {}

    async def child() -> list[int]:
        return [pid for pid in await second.child_pids() if pid not in killed]

    for _ in range(kills):
        await asyncio.sleep(0.5)
        await until(child, 20)
        for pid in await child():
            killed[pid] = time.monotonic()
            os.kill(pid, signal.SIGKILL)
    await publishing
    # At last one of which nobody is left who could hand anything back.
    await until(child, 20)
    [last] = await child()
    await nothing_pending(url, within=60)
    held_jobs = [Job(n=n + number, kind=f"held {number % 10}") for number in range(40)]
    publishing = asyncio.create_task(_publish_slowly(url, held_jobs, at_once=1))
    await until(lambda: sum(pid == last and int(key) >= n for key, pid in ledger.running()) >= 3, 20)
    killed[last] = time.monotonic()
    await second.kill_whole()
    await publishing
    await publish(url, jobs[n // 2 :])
    held = {key for key, pid in ledger.running() if pid == last}
    await nothing_pending(url, within=200 if LONG else 60)

    assert len(ledger.count("start")) == n + len(held_jobs)
    most = _most_at_a_time(ledger.lines(), killed)
    measured("most of one key at a time, of 3", max(most.values()))
    assert max(most.values()) == 3
    taken = [line.at for line in ledger.lines("start") if line.key in held and line.pid != last]
    waited = max(taken, default=killed[last]) - killed[last]
    measured("places that the last one left", len(held))
    measured("seconds until the last of them was taken", waited)
    assert waited < TAKEN_UP
    assert len(await first.child_pids()) == 1


@one_server
async def test_a_burst_does_not_end_while_events_queue(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    await publish(redis_server.url, [Job(n=number, kind="k") for number in range(30)])
    worker = await start_worker(redis_server.url, SLOW, burst=True)

    assert await worker.exit_code() == 0
    assert [line.key for line in ledger.lines("end")] == [str(number) for number in range(30)]


@one_server
async def test_gates_let_events_through_quickly_and_are_forgotten_behind_them(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, n = redis_server.url, 20_000 if LONG else 2000
    await start_worker(url, QUICK, concurrency=100, processes=2)

    async def time_until_handled(called: str, what: str, events: Sequence[Event]) -> None:
        expected = len(ledger.lines(what)) + len(events)
        began = time.monotonic()
        await publish(url, events)
        await until(lambda: len(ledger.lines(what)) == expected, 60, every=0.005)
        measured(f"events a second, {called}", len(events) / (time.monotonic() - began))

    await time_until_handled("through no gate", "plain", [Plain(n=number) for number in range(n)])
    for keys in (n, 100, 1):
        jobs = [Job(n=number, kind=f"{keys} {number % keys}") for number in range(n)]
        await time_until_handled(f"ordered by {keys} keys", "ordered", jobs)
    alone = [Made(n=number) for number in range(n // 4)]
    await time_until_handled("one at a time across two workers", "end", alone)
    await nothing_pending(url)
    await nothing_pending(url, "made")

    for key, of_key in _starts_by_key(ledger.lines("ordered")).items():
        assert of_key == sorted(set(of_key)), key
    assert _most_at_a_time(ledger.lines(), {}) == {"all": 1}
    kept = [f"{{stream:{name}}}:{what}:chaos" for name in ("jobs", "made") for what in ("gates", "queued", "history")]
    assert redis_server.client().exists(*kept) == 0


async def _publish_slowly(url: str, jobs: Sequence[Job], *, at_once: int = 50) -> None:
    for start in range(0, len(jobs), at_once):
        await publish(url, jobs[start : start + at_once])
        await asyncio.sleep(0.1 if at_once > 1 else 0.02)


def _starts_by_key(lines: Sequence[Line]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        found[line.more["by"]].append(int(line.key))
    return found


def _assert_each_ended_before_the_next_began(lines: Sequence[Line]) -> None:
    last: dict[str, str] = {}
    ended: set[str] = set()
    for line in lines:
        by = line.more["by"]
        if line.what == "end":
            ended.add(line.key)
        elif last.setdefault(by, line.key) != line.key:
            assert last[by] in ended, (by, last[by], line)
            last[by] = line.key


def _most_at_a_time(lines: Sequence[Line], killed: Mapping[int, float]) -> dict[str, int]:
    """Of each key, how many ran at a time at most; what a killed process ran ended when it was killed."""
    ends = {(line.key, line.attempt, line.pid): line.at for line in lines if line.what == "end"}
    changes = []
    for line in lines:
        if line.what == "start":
            end = ends.get((line.key, line.attempt, line.pid), killed.get(line.pid, float("inf")))
            changes += [(line.at, 1, line.more["by"]), (end, -1, line.more["by"])]
    running: dict[str, int] = defaultdict(int)
    most: dict[str, int] = defaultdict(int)
    for _, change, by in sorted(changes):
        running[by] += change
        most[by] = max(most[by], running[by])
    return dict(most)
