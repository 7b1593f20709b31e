"""Types and versions: what a group is interested in, what it skips, what waits for newer workers."""

from __future__ import annotations

from streamtask.transport.values import Dead, Delivery, Skip, Subscription, Wait
from tests.conformance.engines import ORDER_PLACED, Consumer, Engine, counts, order, text_of

NEWER = ("OrderPlaced", "v2")
OTHER = ("OrderLost", "v1")


async def waiting_for_newer(consumer: Consumer, *, timeout: float = 60) -> Delivery:
    """An entry that waits for a worker that handles the newer version."""
    [delivery] = await consumer.publish_and_fetch(order("1"))
    await consumer.settle(delivery, Wait(*NEWER, timeout=timeout))
    return delivery


async def test_the_interest_of_a_group_grows_with_every_worker(engine: Engine) -> None:
    await engine.consumer(handles=[ORDER_PLACED])
    consumer = await engine.consumer(handles=[NEWER])

    assert await consumer.transport.interest("orders", "shipping") == {ORDER_PLACED, NEWER}
    registered = await consumer.transport.register(consumer.subscription)
    assert registered.interest == {ORDER_PLACED, NEWER}


async def test_interest_is_kept_for_each_group_and_stream(engine: Engine) -> None:
    await engine.consumer(handles=[ORDER_PLACED])
    await engine.consumer(group="billing", handles=[NEWER])
    consumer = await engine.consumer(stream="bills", handles=[OTHER])

    assert await consumer.transport.interest("orders", "shipping") == {ORDER_PLACED}
    assert await consumer.transport.interest("orders", "billing") == {NEWER}
    assert await consumer.transport.interest("bills", "shipping") == {OTHER}


async def test_nobody_is_interested_where_nobody_registered(engine: Engine) -> None:
    transport = await engine.transport()

    assert await transport.interest("orders", "shipping") == frozenset()


async def test_a_type_may_contain_any_character(engine: Engine) -> None:
    odd = ("shop:Order Placed/é", "2024:1")

    consumer = await engine.consumer(handles=[odd])

    assert await consumer.transport.interest("orders", "shipping") == {odd}


async def test_a_skipped_entry_is_acked_for_good(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()

    await consumer.settle(delivery, Skip(event_type="OrderLost"))

    assert await consumer.pending() == 0
    assert await consumer.fetch() == (await consumer.claim()).deliveries == []


async def test_the_first_skipped_id_of_a_type_is_told_when_the_type_joins(engine: Engine) -> None:
    consumer = await engine.consumer(handles=[ORDER_PLACED])
    first, second = await consumer.publish_and_fetch(order(), order())
    await consumer.settle(first, Skip(event_type="OrderLost"))
    await consumer.settle(second, Skip(event_type="OrderLost"))
    grown = Subscription(stream="orders", group="shipping", handles=frozenset({ORDER_PLACED, OTHER}))

    registered = await consumer.transport.register(grown)
    again = await consumer.transport.register(grown)

    assert registered.skipped_before == {"OrderLost": first.entry_id}
    assert again.skipped_before == {}


async def test_a_plain_skip_notes_nothing(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()

    await consumer.settle(delivery, Skip())

    [group] = await consumer.inspection.groups("orders")
    assert group["skipped"] == {}


async def test_a_skipped_copy_for_one_group_is_not_noted(engine: Engine) -> None:
    consumer, other = await engine.consumer(handles=[ORDER_PLACED]), await engine.consumer(group="billing", handles=[])
    [failed] = await consumer.publish_and_fetch()
    await other.settle(await other.fetch_one(), Skip())
    await consumer.settle(failed, Dead(reason="rejected"))
    [letter] = await consumer.dead_letters.page("orders", after="", limit=1)
    await consumer.dead_letters.replay("orders", letter.dead_id)

    await other.settle(await other.fetch_one(), Skip(event_type="OrderPlaced"))

    registered = await other.transport.register(
        Subscription(stream="orders", group="billing", handles=frozenset({ORDER_PLACED}))
    )
    assert registered.skipped_before == {}


async def test_a_waiting_entry_goes_to_a_worker_that_handles_it(engine: Engine) -> None:
    old, new = await engine.consumer("old"), await engine.consumer("new", handles=[ORDER_PLACED, NEWER])
    await waiting_for_newer(old)

    assert (await old.claim()).deliveries == []

    [delivery] = (await new.claim()).deliveries
    assert (text_of(delivery), delivery.owner) == ("1", "new")
    assert counts(delivery) == (2, 1, 0)


async def test_a_worker_of_another_version_or_type_does_not_get_what_waits(engine: Engine) -> None:
    old = await engine.consumer("old")
    others = await engine.consumer("others", handles=[("OrderPlaced", "v3"), ("Other", "v2")])
    await waiting_for_newer(old)

    claimed = await others.claim()

    assert claimed.deliveries == claimed.expired == []


async def test_waiting_entries_are_claimed_no_more_than_asked(engine: Engine) -> None:
    old, new = await engine.consumer("old"), await engine.consumer("new", handles=[NEWER])
    for delivery in await old.publish_and_fetch(*(order() for _ in range(4))):
        await old.settle(delivery, Wait(*NEWER, timeout=60))

    assert (await new.claim(0)).next_due == 0
    first, second = await new.claim(3), await new.claim(3)
    assert (len(first.deliveries), first.next_due) == (3, 0)
    assert (len(second.deliveries), second.next_due) == (1, None)


async def test_who_waited_too_long_is_given_to_anyone_as_expired(engine: Engine) -> None:
    old = await engine.consumer("old")
    await waiting_for_newer(old, timeout=0.05)
    await engine.let_pass(0.1)

    claimed = await old.claim(0)

    assert claimed.deliveries == []
    [expired] = claimed.expired
    assert (text_of(expired), expired.owner, expired.crashes) == ("1", "old", 0)
    await old.settle(expired, Dead(reason="unsupported_version"))
    assert await old.pending() == 0


async def test_what_waits_does_not_say_when_the_next_retry_is_due(engine: Engine) -> None:
    old = await engine.consumer("old")
    await waiting_for_newer(old)

    assert (await old.claim()).next_due is None


async def test_what_waits_survives_the_end_of_every_worker(engine: Engine) -> None:
    old = await engine.consumer("old")
    await waiting_for_newer(old)
    await old.recovery.retire("old", [old.subscription])

    new = await engine.consumer("new", handles=[NEWER])

    assert len((await new.claim()).deliveries) == 1
