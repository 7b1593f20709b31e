"""Gates: entries of one key one after the other, or so many at a time, whoever reads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from streamtask.errors import TransportError
from streamtask.transport.redis import keys
from streamtask.transport.values import Dead, Delivery, Done, Gate, Release, Retry, Skip, Verdict, Wait
from tests.conformance.engines import Consumer, Engine, RedisEngine, counts, eventually, order, text_of
from tests.servers import RedisServer

ORDERED = Gate(name="OrderPlaced", types=("OrderPlaced",), path=("customer",), ordered=True)
TWO_EACH = Gate(name="OrderPlaced", types=("OrderPlaced",), path=("customer",), limit=2)
TWO = Gate(name="OrderPlaced", types=("OrderPlaced",), limit=2)
#: Seconds that never pass in a test.
LONG = 3600.0


def texts(deliveries: list[Delivery]) -> list[str]:
    return [text_of(delivery) for delivery in deliveries]


async def claimed(consumer: Consumer) -> list[Delivery]:
    return list((await consumer.claim()).deliveries)


# ── ordered ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_one_key_one_entry_is_out_at_a_time_in_the_order_of_the_stream(engine: Engine) -> None:
    a = await engine.consumer("a", gates=(ORDERED,))
    b = await engine.consumer("b", gates=(ORDERED,))
    await a.publish(*(order(f"{n}", customer="c") for n in range(6)))
    held = [*await a.fetch_gated(1), *await b.fetch_gated()]
    seen = []

    for turn in range(6):
        [delivery] = held
        seen.append(text_of(delivery))
        assert await a.settle(delivery, Done()) is Verdict.SETTLED
        held = await claimed((a, b)[turn % 2])

    assert seen == ["0", "1", "2", "3", "4", "5"]
    assert held == []
    assert await a.pending() == 0


async def test_entries_of_other_keys_pass_those_that_queue(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(
        order("a1", customer="a"), order("a2", customer="a"), order("b1", customer="b"), order("a3", customer="a"),
        order("c1", customer=7), order("c2", customer=7), order("d1", customer="7.5"),
    )  # fmt: skip

    assert texts(await consumer.fetch_gated()) == ["a1", "b1", "c1", "d1"]
    assert await consumer.pending() == 7


@pytest.mark.parametrize("outcome", [Retry(delay=LONG), Release(LONG), Wait("OrderPlaced", "v2", LONG)])
async def test_what_comes_again_later_keeps_its_place(engine: Engine, outcome: Retry | Release | Wait) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(order("first", customer="c"), order("second", customer="c"))
    [first] = await consumer.fetch_gated()

    await consumer.settle(first, outcome)
    await consumer.publish(order("third", customer="c"))

    assert await consumer.fetch_gated() == []
    assert (await consumer.claim()).deliveries == []


async def test_a_retry_runs_before_those_behind_it(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(order("first", customer="c"), order("second", customer="c"))
    [first] = await consumer.fetch_gated()
    await consumer.settle(first, Retry(delay=0.01))

    again = await consumer.claim_one()
    assert (text_of(again), counts(again)) == ("first", (2, 2, 0))
    await consumer.settle(again, Done())

    [second] = await claimed(consumer)
    assert (text_of(second), counts(second)) == ("second", (2, 1, 0))


@pytest.mark.parametrize(
    "outcome", [Done(emits=(order("made", stream="made"),)), Dead(reason="rejected"), Skip(), Skip("Other")]
)
async def test_whatever_ends_an_entry_lets_the_next_one_through(engine: Engine, outcome: Done | Dead | Skip) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(order("first", customer="c"), order("second", customer="c"))
    [first] = await consumer.fetch_gated()

    assert await consumer.settle(first, outcome) is Verdict.SETTLED

    assert texts(await claimed(consumer)) == ["second"]


async def test_what_a_dead_owner_held_still_comes_first(engine: Engine) -> None:
    a, b = await engine.consumer("a", gates=(ORDERED,)), await engine.consumer("b", gates=(ORDERED,))
    await a.publish(order("first", customer="c"), order("second", customer="c"))
    [first] = await a.fetch_gated()

    assert await b.recovery.hand_back(a.stream, a.group, "a") == 1
    [again] = await claimed(b)

    assert (text_of(again), counts(again)) == ("first", (2, 1, 1))
    assert await a.settle(first, Done()) is Verdict.LOST
    assert await claimed(b) == []
    assert await b.settle(again, Done()) is Verdict.SETTLED
    assert texts(await claimed(b)) == ["second"]


async def test_who_queued_has_neither_failed_nor_crashed(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(order("first", customer="c"), order("second", customer="c"))
    [first] = await consumer.fetch_gated()
    await consumer.settle(first, Done())

    [second] = await claimed(consumer)

    assert counts(second) == (2, 1, 0)


# ── so many at a time ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_one_key_so_many_are_out_at_a_time(engine: Engine) -> None:
    a, b = await engine.consumer("a", gates=(TWO_EACH,)), await engine.consumer("b", gates=(TWO_EACH,))
    await a.publish(*(order(f"t{n}", customer="t") for n in range(4)), order("u", customer="u"))

    held = [*await a.fetch_gated(1), *await b.fetch_gated()]
    assert texts(held) == ["t0", "t1", "u"]
    assert await claimed(a) == []

    await a.settle(held[0], Done())
    assert texts(await claimed(b)) == ["t2"]
    assert await claimed(b) == []


async def test_what_is_parked_for_later_gives_its_place_up_and_comes_to_the_gate_again(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(TWO_EACH,))
    await consumer.publish(*(order(f"{n}", customer="t") for n in range(4)))
    zero, one = await consumer.fetch_gated()

    await consumer.settle(zero, Retry(delay=0.2))
    [two] = await claimed(consumer)
    assert text_of(two) == "2"
    await engine.let_pass(0.25)

    # Due, and the gate is shut: it queues before the last one, which is younger.
    assert await claimed(consumer) == []
    await consumer.settle(one, Done())
    [again] = await claimed(consumer)
    assert (text_of(again), counts(again)) == ("0", (2, 2, 0))
    await consumer.settle(two, Done())
    assert texts(await claimed(consumer)) == ["3"]


async def test_the_place_of_a_dead_owner_is_taken_up_with_its_entry(engine: Engine) -> None:
    a, b = await engine.consumer("a", gates=(TWO_EACH,)), await engine.consumer("b", gates=(TWO_EACH,))
    await a.publish(*(order(f"{n}", customer="t") for n in range(3)))
    await a.fetch_gated()

    await b.recovery.hand_back(a.stream, a.group, "a", started=())
    again = await claimed(b)

    assert texts(again) == ["0", "1"]
    assert await claimed(b) == []
    await b.settle(again[0], Done())
    assert texts(await claimed(b)) == ["2"]


async def test_where_one_gate_is_for_all_nothing_is_read_while_it_is_shut(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(TWO,))
    await consumer.publish(*(order(f"{n}") for n in range(5)))

    held = await consumer.fetch_gated()
    assert texts(held) == ["0", "1"]
    assert await consumer.fetch_gated() == []
    assert await consumer.pending() == 2

    await consumer.settle(held[0], Done())
    assert texts(await consumer.fetch_gated()) == ["2"]


# ── what goes through which gate ──────────────────────────────────────────────────────────────────────────────────


async def test_what_cannot_be_read_and_what_has_no_key_has_one_key_together(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    for fields in (
        (b"envelope", b"\x00\x01", b"content_encoding", b"gzip"),
        (b"envelope", b"no JSON"),
        (b"envelope", b"[1]"),
        (b"envelope", b"\x81", b"content_type", b"application/x-msgpack"),
        (b"something", b"else"),
    ):
        engine.add("orders", *fields)
    await consumer.publish(order("no key"), order("null", customer=None), order("a list", customer=["c"]))

    [first] = await consumer.fetch_gated()
    seen = [first.entry_id]
    await consumer.settle(first, Dead(reason="undecodable"))
    while found := await claimed(consumer):
        seen += [delivery.entry_id for delivery in found]
        for delivery in found:
            await consumer.settle(delivery, Done())

    assert len(seen) == 8
    assert seen == sorted(seen, key=lambda entry_id: [int(part) for part in entry_id.split("-")])


async def test_a_nested_key_is_found_and_a_json_type_may_be_named(engine: Engine) -> None:
    gate = Gate(name="OrderPlaced", types=("OrderPlaced",), path=("arguments", "x"), ordered=True)
    consumer = await engine.consumer(gates=(gate,))
    await consumer.publish(order("1", arguments={"x": 1}), order("2", arguments={"x": 2}))
    envelope = {"event_type": "OrderPlaced", "payload": {"text": "3", "arguments": {"x": 1}}}
    engine.add("orders", b"envelope", json.dumps(envelope).encode(), b"content_type", b"application/json")

    assert texts(await consumer.fetch_gated()) == ["1", "2"]


async def test_other_types_and_copies_for_other_groups_go_through_no_gate(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    body = order("x", customer="c").body
    other = body.replace(b"OrderPlaced", b"OrderShipped")
    for fields in (
        (b"envelope", body),
        (b"envelope", other),
        (b"envelope", other),
        (b"envelope", body, b"only", b"billing", b"replay", b"1-0"),
        (b"envelope", body, b"only", b"shipping", b"replay", b"1-0"),
    ):
        engine.add("orders", *fields)

    assert len(await consumer.fetch_gated()) == 4


async def test_two_gates_of_one_stream_hold_each_other_up_not_at_all(engine: Engine) -> None:
    other = Gate(name="OrderShipped", types=("OrderShipped",), path=("customer",), limit=1)
    consumer = await engine.consumer(gates=(ORDERED, other))
    body = order("x", customer="c").body
    for each in (body, body.replace(b"OrderPlaced", b"OrderShipped")) * 2:
        engine.add("orders", b"envelope", each)

    assert len(await consumer.fetch_gated()) == 2


async def test_what_was_read_without_a_gate_comes_to_it_when_it_is_taken_up(engine: Engine) -> None:
    before = await engine.consumer("before")
    await before.publish(*(order(f"{n}", customer="c") for n in range(3)))
    for delivery in await before.fetch():
        await before.settle(delivery, Release())
    consumer = await engine.consumer("a", gates=(ORDERED,))

    [first] = await claimed(consumer)
    assert text_of(first) == "0"
    await consumer.settle(first, Done())
    [second] = await claimed(consumer)
    assert (text_of(second), counts(second)) == ("1", (2, 1, 0))


# ── bounds and waiting ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_busy_key_parks_no_backlog_without_end(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(*(order(f"{n}", customer="c") for n in range(1300)))

    [first] = await consumer.fetch_gated(100)
    while await consumer.fetch_gated(100):
        pass

    assert await consumer.pending() == 1001
    await consumer.settle(first, Done())
    assert await consumer.fetch_gated(100) == []
    assert await consumer.pending() == 1001


async def test_long_envelopes_are_read_a_few_at_a_time_and_none_is_left_out(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(*(order(f"{n}", customer=n, more="x" * 20_000) for n in range(60)))

    seen = []
    while found := await consumer.fetch_gated(100):
        seen += texts(found)

    assert seen == [f"{n}" for n in range(60)]


async def test_who_waits_is_given_what_comes(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    waiting = asyncio.create_task(consumer.fetch_gated(wait=10.0))
    await asyncio.sleep(0.05)

    await consumer.publish(order("new", customer="c"))

    assert texts(await asyncio.wait_for(waiting, 5.0)) == ["new"]
    assert await consumer.fetch_gated(wait=0.05) == []


async def test_who_waits_at_a_shut_gate_for_all_goes_on_when_it_opens(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(TWO,))
    await consumer.publish(*(order(f"{n}") for n in range(3)))
    [first, _] = await consumer.fetch_gated()
    waiting = asyncio.create_task(consumer.fetch_gated(wait=10.0))
    await asyncio.sleep(0.05)

    await consumer.settle(first, Done())

    assert texts(await asyncio.wait_for(waiting, 5.0)) == ["2"]


async def test_who_settles_hears_that_somebody_was_let_through(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(order("0", customer="c"), order("1", customer="c"), order("other", customer="d"))
    first, other = await consumer.fetch_gated()

    await consumer.settle(other, Done())
    assert await consumer.transport.gates.news(within=0.01) == set()
    await consumer.settle(first, Done())
    assert await consumer.transport.gates.news(within=10.0) == {("orders", "shipping")}
    assert await consumer.transport.gates.news(within=0.01) == set()


# ── what goes wrong outside ───────────────────────────────────────────────────────────────────────────────────────


async def test_nobody_queues_behind_one_that_somebody_else_has_acked(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(*(order(f"{n}", customer="c") for n in range(2)))
    [first] = await consumer.fetch_gated()
    engine.ack("orders", "shipping", first.entry_id)

    assert await claimed(consumer) == []
    assert await consumer.recovery.mend("orders", "shipping") > 0
    assert texts(await claimed(consumer)) == ["1"]


async def test_an_entry_that_was_deleted_holds_nobody_up(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(*(order(f"{n}", customer="c") for n in range(4)))
    [first] = await consumer.fetch_gated()
    ids = [entry.entry_id for entry in await consumer.transport.read("orders", after="0", count=9, wait=0)]
    await consumer.settle(first, Release())
    for entry_id in ids[:3]:
        engine.delete("orders", entry_id)

    async def last() -> list[str]:
        return texts(await claimed(consumer))

    assert await eventually(last) == ["3"]


async def test_the_queue_is_made_again_from_the_pending_list(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(*(order(f"{n}", customer="c") for n in range(3)))
    [first] = await consumer.fetch_gated()
    engine.lose_indexes("orders", "shipping")

    assert await consumer.recovery.mend("orders", "shipping") == 2
    assert await claimed(consumer) == []
    await consumer.settle(first, Done())
    assert texts(await claimed(consumer)) == ["1"]
    assert await consumer.recovery.mend("orders", "shipping") == 0


async def test_a_group_that_is_made_again_begins_with_open_gates(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(*(order(f"{n}", customer="c") for n in range(2)))
    await consumer.fetch_gated()
    engine.lose_group("orders", "shipping")
    await consumer.transport.register(consumer.subscription)

    [first] = await consumer.fetch_gated()
    assert text_of(first) == "0"
    await consumer.settle(first, Done())
    assert texts(await claimed(consumer)) == ["1"]


async def test_a_dropped_group_leaves_no_gate_shut(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(*(order(f"{n}", customer="c") for n in range(2)))
    await consumer.fetch_gated()
    assert await consumer.inspection.drop_group("orders", "shipping")
    await consumer.transport.register(consumer.subscription)

    assert texts(await consumer.fetch_gated()) == ["0"]


async def test_a_worker_without_the_gate_still_opens_it(engine: Engine) -> None:
    gated, plain = await engine.consumer("a", gates=(ORDERED,)), await engine.consumer("b")
    await gated.publish(*(order(f"{n}", customer="c") for n in range(3)))
    [first] = await gated.fetch_gated()
    await gated.settle(first, Retry(delay=0.0))

    for n in range(3):
        [delivery] = await claimed(plain)
        assert text_of(delivery) == f"{n}"
        await plain.settle(delivery, Done())
    assert await plain.pending() == 0


async def test_a_history_that_is_lost_leaves_no_gate_shut(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer(gates=(ORDERED,))
    await consumer.publish(*(order(f"{n}", customer="c") for n in range(4)))
    [first] = await consumer.fetch_gated()
    redis_engine.client.delete(keys.history("orders", "shipping"))
    await consumer.settle(first, Done())

    assert await consumer.recovery.mend("orders", "shipping") > 0
    for n in range(1, 4):
        [delivery] = await claimed(consumer)
        assert text_of(delivery) == f"{n}"
        await consumer.settle(delivery, Done())
    assert redis_engine.client.exists(keys.gates("orders", "shipping"), keys.queued("orders", "shipping")) == 0


@pytest.mark.parametrize("key", [keys.gates, keys.queued])
async def test_where_a_foreign_key_is_in_the_way_nothing_is_read(
    redis_engine: RedisEngine, key: Callable[[str, str], str]
) -> None:
    consumer = await redis_engine.consumer(gates=(ORDERED,))
    await consumer.publish(order("0", customer="c"))
    redis_engine.client.set(key("orders", "shipping"), "foreign")

    with pytest.raises(TransportError, match="WRONGTYPE"):
        await consumer.fetch_gated()
    assert await consumer.pending() == 0
    redis_engine.client.delete(key("orders", "shipping"))
    assert texts(await consumer.fetch_gated()) == ["0"]


async def test_a_full_server_lets_entries_through_as_before(private_redis: RedisServer) -> None:
    engine = RedisEngine(private_redis)
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(*(order(f"{n}", customer="c") for n in range(3)))
    engine.client.config_set("maxmemory", 1)

    held = await consumer.fetch_gated()
    await consumer.recovery.mend("orders", "shipping")
    for n in range(3):
        [delivery] = held
        assert text_of(delivery) == f"{n}"
        await consumer.settle(delivery, Done())
        held = await claimed(consumer)
    engine.client.config_set("maxmemory", 0)
    await engine.close()


async def test_a_server_that_is_killed_and_started_again_knows_who_is_through(private_redis: RedisServer) -> None:
    engine = RedisEngine(private_redis)
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(*(order(f"{n}", customer="c") for n in range(3)))
    [first] = await consumer.fetch_gated()
    private_redis.kill()
    private_redis.start()
    after = await engine.consumer(gates=(ORDERED,))

    assert await after.fetch_gated() == []
    await after.settle(first, Done())
    assert texts(await claimed(after)) == ["1"]
    await engine.close()


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_queues_is_shown_as_waiting_and_owned_by_nobody(engine: Engine) -> None:
    consumer = await engine.consumer(gates=(ORDERED,))
    await consumer.publish(*(order(f"{n}", customer="c") for n in range(2)))
    [first] = await consumer.fetch_gated()

    _, second = await consumer.inspection.pending("orders", "shipping", limit=10)

    assert (second.consumer, second.alive, second.due_in_ms) == ("~queued", True, None)
    told = await consumer.inspection.state("orders", "shipping", second.entry_id)
    assert (told["state"], told["due_in_ms"]) == ("waiting", None)
    assert [each.consumer for each in await consumer.inspection.consumers("orders", "shipping")] == ["a"]
    assert await consumer.recovery.lost_owners("orders", "shipping", lease=60.0) == {"a": "dead"}
    [stats] = await consumer.transport.stats("orders", "shipping")
    assert (stats.pending, stats.consumers) == (2, 1)
    assert first.entry_id != second.entry_id
