"""Retention: nothing goes that a group has not finished; what is finished does not stay for ever."""

from __future__ import annotations

from streamtask.transport.values import Done, Retry
from tests.conformance.engines import Engine, order, text_of


async def test_trimming_keeps_the_newest_entries(engine: Engine) -> None:
    consumer = await engine.consumer()
    for delivery in await consumer.publish_and_fetch(*(order(f"{n}") for n in range(10))):
        await consumer.settle(delivery, Done())

    assert await consumer.retention.trim("orders", max_age=3600, max_entries=3) == 7

    assert await consumer.texts() == ["7", "8", "9"]


async def test_trimming_removes_what_is_too_old(engine: Engine) -> None:
    consumer = await engine.consumer()
    [old] = await consumer.publish_and_fetch(order("old"))
    await engine.let_pass(0.3)
    [new] = await consumer.publish_and_fetch(order("new"))
    for delivery in (old, new):
        await consumer.settle(delivery, Done())

    assert await consumer.retention.trim("orders", max_age=0.2, max_entries=1000) == 1

    assert await consumer.texts() == ["new"]


async def test_trimming_never_removes_what_a_group_has_not_read(engine: Engine) -> None:
    fast, slow = await engine.consumer(group="fast"), await engine.consumer(group="slow")
    for delivery in await fast.publish_and_fetch(*(order(f"{n}") for n in range(5))):
        await fast.settle(delivery, Done())
    [first] = await slow.fetch(1)
    await slow.settle(first, Done())

    assert await fast.retention.trim("orders", max_age=0, max_entries=0) == 1

    assert [text_of(delivery) for delivery in await slow.fetch()] == ["1", "2", "3", "4"]


async def test_trimming_never_removes_what_is_held_parked_or_waiting(engine: Engine) -> None:
    consumer = await engine.consumer()
    held, parked, done = await consumer.publish_and_fetch(order("held"), order("parked"), order("done"))
    await consumer.settle(parked, Retry(delay=0))
    await consumer.settle(done, Done())

    await consumer.retention.trim("orders", max_age=0, max_entries=0)

    assert text_of(await consumer.claim_one()) == "parked"
    assert await consumer.inspection.entry("orders", held.entry_id) is not None


async def test_an_old_pending_entry_does_not_pin_what_is_done_above_it(engine: Engine) -> None:
    consumer = await engine.consumer()
    held, *others = await consumer.publish_and_fetch(order("held"), *(order() for _ in range(30)))
    also_held = others.pop(10)
    for delivery in others:
        await consumer.settle(delivery, Done())

    assert await consumer.retention.trim("orders", max_age=3600, max_entries=0) == 29

    assert (await consumer.inspection.stream("orders")).length == 2
    assert await consumer.transport.renew([held, also_held]) == []


async def test_a_sweep_above_a_pending_entry_keeps_what_another_group_needs(engine: Engine) -> None:
    fast, slow = await engine.consumer(group="fast"), await engine.consumer(group="slow")
    _held, *others = await fast.publish_and_fetch(*(order(f"{n}") for n in range(10)))
    for delivery in others:
        await fast.settle(delivery, Done())
    for delivery in (await slow.fetch(5))[:4]:
        await slow.settle(delivery, Done())

    await fast.retention.trim("orders", max_age=0, max_entries=0)

    assert await fast.texts() == ["0", "4", "5", "6", "7", "8", "9"]


async def test_a_sweep_leaves_what_is_neither_old_nor_too_much(engine: Engine) -> None:
    consumer = await engine.consumer()
    _held, *others = await consumer.publish_and_fetch(*(order(f"{n}") for n in range(10)))
    for delivery in others:
        await consumer.settle(delivery, Done())

    await consumer.retention.trim("orders", max_age=3600, max_entries=4)

    assert await consumer.texts() == ["0", "6", "7", "8", "9"]


async def test_trimming_again_later_sweeps_what_was_finished_since(engine: Engine) -> None:
    consumer = await engine.consumer()
    held, *others = await consumer.publish_and_fetch(*(order(f"{n}") for n in range(6)))
    await consumer.settle(others.pop(), Done())
    await consumer.retention.trim("orders", max_age=3600, max_entries=0)
    for delivery in others:
        await consumer.settle(delivery, Done())

    for _ in range(3):
        await consumer.retention.trim("orders", max_age=3600, max_entries=0)

    assert await consumer.texts() == [text_of(held)]


async def test_trimming_thousands_leaves_none_behind(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(*(order() for _ in range(2500)))
    deliveries = await consumer.fetch(2500)
    await consumer.transport.settle([(delivery, Done()) for delivery in deliveries[1:]])

    removed = 0
    for _ in range(5):
        removed += await consumer.retention.trim("orders", max_age=3600, max_entries=0)

    assert removed == 2499


async def test_a_stream_without_groups_is_trimmed_by_its_bounds_alone(engine: Engine) -> None:
    consumer = await engine.consumer(stream="bills")
    await consumer.publish(*(order(f"{n}") for n in range(5)))

    assert await consumer.retention.trim("orders", max_age=3600, max_entries=2) == 3

    assert await consumer.texts("orders") == ["3", "4"]


async def test_trimming_a_stream_that_is_not_there_removes_nothing(engine: Engine) -> None:
    consumer = await engine.consumer()

    assert await consumer.retention.trim("nowhere", max_age=0, max_entries=0) == 0
    assert await consumer.inspection.streams() == ["orders"]


async def test_a_vanished_group_still_keeps_what_it_needs_from_being_trimmed(engine: Engine) -> None:
    consumer, other = await engine.consumer(), await engine.consumer(group="billing")
    await consumer.publish_and_fetch(order("needed"))
    await other.settle(await other.fetch_one(), Done())
    await consumer.retention.trim("orders", max_age=3600, max_entries=1000)
    engine.lose_group("orders", "shipping")

    await other.retention.trim("orders", max_age=3600, max_entries=0)

    await consumer.transport.register(consumer.subscription)
    assert text_of(await consumer.fetch_one()) == "needed"


async def test_a_group_that_vanished_before_its_first_checkpoint_keeps_everything_too(engine: Engine) -> None:
    consumer, other = await engine.consumer(), await engine.consumer(group="billing")
    await consumer.publish(order("needed"))
    await other.settle(await other.fetch_one(), Done())
    engine.lose_group("orders", "shipping")

    assert await other.retention.trim("orders", max_age=3600, max_entries=0) == 0

    await consumer.transport.register(consumer.subscription)
    assert text_of(await consumer.fetch_one()) == "needed"


async def test_a_dropped_group_holds_nothing_back(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish_and_fetch()
    await consumer.retention.trim("orders", max_age=3600, max_entries=1000)

    await consumer.inspection.drop_group("orders", "shipping")

    assert await consumer.retention.trim("orders", max_age=3600, max_entries=0) == 1


async def test_a_consumer_that_is_gone_and_holds_nothing_is_swept(engine: Engine) -> None:
    gone, holding, alive = [await engine.consumer(owner) for owner in ("gone", "holding", "alive")]
    await holding.publish_and_fetch()
    for consumer in (gone, alive):
        [delivery] = await consumer.publish_and_fetch()
        await consumer.settle(delivery, Done())
    await alive.beat()
    await engine.let_pass(0.1)

    assert await alive.retention.sweep_consumers("orders", "shipping", idle=3600) == 0
    assert await alive.retention.sweep_consumers("orders", "shipping", idle=0.05) == 1

    consumers = await alive.inspection.consumers("orders", "shipping")
    assert sorted(consumer.consumer for consumer in consumers) == ["alive", "holding"]
