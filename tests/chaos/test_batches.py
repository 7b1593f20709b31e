"""Batches whose worker dies, whose leases are lost, or that hold what kills: the effects of each event count once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter

import pytest

from streamtask import App, Batch, BatchContext
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Job, Ledger, Made, dead_letters, emitted, nothing_pending, publish, until
from tests.servers import RedisServer

STANDARD = """
from streamtask import Batch, BatchContext, BatchError


@app.on(batch=Batch(20, wait=0.05), retry=Retry(3, backoff=0.1))
async def standard(jobs: list[Job], ctx: BatchContext) -> None:
    for job in jobs:
        note("start", job.n)
    await asyncio.sleep(0.05)
    failed = {}
    for place, job in enumerate(jobs):
        if job.n % 100 == 99 and ctx.attempts[place] == 1:
            failed[place] = ValueError("again")
        else:
            ctx.emit(Made(n=job.n))
    for job in jobs:
        note("end", job.n)
    if failed:
        raise BatchError(failed)
"""

POISON = """
from streamtask import Batch


@app.on(batch=Batch(10, wait=0.2))
async def handle(jobs: list[Job]) -> None:
    note("start", len(jobs))
    await asyncio.sleep(0.05)
    if any(job.kind == "poison" for job in jobs):
        os._exit(9)
    for job in jobs:
        note("end", job.n)
"""

IN_PROCESSES = """
from streamtask import Batch, BatchContext, BatchError


@app.on(Job, batch=Batch(10, wait=0.2), pool="process", retry=Retry(3, backoff=0.1), timeout=5, concurrency=1)
def handle(jobs, ctx: BatchContext):
    note("start", len(jobs), more_attempts=ctx.attempts)
    if any(job.kind == "dies" for job in jobs):
        os._exit(9)
    failed = {place: ValueError("bad") for place, job in enumerate(jobs) if job.kind == "fails"}
    for job in jobs:
        note("end", job.n)
        if job.kind != "fails":
            ctx.emit(Made(n=job.n))
    if failed:
        raise BatchError(failed)
"""


@one_server
@pytest.mark.timeout(600 if LONG else 120)
async def test_batches_of_workers_killed_at_random_lose_nothing_and_double_nothing(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured, chance: random.Random
) -> None:
    url, n = redis_server.url, 30_000 if LONG else 2000
    workers = [await start_worker(url, STANDARD, processes=2, concurrency=4, lease=5.0) for _ in range(2)]
    in_flight = []
    publishing = asyncio.create_task(_publish_slowly(url, n, seconds=45.0 if LONG else 3.0))
    while not publishing.done():
        await asyncio.sleep(0.5)
        victims = await chance.choice(workers).child_pids()
        if victims:
            victim = chance.choice(victims)
            os.kill(victim, signal.SIGKILL)
            in_flight.append(sum(pid == victim for _, pid in ledger.running()))
    await publishing
    quiet = time.monotonic()
    await until(lambda: len(ledger.count("end")) == n, 60)
    await nothing_pending(url, within=30)

    measured("workers killed", len(in_flight))
    measured("events in batches that ran when killed", sum(in_flight))
    measured("seconds until all was settled", time.monotonic() - quiet)
    assert sum(in_flight) > 0
    assert Counter(each["n"] for each in await emitted(url, "made")) == dict.fromkeys(range(n), 1)
    assert await dead_letters(url, "jobs") == []


async def _publish_slowly(url: str, n: int, *, seconds: float) -> None:
    chunk = 100
    async with App("chaos", broker=url) as app:
        for first in range(0, n, chunk):
            await app.publish_many([Job(n=number) for number in range(first, first + chunk)])
            await asyncio.sleep(seconds * chunk / n)


@one_server
async def test_an_event_that_kills_its_batch_is_given_up_alone(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    await start_worker(url, POISON, concurrency=2)
    await publish(url, [Job(n=n, kind="poison" if n == 7 else "") for n in range(30)])

    await until(lambda: len(ledger.count("end")) == 29, 60)
    await nothing_pending(url, within=30)

    [letter] = await dead_letters(url, "jobs")
    assert letter.reason == "worker_lost"
    assert json.loads(letter.fields[1])["payload"]["n"] == 7
    # Twice with the others of its batch, and then alone; and so were they.
    assert max(int(line.key) for line in ledger.lines("start")[-3:]) <= 10
    assert ledger.count("start")["1"] >= 10


@one_server
async def test_a_batch_in_a_child_process_fails_singly_emits_and_outlives_what_kills_it(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url, kinds = redis_server.url, {3: "fails", 14: "dies"}
    await start_worker(url, IN_PROCESSES)
    await publish(url, [Job(n=n, kind=kinds.get(n, "")) for n in range(20)])

    await until(lambda: len(ledger.count("end")) == 19, 30)
    await nothing_pending(url, within=30)

    assert sorted(each["n"] for each in await emitted(url, "made")) == [n for n in range(20) if n not in kinds]
    letters = {
        json.loads(letter.fields[1])["payload"]["n"]: letter.reason for letter in await dead_letters(url, "jobs")
    }
    assert letters == {3: "max_attempts", 14: "worker_lost"}
    assert ledger.count("start")["10"] >= 2


@one_server
async def test_a_batch_of_which_one_event_was_taken_over_changes_nothing_and_the_others_run_again(
    redis_server: RedisServer,
) -> None:
    app, lists, gate = App("chaos", broker=redis_server.url), [], asyncio.Event()

    @app.on(batch=Batch(3, wait=1))
    async def handle(jobs: list[Job], ctx: BatchContext) -> Made:
        lists.append(sorted(job.n for job in jobs))
        assert set(ctx.attempts) == {1}
        await gate.wait()
        return Made(n=len(jobs))

    client = redis_server.client()
    async with app.worker() as worker:
        await app.publish_many([Job(n=n) for n in range(3)])
        await until(lambda: lists, 5)
        [_, second, _] = client.xpending_range("stream:jobs", "chaos", "-", "+", 10)
        client.xclaim("stream:jobs", "chaos", "~thief", 0, [second["message_id"]])
        gate.set()
        await until(lambda: len(lists) == 2, 10)
        await until(lambda: not worker._flow.held, 5)
        await worker._endings.settler.drained()

    assert lists == [[0, 1, 2], [0, 2]]
    assert [each["n"] for each in await emitted(redis_server.url, "made")] == [2]


@one_server
@pytest.mark.timeout(300 if LONG else 60)
async def test_batches_drain_a_stream_no_slower_than_single_events(
    redis_server: RedisServer, measured: Measured
) -> None:
    url, n, rounds = redis_server.url, 100_000 if LONG else 5000, 6
    rates: dict[str, float] = {}
    for number in range(rounds):
        for kind in ("single", "batch"):
            rates[kind] = max(rates.get(kind, 0.0), await _drain(url, kind, n, group=f"{kind}-{number}"))

    for kind, rate in rates.items():
        measured(f"events a second, {kind}", rate)
    # Half: of one moment's noise this is a bound, of a batch that waits for something it is none.
    assert rates["batch"] > rates["single"] / 2


async def _drain(url: str, kind: str, n: int, *, group: str) -> float:
    """Events a second of a handler that does nothing, in a new group."""
    app, handled = App("chaos", broker=url), 0

    async def one(job: Job) -> None:
        nonlocal handled
        handled += 1

    async def many(jobs: list[Job]) -> None:
        nonlocal handled
        handled += len(jobs)

    if kind == "batch":
        app.on(group=group, start="latest", batch=Batch(100, wait=0.5))(many)
    else:
        app.on(group=group, start="latest")(one)
    async with app:
        for sub in app.broker.catalog.subscriptions():
            await app.transport.register(sub)
        await app.publish_many([Job(n=number) for number in range(n)])
        async with app.worker() as worker:
            began = time.monotonic()
            await until(lambda: handled == n, 60, every=0.002)
            await worker._endings.settler.drained()
            return n / (time.monotonic() - began)
