"""A real cluster through the router: slots that move, nodes that go, and commands that run once whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtask import App, Context, Event, Retry
from streamtask.errors import ConfigurationError, TransportError
from streamtask.transport.port import Transport
from streamtask.transport.redis import keys
from streamtask.transport.redis.addresses import cluster_of
from streamtask.transport.redis.client import Script
from streamtask.transport.redis.cluster import Cluster, ClusterWire
from streamtask.transport.redis.cluster_transport import ClusterTransport
from streamtask.transport.redis.hashslots import slot_of
from streamtask.transport.redis.line import DisconnectedError, ServerError
from streamtask.transport.redis.transport import RedisTransport
from streamtask.transport.values import Done, Mark, Outgoing, StoredBlob, Subscription, Verdict
from tests.chaos.workers import until
from tests.conformance.engines import same_slot_as
from tests.servers import ClusterNode, RedisCluster, RedisServer

ORDERS = slot_of("stream:orders")


@pytest.fixture
async def wire(redis_cluster: RedisCluster) -> AsyncIterator[ClusterWire]:
    made = ClusterWire(Cluster(*cluster_of(redis_cluster.url)), patience=5.0)
    yield made
    await made.close()


@pytest.fixture
async def transport(redis_cluster: RedisCluster) -> AsyncIterator[Transport]:
    made = ClusterTransport(redis_cluster.url)
    await made.connect()
    yield made
    await made.close()


@pytest.fixture
def elsewhere(redis_cluster: RedisCluster) -> Iterator[ClusterNode]:
    """A master that does not serve `orders`; whatever happens, the slot is back where it was afterwards."""
    home = redis_cluster.master_of(ORDERS)
    yield next(node for node in redis_cluster.masters if node is not home)
    if redis_cluster.master_of(ORDERS) is not home:
        redis_cluster.move(ORDERS, home)


def event(event_id: str = "e", stream: str = "orders") -> Outgoing:
    return Outgoing(stream=stream, body=b'{"event_id":"' + event_id.encode() + b'"}', event_id=event_id)


def test_slots_are_those_that_the_server_counts(redis_cluster: RedisCluster) -> None:
    client = redis_cluster.masters[0].client()

    @settings(max_examples=200)
    @given(st.one_of(st.binary(max_size=30), st.text("ab{}", max_size=12).map(str.encode)))
    def same(key: bytes) -> None:
        assert slot_of(key) == client.execute_command("CLUSTER", "KEYSLOT", key)

    same()


async def test_a_pipeline_over_all_nodes_is_answered_in_its_order(wire: ClusterWire) -> None:
    names = [f"key-{n}" for n in range(200)]
    assert {await wire.call("SET", name, name) for name in names} == {b"OK"}

    replies = await wire.many([["GET", name] for name in names] + [["INCR", names[0]], ["GET", names[1]]])

    assert replies[:200] == [name.encode() for name in names]
    assert isinstance(replies[200], ServerError)
    assert replies[201] == b"key-1"


async def test_a_script_that_a_node_does_not_have_is_loaded_there(
    wire: ClusterWire, redis_cluster: RedisCluster
) -> None:
    script = Script("beat")
    for node in redis_cluster.masters:
        node.client().script_flush()

    replies = await wire.run_many([(script, [f"{{{n}}}:b", f"{{{n}}}:w"], ["a", 1000, "{}"]) for n in range(20)])

    assert [reply > 0 for reply in replies] == [True] * 20


async def test_commands_follow_a_slot_that_has_moved(
    wire: ClusterWire, redis_cluster: RedisCluster, elsewhere: ClusterNode
) -> None:
    await wire.call("SET", "{stream:orders}:a", "1")

    redis_cluster.move(ORDERS, elsewhere)

    assert await wire.many([["GET", "{stream:orders}:a"], ["INCR", "{stream:orders}:n"]]) == [b"1", 1]
    assert elsewhere.client().get("{stream:orders}:n") == b"1"


async def test_of_a_slot_on_its_way_the_new_node_is_asked_for_what_the_old_one_lacks(
    wire: ClusterWire, redis_cluster: RedisCluster, elsewhere: ClusterNode
) -> None:
    await wire.call("SET", "{stream:orders}:stays", "1")
    with redis_cluster.on_its_way(ORDERS, elsewhere):
        replies = await wire.many([["GET", "{stream:orders}:stays"], ["SET", "{stream:orders}:new", "2"]])
        keys_there = elsewhere.client().execute_command("CLUSTER", "GETKEYSINSLOT", ORDERS, 10)
        elsewhere.client().flushall()

    assert replies == [b"1", b"OK"]
    assert keys_there == [b"{stream:orders}:new"]


async def test_a_script_waits_for_a_slot_that_is_half_here_and_half_there(
    wire: ClusterWire, redis_cluster: RedisCluster, elsewhere: ClusterNode
) -> None:
    script, names = Script("beat"), ["{stream:orders}:b", "{stream:orders}:w"]
    await wire.call("ZADD", names[1], 1, "somebody")
    with redis_cluster.on_its_way(ORDERS, elsewhere):
        waits = asyncio.create_task(wire.run(script, names, ["a", 60_000, "{}"]))
        await asyncio.sleep(0.2)
        assert not waits.done()
    async with asyncio.timeout(5):
        assert await waits > 0


async def test_patience_ends_and_what_was_refused_has_not_run(
    redis_cluster: RedisCluster, elsewhere: ClusterNode
) -> None:
    wire = ClusterWire(Cluster(*cluster_of(redis_cluster.url)), patience=0.3)
    script, names = Script("beat"), ["{stream:orders}:b", "{stream:orders}:w"]
    await wire.call("ZADD", names[1], 1, "somebody")
    with redis_cluster.on_its_way(ORDERS, elsewhere):
        # Another slot's part of the pipeline is done all the same.
        refused, done = await wire.run_many(
            [(script, names, ["a", 60_000, "{}"]), (script, ["{x}:b", "{x}:w"], ["a", 60_000, "{}"])]
        )
        elsewhere.client().flushall()

    assert isinstance(refused, ServerError)
    assert refused.code == "TRYAGAIN"
    assert done > 0
    assert await wire.call("ZCARD", names[1]) == 1
    await wire.close()


async def test_a_blocked_read_goes_on_where_its_stream_has_gone(
    transport: Transport, redis_cluster: RedisCluster, elsewhere: ClusterNode
) -> None:
    await transport.register(Subscription(stream="orders", group="shipping"))
    reads = asyncio.create_task(transport.fetch("shipping", "a", ["orders"], count=1, wait=20))
    await asyncio.sleep(0.1)

    await asyncio.to_thread(redis_cluster.move, ORDERS, elsewhere)
    await transport.publish([event()])

    async with asyncio.timeout(5):
        [delivery] = await reads
    assert await transport.settle([(delivery, Done())])


async def test_a_settlement_refused_within_because_its_slot_is_on_its_way_has_written_nothing(
    transport: Transport, redis_cluster: RedisCluster, elsewhere: ClusterNode
) -> None:
    target = same_slot_as("orders")
    await transport.register(Subscription(stream="orders", group="g", handles=frozenset({("T", "v1")})))
    await transport.publish([event("cause"), event("first", target)])
    [delivery] = await transport.fetch("g", "a", ["orders"], count=1, wait=0)
    # Every key that the script declares is there; the mark, which it looks for itself, is not.
    client = redis_cluster.client()
    client.zadd(keys.retry("orders", "g"), {"0-1": 9e12})
    for name in (keys.history("orders", "g"), keys.dead_counts("orders"), keys.skipped("orders", "g")):
        client.hset(name, "other", "1")
    client.xadd(keys.dead("orders"), {"a": "b"})
    client.sadd(keys.waits("orders", "g"), "other\tv1")
    outcome = Done(emits=(event("effect", target),), mark=Mark("T:1", 60, replace=True))

    with redis_cluster.on_its_way(ORDERS, elsewhere):
        [refused] = await transport.settle([(delivery, outcome)])

    assert isinstance(refused, TransportError)
    assert not refused.is_unknown
    assert "non local key" in str(refused)
    assert client.xlen(keys.stream(target)) == 1
    assert await transport.settle([(delivery, outcome)]) == [Verdict.SETTLED]
    assert client.xlen(keys.stream(target)) == 2
    client.close()


async def test_a_relay_goes_on_with_its_turn_while_the_slot_is_on_its_way(
    transport: Transport, redis_cluster: RedisCluster, elsewhere: ClusterNode
) -> None:
    await transport.register(Subscription(stream="orders", group="g"))
    await transport.publish([event("cause")])
    [delivery] = await transport.fetch("g", "a", ["orders"], count=1, wait=0)
    await transport.settle([(delivery, Done(emits=(event("effect", "bills"),)))])
    client = redis_cluster.client()
    client.set(keys.relaying("orders"), "me", px=60_000)
    assert transport.outbox is not None

    with redis_cluster.on_its_way(ORDERS, elsewhere):
        relayed = await transport.outbox.relay("orders", "me")

    assert relayed.count == 1
    assert client.xlen("stream:bills") == 1
    client.close()


async def test_a_blob_follows_its_slot_while_it_is_stored_and_while_it_is_read(
    transport: Transport, redis_cluster: RedisCluster
) -> None:
    storage, slot, blob = transport.storage, slot_of(keys.blob("b")), StoredBlob("p", 6)
    assert storage is not None
    home = redis_cluster.master_of(slot)
    away = next(node for node in redis_cluster.masters if node is not home)
    try:
        assert await storage.append("b", "p", b"abc", offset=0, ttl=60.0)
        assert redis_cluster.move(slot, away) == 1
        assert await storage.append("b", "p", b"def", offset=3, ttl=60.0)
        redis_cluster.move(slot, home)
        assert await storage.commit("b", blob, ttl=60.0)
        assert redis_cluster.move(slot, away) == 2
        assert await storage.find("b") == blob
        redis_cluster.move(slot, home)
        assert await storage.piece("b", "p", offset=0, size=6) == b"abcdef"
    finally:
        if redis_cluster.master_of(slot) is not home:
            redis_cluster.move(slot, home)


async def test_a_commit_waits_while_its_two_keys_are_on_two_nodes(
    transport: Transport, redis_cluster: RedisCluster
) -> None:
    storage, slot = transport.storage, slot_of(keys.blob("b"))
    assert storage is not None
    await storage.append("b", "p", b"abc", offset=0, ttl=60.0)
    away = next(node for node in redis_cluster.masters if node is not redis_cluster.master_of(slot))
    # Asked again and again, both nodes refuse it in turn: what was said last is either's.
    with redis_cluster.on_its_way(slot, away), pytest.raises(TransportError, match=r"TRYAGAIN|ASK"):
        await storage.commit("b", StoredBlob("p", 3), ttl=60.0)
    assert await storage.commit("b", StoredBlob("p", 3), ttl=60.0)


async def test_a_write_without_a_reply_is_not_sent_again(wire: ClusterWire, redis_cluster: RedisCluster) -> None:
    node = redis_cluster.master_of(ORDERS)
    await wire.call("XADD", "stream:orders", "*", "n", "0")
    node.pause()
    try:
        with pytest.raises(DisconnectedError) as caught:
            await wire.call("XADD", "stream:orders", "*", "n", "1", timeout=0.2)
    finally:
        node.resume()

    assert caught.value.is_unknown
    redis_cluster.wait_until_whole()
    assert await wire.call("XLEN", "stream:orders") == 2


async def test_what_a_replaced_node_served_is_asked_of_its_successor(private_cluster: RedisCluster) -> None:
    transport = ClusterTransport(private_cluster.url)
    await transport.connect()
    await transport.publish([event("before")])
    master = private_cluster.master_of(ORDERS)
    private_cluster.wait_until_whole()

    master.kill()
    stored, deadline = False, time.monotonic() + 20
    while not stored and time.monotonic() < deadline:
        try:
            [result] = await transport.publish([event("after")])
            stored = isinstance(result, str)
        except TransportError:
            await asyncio.sleep(0.05)

    assert stored
    # The others hear of it a moment after the transport has.
    await until(lambda: private_cluster.master_of(ORDERS) is not master, 20)
    await transport.close()


async def test_a_node_that_is_away_holds_up_nothing_of_the_others(private_cluster: RedisCluster) -> None:
    transport = ClusterTransport(private_cluster.url)
    await transport.connect()
    away = private_cluster.master_of(ORDERS)
    other = next(
        name for n in range(1000)
        if private_cluster.master_of(slot_of(keys.stream(name := f"bills-{n}"))) is not away
    )  # fmt: skip
    for stream in ("orders", other):
        await transport.register(Subscription(stream=stream, group="g"))
    await transport.publish([event("1"), event("2", other)])
    deliveries = [(await transport.fetch("g", "a", [name], count=1, wait=0))[0] for name in ("orders", other)]

    away.pause()
    try:
        verdicts, results = await asyncio.gather(
            transport.settle([(delivery, Done()) for delivery in deliveries]),
            transport.publish([event("3"), event("4", other)]),
        )
    finally:
        away.resume()

    assert isinstance(verdicts[0], TransportError)
    assert verdicts[0].is_unknown
    assert not isinstance(verdicts[1], TransportError)
    assert isinstance(results[0], Exception)
    assert isinstance(results[1], str)
    await transport.close()


async def test_a_beat_tells_the_identity_of_the_node_that_keeps_it(redis_cluster: RedisCluster) -> None:
    node = redis_cluster.master_of_key(keys.beat("a"))
    run_id = node.client().info("server")["run_id"]

    for _ in range(10):
        transport = ClusterTransport(redis_cluster.url)
        await transport.connect()
        assert await transport.recovery.beat("a", b"{}", ttl=5.0) == run_id
        await transport.close()


class First(Event, stream="orders"):
    n: int


class Second(Event, stream="made"):
    n: int


async def test_while_a_node_is_away_retries_of_other_streams_are_taken_up(private_cluster: RedisCluster) -> None:
    away = private_cluster.master_of(ORDERS)
    assert private_cluster.master_of_key("stream:made") is not away
    for node in private_cluster.nodes:
        node.client().config_set("cluster-require-full-coverage", "no")
    private_cluster.replicas[private_cluster.masters.index(away)].kill()

    app = App("shop", broker=private_cluster.url)
    attempts: asyncio.Queue[int] = asyncio.Queue()

    @app.on(First)
    async def first(event: First) -> None: ...

    @app.on(Second, retry=Retry(3, backoff=0.1))
    async def second(event: Second, ctx: Context) -> None:
        attempts.put_nowait(ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError

    async with app.worker():
        away.kill()
        await app.publish(Second(n=1))
        async with asyncio.timeout(15):
            assert [await attempts.get(), await attempts.get()] == [1, 2]
    away.start()


async def test_a_url_of_one_server_that_names_a_node_says_what_to_write(redis_cluster: RedisCluster) -> None:
    transport = RedisTransport(redis_cluster.masters[0].url)

    with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
        await transport.connect()
    await transport.close()


async def test_a_clusters_url_that_names_a_single_server_says_what_to_write(private_redis: RedisServer) -> None:
    server = RedisServer(private_redis.binary, tcp=True)
    server.start()
    transport = ClusterTransport(f"redis+cluster://127.0.0.1:{server.port}")
    try:
        with pytest.raises(ConfigurationError, match="redis://"):
            await transport.connect()
    finally:
        await transport.close()
        server.close()


@pytest.mark.parametrize("url", ["redis+cluster://", "redis+cluster://h:x", "redis+cluster://h:1,,h:2"])
def test_a_clusters_url_that_cannot_be_read_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        cluster_of(url)
