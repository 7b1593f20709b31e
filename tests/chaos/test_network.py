"""A network that resets, falls silent, is slow or loses replies: nothing is lost or doubled, and workers go on.

Workers and publisher reach the server through a proxy (`tests/proxy.py`); the account is taken from the server itself.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from streamtask import App
from streamtask.errors import PublishError
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.oracle import LOAD, LONG_RUNNING, Task, consuming_again, each_event_once, no_suspects
from tests.chaos.workers import LONG, Job, Ledger, Publisher, emitted, nothing_pending, publish, until
from tests.proxy import Proxy
from tests.servers import RedisServer


@pytest.fixture
async def proxy(private_redis: RedisServer, chance: random.Random) -> AsyncIterator[Proxy]:
    """A network in front of the test's own server."""
    async with Proxy(private_redis.socket, chance) as proxy:
        yield proxy


@one_server
@pytest.mark.timeout(600 if LONG else 180)
async def test_connections_reset_at_any_byte_lose_nothing_and_double_nothing(
    private_redis: RedisServer, proxy: Proxy, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    workers = [await start_worker(proxy.url, LOAD, concurrency=20) for _ in range(2)]
    async with Publisher(proxy.url, lanes=3) as publisher:
        for _ in range(60 if LONG else 20):
            resets = proxy.resets
            while proxy.resets == resets:
                proxy.reset_one()
                await asyncio.sleep(0.5 if LONG else 0.2)
        wait = await consuming_again(ledger, publisher, 15)

    measured("connections that were reset", proxy.resets)
    measured("seconds until consuming again", wait)
    await each_event_once(private_redis.url, ledger, publisher, measured)
    # A publish under way, and one that came upon the ruins.
    assert publisher.raised.total() <= 2 * proxy.resets
    no_suspects(workers)


@one_server
@pytest.mark.timeout(600 if LONG else 180)
async def test_a_network_that_falls_silent_is_noticed_by_both_sides_and_a_worker_behind_it_changes_nothing(
    private_redis: RedisServer, proxy: Proxy, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = private_redis.url
    behind = await start_worker(proxy.url, LONG_RUNNING, concurrency=20, lease=3.0)
    pids = set(await behind.child_pids())
    await publish(url, [Task(n=n) for n in range(10)])
    await until(lambda: len(ledger.lines("long")) == 10, 10)
    other = await start_worker(url, LONG_RUNNING, concurrency=20, lease=3.0)
    async with Publisher(proxy.url) as publisher:
        await until(lambda: any(line.pid in pids for line in ledger.lines("end")), 10)
        proxy.fall_silent()
        silent, raised = time.monotonic(), publisher.raised.total()
        await until(lambda: publisher.raised.total() > raised, 15)
        measured("seconds until a publish raised", time.monotonic() - silent)
        await until(lambda: behind.logs("fetch.failed"), 15)
        measured("seconds until the blocked read was given up", time.monotonic() - silent)
        # The other one takes over what runs behind the silence, whose runs end before they know.
        await until(lambda: len(ledger.lines("long")) == 20, 30)
        measured("seconds until the running handlers were taken over", time.monotonic() - silent)
        ledger.open_gate("go")
        await until(lambda: len(ledger.lines("long-end")) == 20, 10)
        if LONG:
            await asyncio.sleep(max(0.0, silent + 60.0 - time.monotonic()))
        proxy.heal()
        healed = time.monotonic()
        await consuming_again(ledger, publisher, 15)
        await until(lambda: any(line.pid in pids and line.at > healed for line in ledger.lines("end")), 15)
        measured("seconds until the worker consumed again, from healing", time.monotonic() - healed)
        assert time.monotonic() - healed < 12

    await nothing_pending(url, "tasks", within=20)
    # It is told of each that was taken from it, and commits nothing of it.
    await until(lambda: len(behind.logs("lease_lost")) >= 10, 15)
    await each_event_once(url, ledger, publisher, measured, long_ones=10)
    no_suspects([behind, other])


@one_server
@pytest.mark.timeout(600 if LONG else 180)
async def test_a_slow_and_lossy_network_costs_time_and_no_lease(
    private_redis: RedisServer, proxy: Proxy, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, seconds = private_redis.url, 60.0 if LONG else 4.0
    behind = await start_worker(proxy.url, LONG_RUNNING, concurrency=20, lease=6.0)
    pids = set(await behind.child_pids())
    await publish(url, [Task(n=n) for n in range(10)])
    await until(lambda: len(ledger.lines("long")) == 10, 10)
    # It would take over what it could.
    await start_worker(url, LONG_RUNNING, concurrency=20, lease=6.0)
    async with Publisher(url, every=0.02) as publisher:
        # One way each: round trips of 200 ms, give or take 150.
        proxy.latency, proxy.jitter = 0.1, 0.075
        measured("events handled behind it with a latency of 200 ms", await _handled(ledger, pids, seconds))
        proxy.latency, proxy.jitter, proxy.loss = 0.02, 0.01, 0.05
        measured("events handled behind it with one segment of 20 lost", await _handled(ledger, pids, seconds))
        proxy.loss, proxy.bandwidth = 0.0, 1000.0
        measured("events handled behind it with 1 kB a second", await _handled(ledger, pids, seconds))
        proxy.latency, proxy.jitter, proxy.bandwidth = 0.0, 0.0, None
        ledger.open_gate("go")

    await nothing_pending(url, "tasks", within=30)
    assert ledger.count("long") == ledger.count("long-end") == {str(n): 1 for n in range(10)}
    assert behind.logs("lease_lost") == []
    await each_event_once(url, ledger, publisher, measured, long_ones=10)
    no_suspects([behind])


async def _handled(ledger: Ledger, pids: set[int], seconds: float) -> int:
    """How many events these processes handle in so many seconds."""

    def count() -> int:
        return sum(line.pid in pids for line in ledger.lines("end"))

    before = count()
    await asyncio.sleep(seconds)
    return count() - before


@one_server
@pytest.mark.timeout(600 if LONG else 180)
async def test_a_publish_whose_reply_was_lost_is_stored_once_when_it_is_published_again(
    private_redis: RedisServer, proxy: Proxy, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, n = private_redis.url, 500 if LONG else 200
    await start_worker(url, LOAD)
    tries = 0
    # The first try of each is an XADD, later ones are a script; some of those lose their replies, too.
    proxy.loses = lambda request: b"XADD" in request or (b"EVALSHA" in request and proxy.chance.random() < 0.3)
    async with App("chaos", broker=proxy.url) as app:
        for number in range(n):
            event_id = None
            while True:
                tries += 1
                try:
                    await app.publish(Job(n=number), event_id=event_id)
                    break
                except PublishError as error:
                    event_id = error.event_id

    measured("events", n)
    measured("replies lost", proxy.resets)
    assert proxy.resets >= n
    assert tries == n + proxy.resets
    assert private_redis.client().xlen("stream:jobs") == n
    await until(lambda: len(ledger.count("end")) == n, 20)
    await nothing_pending(url)
    assert ledger.count("start") == {str(number): 1 for number in range(n)}
    assert sorted(each["n"] for each in await emitted(url, "made")) == list(range(n))


@one_server
@pytest.mark.timeout(120)
async def test_a_reply_that_takes_longer_than_any_command_may_arrives_all_the_same(
    private_redis: RedisServer, proxy: Proxy, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = private_redis.url
    worker = await start_worker(proxy.url, LOAD, concurrency=50)
    # All that a free worker takes at once: a megabyte, for which this network needs ten seconds.
    proxy.bandwidth = 100_000.0
    began = time.monotonic()
    await publish(url, [Job(n=n, kind="x" * 20_000) for n in range(50)])

    await until(lambda: len(ledger.count("end")) == 50, 60)
    measured("seconds until all were handled", time.monotonic() - began)
    await nothing_pending(url)
    assert set(ledger.count("start").values()) == {1}
    assert worker.logs("fetch.failed") == []


@one_server
@pytest.mark.timeout(600 if LONG else 180)
async def test_replies_of_any_kind_may_be_lost_after_the_command_has_run(
    private_redis: RedisServer, proxy: Proxy, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    workers = [await start_worker(proxy.url, LOAD, concurrency=20) for _ in range(2)]
    async with Publisher(proxy.url, lanes=3) as publisher:
        # What was fetched, claimed, settled, renewed, published: it has happened, and nobody was told.
        proxy.loses = lambda request: b"HELLO" not in request and proxy.chance.random() < 0.05
        await asyncio.sleep(60.0 if LONG else 6.0)
        proxy.loses = None
        wait = await consuming_again(ledger, publisher, 15)

    measured("replies lost", proxy.resets)
    measured("seconds until consuming again", wait)
    measured("settlements whose reply was lost", sum(len(worker.logs("settle.unconfirmed")) for worker in workers))
    await each_event_once(private_redis.url, ledger, publisher, measured)
    assert proxy.resets > 20
    no_suspects(workers)
