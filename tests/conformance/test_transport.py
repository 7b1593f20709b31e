"""Groups, fetching, reading, leases and marks: what every engine promises."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from streamtask.errors import TransportError
from streamtask.transport.values import Dead, Done, Mark, Release, Retry, Subscription, Verdict
from tests.conformance.engines import ORDER_PLACED, Engine, counts, eventually, order, text_of

# ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_group_begins_at_the_earliest_entry(engine: Engine) -> None:
    publisher = await engine.transport()
    await publisher.publish([order("before")])

    consumer = await engine.consumer(start="earliest")

    assert text_of(await consumer.fetch_one()) == "before"


async def test_a_new_group_may_begin_with_what_comes_next(engine: Engine) -> None:
    publisher = await engine.transport()
    await publisher.publish([order("before")])

    consumer = await engine.consumer(start="latest")
    await publisher.publish([order("after")])

    assert text_of(await consumer.fetch_one()) == "after"


async def test_a_new_group_may_begin_at_a_moment_that_entry_included(engine: Engine) -> None:
    publisher = await engine.transport()
    await publisher.publish([order("before")])
    await engine.let_pass(0.01)
    [first] = await publisher.publish([order("first")])
    moment = datetime.fromtimestamp(int(str(first).partition("-")[0]) / 1000, UTC)

    consumer = await engine.consumer(start=moment)

    assert text_of(await consumer.fetch_one()) == "first"


async def test_registering_again_says_that_nothing_was_made_and_moves_nothing(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish_and_fetch(order("1"))

    registered = await consumer.transport.register(consumer.subscription)

    assert registered.created is False
    assert await consumer.fetch() == []


async def test_registering_says_when_the_group_was_made(engine: Engine) -> None:
    transport = await engine.transport()

    registered = await transport.register(Subscription(stream="orders", group="g", handles=frozenset({ORDER_PLACED})))

    assert registered.created is True
    assert registered.interest == {ORDER_PLACED}


async def test_a_vanished_group_fails_the_fetch_and_is_not_made_silently(engine: Engine) -> None:
    consumer = await engine.consumer()
    engine.lose_group("orders", "shipping")

    with pytest.raises(TransportError):
        await consumer.fetch()


async def test_a_vanished_group_is_made_again_at_its_checkpoint(engine: Engine) -> None:
    consumer = await engine.consumer()
    for delivery in await consumer.publish_and_fetch(order("1"), order("2")):
        await consumer.settle(delivery, Done())
    await consumer.publish_and_fetch(order("held"), order("held too"))
    await consumer.retention.trim("orders", max_age=3600, max_entries=1000)
    engine.lose_group("orders", "shipping")

    registered = await consumer.transport.register(consumer.subscription)

    assert registered.created is True
    assert [text_of(delivery) for delivery in await consumer.fetch()] == ["held", "held too"]


async def test_a_vanished_group_that_was_never_checkpointed_loses_nothing(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish_and_fetch(order("held"))
    engine.lose_group("orders", "shipping")

    await consumer.transport.register(consumer.subscription)

    assert text_of(await consumer.fetch_one()) == "held"


async def test_a_vanished_group_that_is_made_again_counts_anew(engine: Engine) -> None:
    consumer = await engine.consumer()
    [before] = await consumer.publish_and_fetch()
    await consumer.settle(before, Retry(delay=0))
    await consumer.settle(await consumer.claim_one(), Release())
    engine.lose_group("orders", "shipping")
    await consumer.transport.register(consumer.subscription)

    [again] = await consumer.fetch()
    await consumer.settle(again, Retry(delay=0))

    assert (again.deliveries, again.failures, again.uncharged) == (1, 0, 0)
    claimed = await consumer.claim_one()
    assert (claimed.deliveries, claimed.failures, claimed.uncharged) == (2, 1, 0)


async def test_a_vanished_group_that_began_with_what_came_next_loses_nothing(engine: Engine) -> None:
    consumer = await engine.consumer(start="latest")
    await consumer.publish_and_fetch(order("held"))
    engine.lose_group("orders", "shipping")

    await consumer.transport.register(consumer.subscription)

    assert text_of(await consumer.fetch_one()) == "held"


async def test_a_vanished_group_that_began_with_what_came_next_is_not_given_all_history(engine: Engine) -> None:
    publisher = await engine.transport()
    await publisher.publish([order("before")])
    consumer = await engine.consumer(start="latest")
    engine.lose_group("orders", "shipping")
    await publisher.publish([order("after")])

    await consumer.transport.register(consumer.subscription)

    assert text_of(await consumer.fetch_one()) == "after"


async def test_what_was_held_in_a_vanished_group_cannot_be_settled(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    engine.lose_group("orders", "shipping")

    assert await consumer.transport.renew([delivery]) == [delivery]
    assert await consumer.settle(delivery, Done(emits=(order(stream="bills"),))) is Verdict.LOST
    assert await consumer.texts("bills") == []


# ── fetching ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_fetch_brings_at_most_count_entries_of_each_stream(engine: Engine) -> None:
    consumer = await engine.consumer()
    beside = engine.neighbour("orders")
    await engine.consumer(stream=beside)
    await consumer.publish(*(order(stream=stream) for stream in ("orders", beside) for _ in range(5)))

    deliveries = await consumer.transport.fetch("shipping", "a", ["orders", beside], count=3, wait=0)

    assert sorted(delivery.stream for delivery in deliveries) == ["orders"] * 3 + [beside] * 3


async def test_streams_that_one_fetch_can_read_are_told(engine: Engine) -> None:
    transport, beside = await engine.transport(), engine.neighbour("orders")

    together = transport.together(["orders", "bills", beside])

    assert sorted(stream for streams in together for stream in streams) == sorted(["orders", "bills", beside])
    [one] = [streams for streams in together if "orders" in streams]
    assert beside in one


async def test_a_fetched_delivery_says_whose_it_is(engine: Engine) -> None:
    consumer = await engine.consumer("a")

    [delivery] = await consumer.publish_and_fetch()

    assert (delivery.stream, delivery.group, delivery.owner) == ("orders", "shipping", "a")
    assert counts(delivery) == (1, 1, 0)


async def test_an_entry_goes_to_one_consumer_of_a_group(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    await a.publish(order("1"), order("2"))

    [first] = await a.fetch(1)
    [second] = await b.fetch(1)

    assert (text_of(first), text_of(second)) == ("1", "2")
    assert await a.fetch() == await b.fetch() == []


async def test_every_group_sees_every_entry(engine: Engine) -> None:
    shipping, billing = await engine.consumer(group="shipping"), await engine.consumer(group="billing")
    await shipping.publish(order("1"))

    assert text_of(await shipping.fetch_one()) == text_of(await billing.fetch_one()) == "1"


async def test_a_fetch_without_wait_comes_back_at_once_with_nothing(engine: Engine) -> None:
    consumer = await engine.consumer()

    async with asyncio.timeout(5):
        assert await consumer.fetch(wait=0) == []


async def test_a_fetch_ends_after_its_wait_with_nothing(engine: Engine) -> None:
    consumer = await engine.consumer()

    async with asyncio.timeout(5):
        assert await consumer.fetch(wait=0.05) == []


async def test_a_waiting_fetch_wakes_when_something_is_published(engine: Engine) -> None:
    consumer, publisher = await engine.consumer(), await engine.transport()

    fetch = asyncio.create_task(consumer.fetch(wait=30))
    await asyncio.sleep(0.02)
    assert not fetch.done()
    await publisher.publish([order("1")])

    async with asyncio.timeout(5):
        [delivery] = await fetch
    assert text_of(delivery) == "1"


async def test_a_waiting_fetch_wakes_when_another_thread_publishes(engine: Engine) -> None:
    consumer = await engine.consumer()

    async def publish() -> None:
        transport = await engine.transport()
        await transport.publish([order("1")])
        await transport.close()

    fetch = asyncio.create_task(consumer.fetch(wait=30))
    await asyncio.sleep(0.02)
    thread = threading.Thread(target=lambda: asyncio.run(publish()))
    thread.start()

    async with asyncio.timeout(5):
        [delivery] = await fetch
    thread.join()
    assert text_of(delivery) == "1"


async def test_a_waiting_fetch_wakes_for_any_of_its_streams(engine: Engine) -> None:
    consumer, publisher = await engine.consumer(), await engine.transport()
    beside = engine.neighbour("orders")
    await engine.consumer(stream=beside)

    fetch = asyncio.create_task(consumer.transport.fetch("shipping", "a", ["orders", beside], count=1, wait=30))
    await asyncio.sleep(0.02)
    await publisher.publish([order("1", stream=beside)])

    async with asyncio.timeout(5):
        [delivery] = await fetch
    assert delivery.stream == beside


async def test_one_of_two_waiting_consumers_gets_the_entry(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    publisher = await engine.transport()

    fetches = [asyncio.create_task(consumer.fetch(1, wait=0.5)) for consumer in (a, b)]
    await asyncio.sleep(0.02)
    await publisher.publish([order("1")])

    assert sum(len(found) for found in await asyncio.gather(*fetches)) == 1


async def test_a_cancelled_fetch_swallows_nothing(engine: Engine) -> None:
    consumer, publisher = await engine.consumer(), await engine.transport()

    fetch = asyncio.create_task(consumer.fetch(wait=30))
    await asyncio.sleep(0.02)
    fetch.cancel()
    await asyncio.gather(fetch, return_exceptions=True)
    await publisher.publish([order("1")])

    async def found_by_fetch_or_hand_back() -> str | None:
        for delivery in [*await consumer.fetch(), *(await consumer.claim()).deliveries]:
            return text_of(delivery)
        await consumer.hand_back(keep=[])
        return None

    assert await eventually(found_by_fetch_or_hand_back) == "1"


async def test_what_a_cancelled_fetch_had_been_given_comes_back_and_what_is_held_stays(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    await consumer.publish(order("held"))
    held = await consumer.fetch_one()
    # The reply to this fetch never reaches its caller.
    await consumer.publish_and_fetch(order("unknown to its owner"))

    assert await consumer.hand_back(started=[], keep=[held.entry_id]) == 1

    returned = await consumer.claim_one()
    assert (text_of(returned), counts(returned)) == ("unknown to its owner", (2, 1, 0))
    assert await consumer.settle(held, Done()) is Verdict.SETTLED


async def test_a_transport_goes_on_after_a_cancelled_fetch(engine: Engine) -> None:
    consumer = await engine.consumer()
    for _ in range(5):
        fetch = asyncio.create_task(consumer.fetch(wait=30))
        await asyncio.sleep(0.01)
        fetch.cancel()
        await asyncio.gather(fetch, return_exceptions=True)

    await consumer.publish(order("1"))

    assert text_of((await consumer.fetch(wait=5))[0]) == "1"


async def test_threads_with_loops_of_their_own_share_the_work_and_run_nothing_twice(engine: Engine) -> None:
    consumer = await engine.consumer("publisher")
    handled: list[str] = []

    async def work(owner: str) -> None:
        transport = await engine.transport()
        while deliveries := await transport.fetch("shipping", owner, ["orders"], count=7, wait=0.2):
            await transport.renew(deliveries)
            done = [(delivery, Done(emits=(order(text_of(delivery), stream="bills"),))) for delivery in deliveries]
            assert set(await transport.settle(done)) == {Verdict.SETTLED}
            handled.extend(text_of(delivery) for delivery in deliveries)
        await transport.close()

    threads = [threading.Thread(target=lambda owner=owner: asyncio.run(work(owner))) for owner in "abc"]
    for thread in threads:
        thread.start()
    for n in range(0, 300, 10):
        await consumer.publish(*(order(f"{n + i}") for i in range(10)))
    for thread in threads:
        await asyncio.to_thread(thread.join)

    assert sorted(handled, key=int) == [f"{n}" for n in range(300)]
    assert sorted(await consumer.texts("bills"), key=int) == [f"{n}" for n in range(300)]


# ── reading without a group ──────────────────────────────────────────────────────────────────────────────────────────


async def test_reading_changes_nothing_for_the_groups(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("1"))

    assert await consumer.texts() == await consumer.texts() == ["1"]
    assert await consumer.pending() == 0
    assert text_of(await consumer.fetch_one()) == "1"


async def test_reading_goes_on_after_the_last_id_seen(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(*(order(f"{n}") for n in range(5)))

    first = await consumer.transport.read("orders", after="0", count=2, wait=0)
    rest = await consumer.transport.read("orders", after=first[-1].entry_id, count=10, wait=0)

    assert [text_of(entry) for entry in first] == ["0", "1"]
    assert [text_of(entry) for entry in rest] == ["2", "3", "4"]


async def test_reading_from_the_end_waits_for_what_is_new(engine: Engine) -> None:
    consumer, publisher = await engine.consumer(), await engine.transport()
    await publisher.publish([order("before")])

    read = asyncio.create_task(consumer.transport.read("orders", after="$", count=10, wait=30))
    await asyncio.sleep(0.02)
    await publisher.publish([order("after")])

    async with asyncio.timeout(5):
        assert [text_of(entry) for entry in await read] == ["after"]


async def test_reading_from_a_moment_on_includes_it(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("before"))
    await engine.let_pass(0.01)
    [first] = await consumer.publish(order("first"))
    moment = datetime.fromtimestamp(int(first.partition("-")[0]) / 1000, UTC)

    found = await consumer.transport.read("orders", after=moment, count=10, wait=0)
    nothing = await consumer.transport.read("orders", after=moment + timedelta(hours=1), count=10, wait=0)

    assert [text_of(entry) for entry in found] == ["first"]
    assert nothing == []


async def test_reading_a_stream_that_is_not_there_finds_nothing(engine: Engine) -> None:
    transport = await engine.transport()

    assert await transport.read("nowhere", after="0", count=10, wait=0) == []


async def test_reading_passes_over_copies_for_one_group(engine: Engine) -> None:
    consumer = await engine.consumer()
    [failed] = await consumer.publish_and_fetch(order("1"))
    await consumer.settle(failed, Dead(reason="rejected"))
    [letter] = await consumer.dead_letters.page("orders", after="", limit=10)
    await consumer.dead_letters.replay("orders", letter.dead_id)
    await consumer.publish(order("2"))

    first = await consumer.transport.read("orders", after="0", count=1, wait=0)
    second = await consumer.transport.read("orders", after=first[0].entry_id, count=1, wait=0)

    assert [text_of(entry) for entry in [*first, *second]] == ["1", "2"]


# ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_renewing_keeps_a_lease_and_counts_no_delivery(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.beat()
    held = await consumer.publish_and_fetch(order(), order())
    for delivery in held:
        engine.age(delivery, 100)

    assert await consumer.transport.renew(held) == []

    assert await consumer.recovery.lost_owners("orders", "shipping", lease=60) == {}
    pending = await consumer.inspection.pending("orders", "shipping", limit=10)
    assert [(entry.deliveries, entry.idle_ms < 50_000) for entry in pending] == [(1, True), (1, True)]


async def test_renewing_names_what_is_lost_and_does_not_steal_it_back(engine: Engine) -> None:
    late, other = await engine.consumer("late"), await engine.consumer("other")
    held = await late.publish_and_fetch(order("lost"), order("kept"))
    await late.hand_back(keep=[held[1].entry_id])
    taken = await other.claim_one()

    assert await late.transport.renew(held) == [held[0]]

    assert await other.settle(taken, Done()) is Verdict.SETTLED
    assert await late.settle(held[1], Done()) is Verdict.SETTLED


async def test_renewing_an_older_delivery_of_the_same_owner_names_it_lost(engine: Engine) -> None:
    consumer = await engine.consumer()
    [old] = await consumer.publish_and_fetch()
    await consumer.hand_back()
    new = await consumer.claim_one()

    assert await consumer.transport.renew([old]) == [old]
    assert await consumer.transport.renew([new]) == []


async def test_renewing_reaches_several_streams_and_groups(engine: Engine) -> None:
    orders, bills = await engine.consumer(), await engine.consumer(stream="bills", group="billing")
    [mine] = await orders.publish_and_fetch()
    [lost] = await bills.publish_and_fetch(order(stream="bills"))
    await bills.settle(lost, Done())

    assert await orders.transport.renew([mine, lost]) == [lost]


async def test_renewing_what_is_parked_or_settled_names_it_lost(engine: Engine) -> None:
    consumer = await engine.consumer()
    parked, settled = await consumer.publish_and_fetch(order(), order())
    await consumer.settle(parked, Retry(delay=60))
    await consumer.settle(settled, Done())

    assert await consumer.transport.renew([parked, settled]) == [parked, settled]


# ── marks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_mark_stands_for_its_group_stream_and_name(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Done(mark=Mark("OrderPlaced:1", window=60)))

    names = [("orders", "OrderPlaced:1"), ("orders", "OrderPlaced:2"), ("bills", "OrderPlaced:1")]
    assert await consumer.transport.marked("shipping", names) == [True, False, False]
    assert await consumer.transport.marked("billing", names) == [False, False, False]


async def test_a_mark_stands_for_its_window_only(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Done(mark=Mark("m", window=0.05)))

    await engine.let_pass(0.1)

    assert await consumer.transport.marked("shipping", [("orders", "m")]) == [False]
