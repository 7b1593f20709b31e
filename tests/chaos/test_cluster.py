"""A Redis Cluster under load: slots that move, nodes that die and are replaced, workers that die between a settlement
and what it emits to another slot. Nothing is lost or doubled, and workers go on by themselves.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from streamtask.transport.connect import open_transport
from streamtask.transport.redis import keys
from streamtask.transport.redis.hashslots import slot_of
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.oracle import LOAD, consuming_again, each_event_once, no_suspects
from tests.chaos.workers import LONG, Ledger, Publisher, WorkerProcess, emitted, until
from tests.servers import ClusterNode, RedisCluster, ServerBinary

#: Beside the load, what is emitted a while after its cause.
DELAYED = """
class Later(Event, stream="later"):
    n: int


@app.on(Job)
async def load(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt)
    ctx.emit(Later(n=job.n), delay=0.5)
    await asyncio.sleep(0.001 + job.n % 10 / 200)
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)
"""

#: The streams of the load, and what is no stream's.
BUSY = ("stream:jobs", "stream:made", keys.WORKERS)


@pytest.fixture
def cluster(server_binary: ServerBinary) -> Iterator[RedisCluster]:
    """Three masters of the test's own."""
    made = RedisCluster(server_binary)
    made.start()
    yield made
    made.close()


@pytest.fixture
def cluster_with_replicas(server_binary: ServerBinary) -> Iterator[RedisCluster]:
    """Three masters of the test's own, with a replica each."""
    made = RedisCluster(server_binary, replicas=1)
    made.start()
    yield made
    made.close()


@pytest.mark.timeout(600 if LONG else 120)
async def test_slots_of_busy_streams_moved_back_and_forth_lose_nothing_and_no_publisher_sees_it(
    cluster: RedisCluster, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    workers = [await start_worker(cluster.url, LOAD, concurrency=50) for _ in range(2)]
    moved, began = 0, time.monotonic()
    async with Publisher(cluster.url, lanes=2) as publisher:
        for n in range(60 if LONG else 9):
            slot = slot_of(BUSY[n % len(BUSY)])
            home = cluster.master_of(slot)
            to = random.choice([node for node in cluster.masters if node is not home])
            moved += await asyncio.to_thread(cluster.move, slot, to)
            await asyncio.sleep(random.uniform(0.1, 0.5))
        wait = await consuming_again(ledger, publisher, 15)

    measured("slots moved", 60 if LONG else 9)
    measured("keys moved", moved)
    measured("seconds of moving", time.monotonic() - began)
    measured("seconds until consuming again", wait)
    assert publisher.raised.total() == 0
    await each_event_once(cluster.url, ledger, publisher, measured)
    no_suspects(workers)


@one_server
@pytest.mark.timeout(600 if LONG else 120)
async def test_nodes_killed_and_started_again_lose_nothing_and_double_nothing(
    cluster: RedisCluster, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    workers = [await start_worker(cluster.url, LOAD, concurrency=50) for _ in range(2)]
    waits = []
    async with Publisher(cluster.url, lanes=2) as publisher:
        for n in range(30 if LONG else 3):
            await asyncio.sleep(random.uniform(0.5, 1.0))
            node = cluster.master_of(slot_of(BUSY[n % len(BUSY)]))
            node.kill()
            # Sometimes back before the others miss it, sometimes after.
            await asyncio.sleep(random.choice((0.0, 0.5, 3.0)))
            await asyncio.to_thread(node.start)
            waits.append(await consuming_again(ledger, publisher, 20))

    measured("seconds until consuming again, longest", max(waits))
    await each_event_once(cluster.url, ledger, publisher, measured)
    no_suspects(workers)


@one_server
@pytest.mark.timeout(600 if LONG else 120)
async def test_masters_that_give_way_to_their_replicas_lose_nothing_and_double_nothing(
    cluster_with_replicas: RedisCluster, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    cluster = cluster_with_replicas
    workers = [await start_worker(cluster.url, LOAD, concurrency=50) for _ in range(2)]
    waits = []
    async with Publisher(cluster.url, lanes=2) as publisher:
        for n in range(20 if LONG else 3):
            await asyncio.sleep(0.5)
            slot = slot_of(BUSY[n % len(BUSY)])
            old = cluster.master_of(slot)
            successor = next(node for node in cluster.nodes if node is not old and node.replicates(old))
            await _replaced_by(cluster, slot, old, successor)
            waits.append(await consuming_again(ledger, publisher, 20))
            await asyncio.to_thread(cluster.wait_until_whole)

    measured("seconds until consuming again, longest", max(waits))
    await each_event_once(cluster.url, ledger, publisher, measured)
    no_suspects(workers)


@one_server
@pytest.mark.timeout(300 if LONG else 120)
async def test_a_master_that_dies_is_replaced_and_what_a_replica_had_is_handled(
    cluster_with_replicas: RedisCluster, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    cluster = cluster_with_replicas
    await start_worker(cluster.url, LOAD, concurrency=50)
    slot = slot_of("stream:jobs")
    async with Publisher(cluster.url, lanes=2, durability="replica") as publisher:
        await asyncio.sleep(1.0)
        old = cluster.master_of(slot)
        old.kill()
        killed = time.monotonic()
        await until(lambda: cluster.master_of(slot) is not old, 20)
        measured("seconds until it was replaced", time.monotonic() - killed)
        # The new master's replica; without one nothing is confirmed.
        await asyncio.to_thread(old.start)
        measured("seconds until consuming again", await consuming_again(ledger, publisher, 20))

    published = {str(n) for n in publisher.returned}
    await until(lambda: published <= set(ledger.count("end")), 20)
    measured("events", len(published))
    measured("publishes that raised", publisher.raised.total())
    measured("published and lost", len(published - set(ledger.count("end"))))

    async def all_made() -> bool:
        return published <= {str(each["n"]) for each in await emitted(cluster.url, "made")}

    # Where the ack was lost with the old master, once it is handled again.
    await until(all_made, 30, every=0.2)


@one_server
@pytest.mark.timeout(600 if LONG else 120)
async def test_workers_killed_between_a_settlement_and_its_emits_double_none_and_lose_none(
    cluster: RedisCluster, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    assert slot_of("stream:jobs") != slot_of("stream:made") != slot_of("stream:later")
    workers = [await start_worker(cluster.url, DELAYED, concurrency=50) for _ in range(2)]
    kills, in_the_outbox = 100 if LONG else 6, 0
    transport = open_transport(cluster.url)
    await transport.connect()
    assert transport.outbox is not None
    async with Publisher(cluster.url, lanes=4) as publisher:
        for _ in range(kills):
            pids = await _one_child_each(workers)
            await asyncio.sleep(random.uniform(0.1, 0.4))
            # At a moment at which something is on its way; whoever carries it.
            await until(lambda: transport.outbox.waiting(["jobs"]), 10, every=0.0)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            in_the_outbox += len(await transport.outbox.waiting(["jobs"]))
        await asyncio.sleep(0.5)

    published = dict.fromkeys(publisher.returned, 1)
    await until(lambda: len(ledger.count("end")) == len(published), 30)

    async def passed_on() -> bool:
        streams = ["made", "later"]
        counts = [len(await emitted(cluster.url, stream)) for stream in streams]
        return counts >= [len(published)] * 2 and not await transport.outbox.waiting(["jobs"])

    await until(passed_on, 30, every=0.2)
    measured("events", len(published))
    measured("kills", kills)
    measured("kills with emits in the outbox", in_the_outbox)
    measured("extra runs", ledger.count("start").total() - len(published))
    for stream in ("made", "later"):
        numbers = sorted(each["n"] for each in await emitted(cluster.url, stream))
        assert numbers == sorted(published)
    await transport.close()
    assert in_the_outbox > 0


async def _replaced_by(cluster: RedisCluster, slot: int, old: ClusterNode, successor: ClusterNode) -> None:
    """Have a replica take its master's place; a vote that comes to nothing is held again."""
    for _ in range(4):
        successor.ask("FAILOVER")
        with suppress(AssertionError):
            return await until(lambda: cluster.master_of(slot) is not old, 6)
    raise AssertionError("the replica does not become master")


async def _one_child_each(workers: list[WorkerProcess]) -> list[int]:
    """The process ids of workers that have one child each; waits for those that are being started."""
    found: list[list[int]] = []

    async def all_there() -> bool:
        found[:] = [await worker.child_pids() for worker in workers]
        return all(found)

    await until(all_there, 20, every=0.05)
    return [pids[0] for pids in found]
