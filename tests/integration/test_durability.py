"""`durability="replica"`: a publish that returned is on a replica; one that is not raises, and can be made again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from streamtask import App, ConfigurationError, Event, PublishError
from streamtask.transport.redis.cluster_transport import ClusterTransport
from streamtask.transport.redis.hashslots import slot_of
from tests.chaos.workers import until
from tests.servers import RedisCluster, RedisServer, ServerBinary


class Job(Event, stream="jobs"):
    n: int


@pytest.fixture
def pair(server_binary: ServerBinary) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica, in step."""
    primary, replica = (RedisServer(server_binary, tcp=True) for _ in range(2))
    try:
        primary.start("--repl-diskless-sync-delay", "0")
        replica.start("--replicaof", "127.0.0.1", str(primary.port))
        deadline = time.monotonic() + 15
        while replica.client().info("replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield primary, replica
    finally:
        primary.close()
        replica.close()


async def confirmed(app: App, event: Event, **options: Any) -> str:
    """Publish as a careful program does: where the machine stands still, a replica's word comes too late."""
    for _ in range(4):
        try:
            return await app.publish(event, **options)
        except PublishError as error:
            options["event_id"] = error.event_id
    return await app.publish(event, **options)


async def test_what_was_published_is_on_the_replica_when_publish_returns(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    primary, replica = pair
    reader = replica.client()
    async with App("a", broker=primary.url, durability="replica") as app:
        for n in range(1, 101):
            await confirmed(app, Job(n=n))
            assert reader.xlen("stream:jobs") == n
        await app.publish_many([Job(n=n) for n in range(1000)])
        assert reader.xlen("stream:jobs") == 1100


async def test_publishes_side_by_side_share_waits(pair: tuple[RedisServer, RedisServer]) -> None:
    primary, replica = pair
    admin = primary.client()
    async with App("a", broker=primary.url, durability="replica") as app:
        await asyncio.gather(*(confirmed(app, Job(n=n)) for n in range(500)))

    assert replica.client().xlen("stream:jobs") == 500
    assert admin.info("commandstats")["cmdstat_wait"]["calls"] < 50


async def test_without_a_replicas_word_a_publish_raises_and_made_again_it_is_stored_once(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    primary, replica = pair
    async with App("a", broker=primary.url, durability="replica") as app:
        await confirmed(app, Job(n=0))
        replica.pause()
        try:
            began = time.monotonic()
            with pytest.raises(PublishError, match="replica") as caught:
                await app.publish(Job(n=1))
            assert 0.9 < time.monotonic() - began < 3
            with pytest.raises(PublishError, match="replica"):
                await app.publish(Job(n=1), event_id=caught.value.event_id)
        finally:
            replica.resume()
        async with App("a", broker=primary.url, durability="replica") as another:
            assert await confirmed(another, Job(n=1), event_id=caught.value.event_id) == caught.value.event_id

    assert replica.client().xlen("stream:jobs") == 2


@pytest.mark.parametrize("how", ["event_id", "dedup_key"])
async def test_what_was_there_already_is_waited_for_on_a_connection_that_has_written_nothing(
    pair: tuple[RedisServer, RedisServer], how: str
) -> None:
    primary, replica = pair
    admin, copy = primary.client(), replica.client()
    event_id = "00000000-0000-4000-8000-000000000001"
    options = {"event_id": event_id} | ({"dedup_key": "k"} if how == "dedup_key" else {})
    async with App("a", broker=primary.url) as app:
        await app.publish(Job(n=1), **options)
    async with App("a", broker=primary.url, durability="replica") as app:
        before = written(copy)
        await confirmed(app, Job(n=1), **options)

        # WAIT waits for what this connection wrote last, so it has to have written something.
        assert written(copy) > before
        replica.pause()
        try:
            with pytest.raises(PublishError, match="replica"):
                await app.publish(Job(n=1), **options)
        finally:
            replica.resume()
    assert admin.xlen("stream:jobs") == 1


def written(replica: redis.Redis) -> int:
    """Writes that a replica was sent."""
    calls = {name.removeprefix("cmdstat_"): found["calls"] for name, found in replica.info("commandstats").items()}
    return sum(calls.get(name, 0) for name in ("xadd", "hset", "hdel", "set", "sadd"))


async def test_a_server_without_a_replica_never_says_yes(redis_server: RedisServer) -> None:
    async with App("a", broker=redis_server.url, durability="replica") as app:
        with pytest.raises(PublishError, match="replica"):
            await app.publish(Job(n=1))


async def test_a_cluster_waits_for_a_replica_of_each_node_that_is_written_to(private_cluster: RedisCluster) -> None:
    class Other(Event, stream="other-slot"):
        n: int

    homes = {private_cluster.master_of_key(f"stream:{name}") for name in ("jobs", "other-slot")}
    assert len(homes) == 2
    away = private_cluster.replicas[private_cluster.masters.index(private_cluster.master_of_key("stream:jobs"))]
    async with App("a", broker=private_cluster.url, durability="replica") as app:
        assert isinstance(app.transport, ClusterTransport)
        await app.publish_many([Job(n=1), Other(n=1)])
        away.pause()
        try:
            with pytest.raises(PublishError) as caught:
                await app.publish_many([Other(n=2), Job(n=2)])
        finally:
            away.resume()

        async def stored() -> bool:
            try:
                await app.publish(Job(n=2), event_id=caught.value.unsure[1])
            except PublishError:
                return False
            return True

        await until(stored, 10)
        entries = await app.transport.read("jobs", after="0", count=9, wait=0)
        assert len(entries) == 2


@pytest.mark.parametrize("without_replica", ["old", "new"])
async def test_where_a_slot_has_moved_the_replicas_of_its_new_node_count(
    private_cluster: RedisCluster, without_replica: str
) -> None:
    async with App("a", broker=private_cluster.url, durability="replica") as app:
        await confirmed(app, Job(n=1))
        old = private_cluster.master_of_key("stream:jobs")
        new = next(node for node in private_cluster.masters if node is not old)
        private_cluster.move(slot_of("stream:jobs"), new)
        master = old if without_replica == "old" else new
        private_cluster.replicas[private_cluster.masters.index(master)].kill()
        if without_replica == "old":
            await confirmed(app, Job(n=2))
        else:
            with pytest.raises(PublishError, match="0 of 1 replicas"):
                await app.publish(Job(n=2))


@pytest.mark.parametrize("url", ["memory://", "embedded://"])
async def test_what_has_no_replica_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="no replica"):
        async with App("a", broker=url, durability="replica"):
            pass


@pytest.mark.parametrize("durability", ["replicas", -1])
async def test_a_durability_that_there_is_not_is_refused(durability: Any) -> None:
    with pytest.raises(ConfigurationError, match="durability is"):
        async with App("a", broker="redis://localhost", durability=durability):
            pass


async def test_a_number_asks_for_so_many_replicas(pair: tuple[RedisServer, RedisServer]) -> None:
    primary, _ = pair
    async with App("a", broker=primary.url, durability=2) as app:
        with pytest.raises(PublishError, match="1 of 2 replicas"):
            await app.publish(Job(n=1))
