"""What a handler has come to: kept through everything but the end of its entry, and written by its owner only."""

from __future__ import annotations

import itertools

import pytest

from streamtask.transport.redis import keys
from streamtask.transport.values import Dead, Delivery, Done, Mark, Outcome, Progress, Release, Retry, Verdict, Wait
from tests.conformance.engines import Consumer, Engine, RedisEngine, order

HALF = Progress(0.5, "half of it")

_numbers = itertools.count(1)


async def load(consumer: Consumer, delivery: Delivery) -> bytes | None:
    return await consumer.transport.checkpoints.load(delivery)


async def save(consumer: Consumer, delivery: Delivery, state: bytes) -> bool:
    return await consumer.transport.checkpoints.save(delivery, state, next(_numbers))


async def progress(consumer: Consumer) -> list[Progress | None]:
    page = await consumer.inspection.pending(consumer.stream, consumer.group, limit=100)
    return [entry.progress for entry in page]


async def test_the_last_state_is_kept(engine: Engine) -> None:
    consumer = await engine.consumer()
    one, two = await consumer.publish_and_fetch(order(), order())

    assert await load(consumer, one) is None
    assert await save(consumer, one, b'{"n":1}')
    assert await save(consumer, one, b'{"n":2}')

    assert await load(consumer, one) == b'{"n":2}'
    assert await load(consumer, two) is None


async def test_a_state_that_comes_late_takes_no_later_ones_place(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    checkpoints = consumer.transport.checkpoints
    assert await checkpoints.save(delivery, b"ninth", 9)
    assert await checkpoints.save(delivery, b"tenth", 10)

    # Asked for before, given up, and there only now.
    assert await checkpoints.save(delivery, b"ninth", 9)

    assert await load(consumer, delivery) == b"tenth"


async def test_the_numbers_of_an_earlier_delivery_count_no_more(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.transport.checkpoints.save(delivery, b"early", 9)
    await consumer.settle(delivery, Retry(delay=0))
    again = await consumer.claim_one()

    # By another process, which counts from 1.
    assert await consumer.transport.checkpoints.save(again, b"late", 1)

    assert await load(consumer, again) == b"late"


@pytest.mark.parametrize("outcome", [Retry(delay=0), Retry(delay=0, failed=False), Release()])
async def test_what_runs_again_finds_its_state(engine: Engine, outcome: Outcome) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await save(consumer, delivery, b"1")
    await consumer.transport.checkpoints.report([(delivery, "e1", HALF)])

    await consumer.settle(delivery, outcome)
    again = await consumer.claim_one()

    assert await load(consumer, again) == b"1"
    assert await progress(consumer) == [HALF]


async def test_what_was_handed_back_or_waited_finds_its_state(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await save(consumer, delivery, b"1")

    await consumer.hand_back(started=[delivery.entry_id])
    crashed = await consumer.claim_one()
    assert await load(consumer, crashed) == b"1"
    await consumer.settle(crashed, Wait("OrderPlaced", "v1", timeout=60))

    assert await load(consumer, await consumer.claim_one()) == b"1"


@pytest.mark.parametrize(
    "outcome",
    [
        Done(),
        Done(emits=(order("emitted", stream="bills"),)),
        Done(mark=Mark("m", window=60)),
        Dead(reason="rejected"),
    ],
    ids=["done", "emitted", "marked", "dead"],
)
@pytest.mark.parametrize("deliveries", [1, 2])
async def test_nothing_is_kept_of_what_is_done_or_dead(engine: Engine, outcome: Outcome, deliveries: int) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    if deliveries == 2:
        await consumer.settle(delivery, Release())
        delivery = await consumer.claim_one()
    await save(consumer, delivery, b"1")
    await consumer.transport.checkpoints.report([(delivery, "e1", HALF)])

    assert await consumer.settle(delivery, outcome) is Verdict.SETTLED

    assert await load(consumer, delivery) is None
    if isinstance(engine, RedisEngine):
        assert not engine.client.exists(keys.history("orders", "shipping"))


async def test_what_others_keep_is_not_touched_by_one_that_is_done(engine: Engine) -> None:
    consumer = await engine.consumer()
    done, kept = await consumer.publish_and_fetch(order(), order())
    await save(consumer, kept, b"kept")
    await save(consumer, done, b"done")

    await consumer.settle(done, Done())

    assert await load(consumer, kept) == b"kept"


async def test_a_late_owner_keeps_nothing(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    [late] = await a.publish_and_fetch()
    assert await save(a, late, b"early")
    await a.hand_back()
    fresh = await b.claim_one()
    assert await save(b, fresh, b"successor's")
    await b.transport.checkpoints.report([(fresh, "e1", HALF)])

    assert not await save(a, late, b"late")
    await a.transport.checkpoints.report([(late, "e1", Progress(0.9))])

    assert await load(b, fresh) == b"successor's"
    assert await progress(b) == [HALF]


async def test_a_late_delivery_of_the_same_owner_keeps_nothing(engine: Engine) -> None:
    consumer = await engine.consumer()
    [late] = await consumer.publish_and_fetch()
    await consumer.hand_back()
    fresh = await consumer.claim_one()
    await save(consumer, fresh, b"fresh")

    assert not await save(consumer, late, b"late")

    assert await load(consumer, fresh) == b"fresh"


@pytest.mark.parametrize("outcome", [Done(), Dead(reason="rejected"), Retry(delay=60)])
async def test_what_is_settled_keeps_nothing_any_more(engine: Engine, outcome: Outcome) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, outcome)

    assert not await save(consumer, delivery, b"late")
    await consumer.transport.checkpoints.report([(delivery, "e1", HALF)])

    assert await load(consumer, delivery) is None
    assert await progress(consumer) == ([None] if isinstance(outcome, Retry) else [])


async def test_nothing_is_kept_in_a_group_that_has_vanished(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    engine.lose_group("orders", "shipping")

    assert not await save(consumer, delivery, b"1")
    await consumer.transport.checkpoints.report([(delivery, "e1", HALF)])


async def test_a_group_that_is_made_again_begins_without_states(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await save(consumer, delivery, b"1")
    engine.lose_group("orders", "shipping")
    await consumer.transport.register(consumer.subscription)

    [again] = await consumer.fetch()

    assert again.entry_id == delivery.entry_id
    assert await load(consumer, again) is None


async def test_progress_is_shown_for_each_entry_and_where_one_is(engine: Engine) -> None:
    consumer = await engine.consumer()
    silent, speaking = await consumer.publish_and_fetch(order(), order())
    await consumer.beat()

    await consumer.transport.checkpoints.report([(speaking, "e1", Progress(0.25)), (speaking, "e1", HALF)])

    assert await progress(consumer) == [None, HALF]
    states = [await consumer.inspection.state("orders", "shipping", each.entry_id) for each in (silent, speaking)]
    assert [state["progress"] for state in states] == [None, HALF]


async def test_of_a_batch_only_those_that_are_still_held_are_shown(engine: Engine) -> None:
    consumer = await engine.consumer()
    done, held = await consumer.publish_and_fetch(order(), order())
    await consumer.settle(done, Done())

    await consumer.transport.checkpoints.report([(done, "e1", HALF), (held, "e1", HALF)])

    assert await progress(consumer) == [HALF]


async def test_progress_that_is_none_is_not_shown(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    one, two = await consumer.publish_and_fetch(order(), order())
    history = keys.history("orders", "shipping")
    redis_engine.client.hset(history, f"{one.entry_id}:p", "no progress")
    redis_engine.client.hset(history, f"{two.entry_id}:p", b"\xff")

    assert await progress(consumer) == [None, None]


async def test_a_full_server_keeps_states_all_the_same(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    redis_engine.client.config_set("maxmemory", "1")
    try:
        assert await save(consumer, delivery, b"x" * 1000)
    finally:
        redis_engine.client.config_set("maxmemory", "0")

    assert await load(consumer, delivery) == b"x" * 1000
