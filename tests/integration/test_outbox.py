"""Emits from one server to another: each arrives once, in order, whoever dies, stops or runs twice on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from streamtask import App, Event
from streamtask.errors import TransportError
from streamtask.transport.redis import keys
from streamtask.transport.redis.cluster_transport import ClusterTransport
from streamtask.transport.redis.line import DisconnectedError
from streamtask.transport.redis.outbox import RedisOutbox
from streamtask.transport.values import Dead, Delivery, Done, Outgoing, Subscription
from tests.acl import rights
from tests.chaos.workers import until
from tests.servers import RedisCluster


@pytest.fixture
async def transport(redis_cluster: RedisCluster) -> AsyncIterator[ClusterTransport]:
    """Reads `orders`, whose handlers emit to `bills` and `mails`: three slots."""
    made = ClusterTransport(redis_cluster.url)
    await made.connect()
    await made.register(Subscription(stream="orders", group="shop"))
    yield made
    await made.close()


def emit(n: int, stream: str = "bills", delay: float | None = None) -> Outgoing:
    return Outgoing(stream=stream, body=f'{{"event_id":"e{n}"}}'.encode(), event_id=f"e{n}", delay=delay)


async def take(transport: ClusterTransport, owner: str = "a") -> Delivery:
    await transport.publish([Outgoing(stream="orders", body=b"{}", event_id="cause")])
    [delivery] = await transport.fetch("shop", owner, ["orders"], count=1, wait=1)
    return delivery


async def settle(transport: ClusterTransport, *emits: Outgoing) -> None:
    """Settle one delivery with these emits."""
    verdicts = await transport.settle([(await take(transport), Done(tuple(emits)))])
    assert not isinstance(verdicts[0], TransportError)


async def bodies(transport: ClusterTransport, stream: str = "bills") -> list[str]:
    entries = await transport.read(stream, after="0", count=1000, wait=0)
    return [(entry.body or b"").decode()[len('{"event_id":"') : -2] for entry in entries]


async def waiting(transport: ClusterTransport) -> dict[str, int]:
    return await outbox(transport).waiting(["orders", "bills", "mails"])


def outbox(transport: ClusterTransport) -> RedisOutbox:
    assert isinstance(transport.outbox, RedisOutbox)
    return transport.outbox


async def test_an_emit_to_another_slot_waits_beside_its_cause_and_then_arrives_as_it_was(
    transport: ClusterTransport,
) -> None:
    item = Outgoing(stream="bills", body=b"\x80\xff", event_id="e", content_type="t", content_encoding="zstd")

    await settle(transport, item)
    assert await waiting(transport) == {"orders": 1}
    assert await outbox(transport).news(within=5) == {"orders"}
    relayed = await outbox(transport).relay("orders", "a")

    assert (relayed.count, dict(relayed.held_back)) == (1, {})
    assert await waiting(transport) == {}
    [entry] = await transport.read("bills", after="0", count=9, wait=0)
    assert list(entry.fields) == [
        b"envelope", b"\x80\xff", b"content_type", b"t", b"content_encoding", b"zstd", b"event_id", b"e",
    ]  # fmt: skip


async def test_what_a_dead_letter_emits_goes_the_same_way(transport: ClusterTransport) -> None:
    dead = Dead(reason="rejected", emits=(emit(1), emit(2, "mails")))

    await transport.settle([(await take(transport), dead)])
    assert await waiting(transport) == {"orders": 2}
    assert await outbox(transport).news(within=5) == {"orders"}
    await outbox(transport).relay("orders", "a")

    assert (await bodies(transport), await bodies(transport, "mails")) == (["e1"], ["e2"])


async def test_what_the_fence_refuses_puts_nothing_out(transport: ClusterTransport) -> None:
    delivery = await take(transport)
    late = Delivery("orders", "shop", delivery.entry_id, "somebody else", delivery.fields)

    await transport.settle([(late, Done((emit(1),)))])

    assert await waiting(transport) == {}


async def test_order_is_kept_for_each_target(transport: ClusterTransport) -> None:
    for start in range(0, 500, 50):
        await settle(transport, *(emit(n, "bills" if n % 2 else "mails") for n in range(start, start + 50)))

    relayed = await outbox(transport).relay("orders", "a")

    assert relayed.count == 500
    assert await bodies(transport, "bills") == [f"e{n}" for n in range(1, 500, 2)]
    assert await bodies(transport, "mails") == [f"e{n}" for n in range(0, 500, 2)]


async def test_a_relay_that_dies_between_publishing_and_deleting_doubles_nothing(
    transport: ClusterTransport, redis_cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await settle(transport, *(emit(n) for n in range(20)), emit(99, delay=600))
    dying = ClusterTransport(redis_cluster.url)
    await dying.connect()

    async def cut_off(*command: object, **_: object) -> None:
        assert command[0] == "XDEL"
        raise DisconnectedError("cut off")

    monkeypatch.setattr(outbox(dying)._caller, "call", cut_off)
    with pytest.raises(DisconnectedError):
        await outbox(dying).relay("orders", "a")
    assert await waiting(transport) == {"orders": 21}
    redis_cluster.master_of_key(keys.relaying("orders")).client().delete(keys.relaying("orders"))

    await outbox(transport).relay("orders", "b")

    assert await waiting(transport) == {}
    assert await bodies(transport) == [f"e{n}" for n in range(20)]
    assert transport.schedule is not None
    assert [each["event_id"] for each in await transport.schedule.scheduled("bills", limit=9)] == ["e99"]
    await dying.close()


async def test_the_mark_stands_for_days_until_the_entry_is_deleted_and_for_minutes_afterwards(
    transport: ClusterTransport, redis_cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = keys.published("bills", "~emit:e1")
    client = redis_cluster.client()
    lives = []
    call = outbox(transport)._caller.call

    async def spy(*command: object, **options: object) -> object:
        if command[0] == "XDEL":
            lives.append(client.ttl(mark))
        return await call(*command, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(outbox(transport)._caller, "call", spy)
    await settle(transport, emit(1))
    await outbox(transport).relay("orders", "a")

    assert lives[0] > 6 * 86_400
    assert 500 < client.ttl(mark) <= 600
    client.close()


async def test_many_relays_at_once_double_nothing_and_leave_nothing(
    transport: ClusterTransport, redis_cluster: RedisCluster
) -> None:
    await settle(transport, *(emit(n) for n in range(500)))
    others = [ClusterTransport(redis_cluster.url) for _ in range(4)]
    for other in others:
        await other.connect()

    # Without turns: each goes through the whole outbox.
    async def relay(other: ClusterTransport, owner: str) -> None:
        while await waiting(other):
            redis_cluster.master_of_key(keys.relaying("orders")).client().delete(keys.relaying("orders"))
            await outbox(other).relay("orders", owner)

    await asyncio.gather(*(relay(other, f"{n}") for n, other in enumerate(others)))

    # Their order is what the turns are for.
    assert sorted(await bodies(transport)) == sorted(f"e{n}" for n in range(500))
    for other in others:
        await other.close()


async def test_while_one_relay_has_its_turn_another_leaves_the_work_to_it(
    transport: ClusterTransport, redis_cluster: RedisCluster
) -> None:
    await settle(transport, emit(1))
    node = redis_cluster.master_of_key(keys.relaying("orders")).client()
    node.set(keys.relaying("orders"), "another", px=60_000)

    assert (await outbox(transport).relay("orders", "a")).count == 0
    node.delete(keys.relaying("orders"))
    assert (await outbox(transport).relay("orders", "a")).count == 1
    # At the end the turn is over.
    assert node.exists(keys.relaying("orders")) == 0


async def test_a_delayed_emit_is_due_as_long_after_its_cause_was_settled(transport: ClusterTransport) -> None:
    await settle(transport, emit(1, delay=1.0))
    settled = time.monotonic()
    await asyncio.sleep(0.5)
    await outbox(transport).relay("orders", "a")

    assert transport.schedule is not None
    while not await bodies(transport):
        await transport.schedule.promote(["bills"])
        assert time.monotonic() - settled < 10
        await asyncio.sleep(0.02)
    assert 0.9 < time.monotonic() - settled < 1.4


async def test_a_target_that_refuses_holds_up_no_other_and_loses_nothing(
    transport: ClusterTransport, redis_cluster: RedisCluster
) -> None:
    client = redis_cluster.client()
    client.set("stream:mails", "no stream")
    await settle(transport, emit(1, "mails"), emit(2, "bills"), emit(3, "mails"), emit(4, "bills"))

    relayed = await outbox(transport).relay("orders", "a")

    assert relayed.count == 2
    assert list(relayed.held_back) == ["mails"]
    assert await bodies(transport, "bills") == ["e2", "e4"]
    assert await waiting(transport) == {"orders": 2}
    client.delete("stream:mails")
    assert (await outbox(transport).relay("orders", "a")).count == 2
    assert await bodies(transport, "mails") == ["e1", "e3"]
    client.close()


async def test_what_comes_after_what_was_refused_waits_too_so_that_order_is_kept(
    transport: ClusterTransport, redis_cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis_cluster.client()
    client.set("stream:mails", "no stream")
    for start in range(0, 500, 100):
        await settle(transport, *(emit(n, "mails") for n in range(start, start + 100)))
    publish = transport.publish

    async def mended_meanwhile(items: Sequence[Outgoing]) -> list[str | Exception]:
        results = await publish(items)
        client.delete("stream:mails")
        return results

    monkeypatch.setattr(outbox(transport), "_publish", mended_meanwhile)

    assert (await outbox(transport).relay("orders", "a")).count == 0
    monkeypatch.undo()
    assert (await outbox(transport).relay("orders", "a")).count == 500
    assert await bodies(transport, "mails") == [f"e{n}" for n in range(500)]
    client.close()


async def test_what_somebody_else_puts_there_stays_and_is_told_of(
    transport: ClusterTransport, redis_cluster: RedisCluster
) -> None:
    client = redis_cluster.client()
    client.xadd(keys.outbox("orders"), {"what": "ever"})
    await settle(transport, emit(1))

    relayed = await outbox(transport).relay("orders", "a")

    assert relayed.count == 1
    assert len(relayed.held_back) == 1
    assert await waiting(transport) == {"orders": 1}
    client.close()


async def test_trimming_leaves_the_outbox_alone(transport: ClusterTransport) -> None:
    await settle(transport, emit(1))

    assert transport.retention is not None
    await transport.retention.trim("orders", max_age=0, max_entries=0)

    assert await waiting(transport) == {"orders": 1}


async def test_a_stream_tells_how_much_waits_beside_it(transport: ClusterTransport) -> None:
    await settle(transport, emit(1), emit(2))

    assert transport.inspection is not None
    assert (await transport.inspection.stream("orders")).outbox == 2
    assert (await transport.inspection.stream("bills")).outbox == 0


class Order(Event, stream="orders"):
    n: int


class Bill(Event, stream="bills"):
    n: int


@pytest.mark.parametrize("turn_of", ["", "another"])
async def test_a_worker_passes_emits_on_at_once_and_a_burst_waits_for_them(
    redis_cluster: RedisCluster, turn_of: str
) -> None:
    app = App("shop", broker=redis_cluster.url)
    handled: list[tuple[str, float]] = []
    if turn_of:
        redis_cluster.master_of_key(keys.relaying("orders")).client().set(keys.relaying("orders"), turn_of, px=1000)

    @app.on(Order)
    async def bill(order: Order) -> Bill:
        handled.append(("order", time.monotonic()))
        return Bill(n=order.n)

    @app.on(Bill)
    async def pay(bill: Bill) -> None:
        handled.append((f"bill {bill.n}", time.monotonic()))

    async with app.worker() as worker:
        await app.publish(Order(n=1))
        async with asyncio.timeout(10):
            await worker.burst_done()
        assert [what for what, _ in handled] == ["order", "bill 1"]
    if not turn_of:
        # Nobody has waited for the next look round.
        assert handled[1][1] - handled[0][1] < 0.5


async def test_emits_of_a_worker_that_has_died_are_passed_on_by_another(redis_cluster: RedisCluster) -> None:
    app = App("shop", broker=redis_cluster.url)
    paid: asyncio.Future[int] = asyncio.Future()

    @app.on(Bill)
    async def pay(bill: Bill) -> None:
        paid.set_result(bill.n)

    async with app:
        transport = app.transport
        assert isinstance(transport, ClusterTransport)
        await transport.register(Subscription(stream="orders", group="shop"))
        item = app.broker.outgoing(Bill(n=7), event_id="e7", trace_id="t")
        await settle(transport, item)
        # This worker has no handler for `orders`, beside which the emit waits.
        async with app.worker():
            async with asyncio.timeout(10):
                assert await paid == 7

            async def passed_on() -> bool:
                return not await waiting(transport)

            await until(passed_on, 10)


#: What a worker on a cluster needs beside its line in docs/how-to/securing.md, which says so.
CLUSTER_RIGHTS = ("+cluster|slots", "+asking", "+persist", "+pexpire")


async def test_a_worker_on_a_cluster_needs_no_more_rights_than_the_documentation_says(
    redis_cluster: RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [node.client() for node in redis_cluster.masters]
    for node in nodes:
        node.execute_command("ACL", "SETUSER", "worker", *rights()["worker"], *CLUSTER_RIGHTS)
        node.execute_command("ACL", "LOG", "RESET")
    app = App("shop", broker=redis_cluster.url.replace("://", "://worker:WORKER_PASSWORD@"))

    @app.on(Order)
    async def bill(order: Order) -> Bill:
        return Bill(n=order.n)

    try:
        async with app.worker() as worker:
            await app.publish(Order(n=1))
            async with asyncio.timeout(10):
                await worker.burst_done()
        async with app:
            assert isinstance(app.transport, ClusterTransport)
            assert len(await bodies(app.transport)) == 1
        refused = {entry[b"object"] for node in nodes for entry in node.execute_command("ACL", "LOG")}
        # redis-py names itself with CLIENT SETINFO, whether it may or not; Redis 6.2 cannot allow that alone.
        assert refused <= {b"client"}
        assert [record.message for record in caplog.records if record.levelname != "INFO"] == []
    finally:
        for node in nodes:
            node.execute_command("ACL", "DELUSER", "worker")


async def test_what_is_emitted_while_a_worker_drains_is_passed_on_before_it_ends(redis_cluster: RedisCluster) -> None:
    app = App("shop", broker=redis_cluster.url)
    started = asyncio.Event()

    @app.on(Order)
    async def bill(order: Order) -> Bill:
        started.set()
        await asyncio.sleep(0.2)
        return Bill(n=order.n)

    async with app:
        transport = app.transport
        assert isinstance(transport, ClusterTransport)
        async with app.worker():
            await app.publish(Order(n=1))
            await started.wait()
        assert await waiting(transport) == {}
        assert len(await bodies(transport)) == 1
