"""A server that answers and does not do what it is asked: it loads, is busy, wants replicas, pauses, hangs up."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise

import pytest
import redis

from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.oracle import LOAD, LONG_RUNNING, Task, consuming_again, each_event_once, no_suspects, words_of
from tests.chaos.workers import LONG, Job, Ledger, Publisher, nothing_pending, publish, until
from tests.servers import RedisServer

#: Seconds that the server refuses.
SECONDS = 10.0 if LONG else 2.0


async def _busy(server: RedisServer) -> None:
    """A script of somebody else's runs on and on, until somebody ends it: all others are told BUSY."""
    admin = server.client(socket_timeout=60.0)
    admin.config_set("lua-time-limit", 100)
    running = asyncio.create_task(asyncio.to_thread(admin.eval, "while true do end", 0))
    await asyncio.sleep(SECONDS)
    server.client().script_kill()
    with suppress(redis.ResponseError):
        await running


async def _without_replicas(server: RedisServer) -> None:
    """It takes no writes without a replica: NOREPLICAS."""
    server.client().config_set("min-replicas-to-write", 1)
    await asyncio.sleep(SECONDS)
    server.client().config_set("min-replicas-to-write", 0)


async def _paused(server: RedisServer) -> None:
    """It lets all commands wait: CLIENT PAUSE."""
    server.client().client_pause(round(SECONDS * 1000))
    await asyncio.sleep(SECONDS)


async def _hanging_up(server: RedisServer) -> None:
    """It closes connections that were idle for a second."""
    server.client().config_set("timeout", 1)
    await asyncio.sleep(2 * SECONDS)
    server.client().config_set("timeout", 0)


@one_server
@pytest.mark.timeout(600 if LONG else 180)
async def test_a_server_that_refuses_for_a_while_costs_time_and_nothing_else(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = private_redis.url
    workers = [await start_worker(url, LONG_RUNNING, concurrency=20, lease=3.0) for _ in range(2)]
    await publish(url, [Task(n=n) for n in range(10)])
    await until(lambda: len(ledger.lines("long")) == 10, 10)
    refusals: list[Callable[[RedisServer], Awaitable[None]]] = [_busy, _without_replicas, _paused, _hanging_up]
    async with Publisher(url) as publisher:
        for refuse in refusals:
            before, words, name = time.monotonic(), words_of(workers), refuse.__name__.strip("_").replace("_", " ")
            await refuse(private_redis)
            wait = await consuming_again(ledger, publisher, 15)
            told = (words_of(workers) - words).total() / len(workers) / (time.monotonic() - before)
            measured(f"{name}: seconds until consuming again", wait)
            measured(f"{name}: log lines a second and worker", told)
            assert wait < 8
            assert told < 5
        measured("publishes that raised", publisher.raised.total())
        # Time for whoever would take the long ones over.
        await asyncio.sleep(4.0)
        ledger.open_gate("go")

    await nothing_pending(url, "tasks")
    assert ledger.count("long") == ledger.count("long-end") == {str(n): 1 for n in range(10)}
    await each_event_once(url, ledger, publisher, measured, long_ones=10)
    assert [line for worker in workers for line in worker.logs("lease_lost")] == []
    no_suspects(workers)


@one_server
@pytest.mark.timeout(600 if LONG else 120)
async def test_a_server_that_loads_its_data_is_waited_for_by_those_who_work_and_by_those_who_start(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = private_redis.url
    worker = await start_worker(url, LOAD, concurrency=20)
    admin = private_redis.client()
    # What was rewritten is loaded key by key, with a pause after each; a server looks up from it every 2 MiB.
    for n in range(600):
        admin.set(f"ballast:{n}", os.urandom(100_000))
    admin.bgrewriteaof()
    await until(lambda: _has_rewritten(admin), 10)
    async with Publisher(url) as publisher:
        private_redis.kill()
        private_redis.start("--key-load-delay", "8000", wait=False)
        await until(lambda: _is_loading(private_redis), 10)
        loading = time.monotonic()
        newcomer = asyncio.create_task(start_worker(url, LOAD, concurrency=20))
        await asyncio.to_thread(private_redis.wait_until_ready)
        measured("seconds of loading", time.monotonic() - loading)
        measured("seconds until consuming again", await consuming_again(ledger, publisher, 15))
        newer = await newcomer

    assert time.monotonic() - loading > 2
    assert newer.logs("worker.waits_for_broker")
    await each_event_once(url, ledger, publisher, measured)
    no_suspects([worker, newer])


def _has_rewritten(admin: redis.Redis) -> bool:
    # It may be put off first, while another child of the server writes.
    state = admin.info("persistence")
    return not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]


def _is_loading(server: RedisServer) -> bool:
    try:
        server.client().ping()
    except redis.BusyLoadingError:
        return True
    except redis.RedisError:
        return False
    return False


#: The time of day of this worker is another each time that it is asked for.
LOST_IN_TIME = """
import random

_chance, _time = random.Random(int(os.environ["CHAOS_SEED"])), time.time
time.time = lambda: _time() + _chance.uniform(-3600.0, 3600.0)


@app.on(Job, retry=Retry(3, backoff=1.0))
async def handle(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt)
    if job.kind == "fails" and ctx.attempt < 3:
        raise ValueError("again")
    await asyncio.sleep(4.0 if job.kind == "long" else 0.0)
    if job.kind == "emits":
        note("emitted", job.n)
        ctx.emit(Job(n=job.n + 1000), delay=1.0)
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)
"""


@one_server
async def test_a_worker_whose_clock_jumps_by_hours_keeps_its_leases_its_retries_and_its_delays(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    workers = [
        await start_worker(url, LOST_IN_TIME, concurrency=20, lease=1.5, environment={"CHAOS_SEED": str(seed)})
        for seed in range(2)
    ]
    kinds = ["long"] * 10 + ["fails"] * 10 + ["emits"] * 10
    await publish(url, [Job(n=n, kind=kind) for n, kind in enumerate(kinds)])
    await until(lambda: len(ledger.count("end")) == 40, 20)
    await nothing_pending(url)

    runs = {str(n): 3 if kind == "fails" else 1 for n, kind in enumerate(kinds)} | {
        str(n + 1000): 1 for n in range(20, 30)
    }
    assert ledger.count("start") == runs
    starts = [[line.at for line in ledger.lines("start") if line.key == str(n)] for n in range(10, 20)]
    pauses = [later - earlier for run in starts for earlier, later in pairwise(run)]
    emitted_at = {line.key: line.at for line in ledger.lines("emitted")}
    delays = [
        line.at - emitted_at[str(int(line.key) - 1000)] for line in ledger.lines("start") if int(line.key) >= 1000
    ]
    measured("seconds between two runs that are 1 s apart, longest", max(pauses))
    measured("seconds of a delay of 1 s, longest", max(delays))
    assert 0.99 < min(pauses) <= max(pauses) < 4
    assert 0.99 < min(delays) <= max(delays) < 4
    assert [line for worker in workers for line in worker.logs("lease_lost")] == []
    no_suspects(workers)
