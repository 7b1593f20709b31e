"""Claims, hand-backs, signs of life, and the repair of indexes."""

from __future__ import annotations

from streamtask.transport.values import Done, Release, Retry, Verdict, Wait
from tests.conformance.engines import ORDER_PLACED, Engine, RedisEngine, counts, order, text_of
from tests.servers import RedisServer

# ── claim ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_claim_takes_what_is_due_first_first(engine: Engine) -> None:
    consumer = await engine.consumer()
    late, early, middle = await consumer.publish_and_fetch(order("late"), order("early"), order("middle"))
    await consumer.settle(late, Retry(delay=0.09))
    await consumer.settle(early, Retry(delay=0.01))
    await consumer.settle(middle, Retry(delay=0.05))
    await engine.let_pass(0.15)

    claimed = await consumer.claim()

    assert [text_of(delivery) for delivery in claimed.deliveries] == ["early", "middle", "late"]
    assert claimed.next_due is None


async def test_a_claim_takes_no_more_than_asked_and_says_that_more_is_due(engine: Engine) -> None:
    consumer = await engine.consumer()
    for delivery in await consumer.publish_and_fetch(*(order() for _ in range(5))):
        await consumer.settle(delivery, Release())
    await engine.let_pass(0.01)

    claimed = await consumer.claim(2)

    assert len(claimed.deliveries) == 2
    assert claimed.next_due == 0
    assert len((await consumer.claim()).deliveries) == 3


async def test_a_claim_of_nothing_only_says_when_to_come_again(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Release(delay=60))

    claimed = await consumer.claim(0)

    assert claimed.deliveries == []
    assert claimed.next_due is not None
    assert claimed.next_due > 50


async def test_a_claim_where_nothing_is_parked_says_so(engine: Engine) -> None:
    consumer = await engine.consumer()

    assert (await consumer.claim()).next_due is None


async def test_an_entry_is_claimed_by_one_of_two(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    [delivery] = await a.publish_and_fetch()
    await a.settle(delivery, Release())
    await engine.let_pass(0.01)

    first, second = await a.claim(), await b.claim()

    assert len(first.deliveries) + len(second.deliveries) == 1


async def test_a_claim_leaves_alone_what_a_living_owner_holds(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    [delivery] = await a.publish_and_fetch()
    engine.age(delivery, 1000)

    assert (await b.claim()).deliveries == []
    assert await a.settle(delivery, Done()) is Verdict.SETTLED


async def test_a_claimed_delivery_is_settled_under_its_new_count(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    [delivery] = await a.publish_and_fetch()
    await a.settle(delivery, Release())

    claimed = await b.claim_one()

    assert (claimed.owner, claimed.deliveries) == ("b", 2)
    assert await b.settle(claimed, Done()) is Verdict.SETTLED


async def test_an_entry_that_vanished_from_the_stream_is_reported_once(engine: Engine) -> None:
    consumer = await engine.consumer()
    gone, there = await consumer.publish_and_fetch(order("gone"), order("there"))
    for delivery in (gone, there):
        await consumer.settle(delivery, Release())
    engine.delete("orders", gone.entry_id)
    await engine.let_pass(0.01)

    claimed = await consumer.claim()

    assert claimed.gone == [gone.entry_id]
    assert [text_of(delivery) for delivery in claimed.deliveries] == ["there"]
    assert (await consumer.claim()).gone == []
    assert await consumer.pending() == 1


# ── hand back ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_dead_process_had_started_is_charged_and_what_it_had_not_is_not(engine: Engine) -> None:
    dead, alive = await engine.consumer("dead"), await engine.consumer("alive")
    started, _ = await dead.publish_and_fetch(order("started"), order("unstarted"))

    assert await alive.recovery.hand_back("orders", "shipping", "dead", started=[started.entry_id]) == 2

    back = {text_of(delivery): delivery for delivery in (await alive.claim()).deliveries}
    assert counts(back["started"]) == (2, 1, 1)
    assert counts(back["unstarted"]) == (2, 1, 0)


async def test_where_nothing_is_known_of_what_was_started_all_is_charged(engine: Engine) -> None:
    consumer = await engine.consumer("dead")
    await consumer.publish_and_fetch(order(), order())

    await consumer.hand_back()

    assert [delivery.crashes for delivery in (await consumer.claim()).deliveries] == [1, 1]


async def test_a_hand_back_touches_one_owner_of_one_group_only(engine: Engine) -> None:
    dead, alive = await engine.consumer("dead"), await engine.consumer("alive")
    other_group = await engine.consumer("dead", group="billing")
    await dead.publish(order("1"), order("2"))
    await dead.fetch(1)
    [held] = await alive.fetch(1)
    await other_group.fetch()

    assert await dead.hand_back() == 1

    assert await alive.transport.renew([held]) == []
    assert (await other_group.claim()).deliveries == []


async def test_a_hand_back_by_idle_time_leaves_what_was_renewed(engine: Engine) -> None:
    consumer = await engine.consumer()
    stale, fresh = await consumer.publish_and_fetch(order("stale"), order("fresh"))
    engine.age(stale, 100)

    assert await consumer.hand_back(idle=60.0) == 1

    assert text_of(await consumer.claim_one()) == "stale"
    assert await consumer.transport.renew([fresh]) == []


async def test_a_hand_back_twice_gives_back_once(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish_and_fetch()

    assert await consumer.hand_back() == 1
    assert await consumer.hand_back() == 0
    assert counts(await consumer.claim_one()) == (2, 1, 1)


async def test_a_hand_back_takes_thousands(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(*(order() for _ in range(2500)))
    held = await consumer.fetch(2500)

    assert await consumer.hand_back(keep=[held[1234].entry_id]) == 2499


# ── who lives ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_owner_without_a_beat_that_holds_entries_is_dead(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    await a.publish(order(), order())
    await a.fetch(1)
    await b.fetch(1)
    await b.beat()

    assert await b.recovery.lost_owners("orders", "shipping", lease=60) == {"a": "dead"}


async def test_an_owner_whose_beat_ran_out_is_dead(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    await consumer.publish_and_fetch()
    await consumer.beat(ttl=0.05)

    await engine.let_pass(0.1)

    assert await consumer.recovery.lost_owners("orders", "shipping", lease=60) == {"a": "dead"}


async def test_an_owner_that_beats_but_does_not_renew_is_stale(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    forgotten, _ = await consumer.publish_and_fetch(order(), order())
    await consumer.beat()
    engine.age(forgotten, 100)

    assert await consumer.recovery.lost_owners("orders", "shipping", lease=60) == {"a": "stale"}


async def test_who_holds_nothing_is_not_lost(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Done())

    assert await consumer.recovery.lost_owners("orders", "shipping", lease=60) == {}


async def test_parked_and_waiting_entries_belong_to_nobody_who_could_be_lost(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    parked, waiting = await consumer.publish_and_fetch(order(), order())
    await consumer.settle(parked, Retry(delay=60))
    await consumer.settle(waiting, Wait("OrderPlaced", "v2", timeout=60))

    assert await consumer.recovery.lost_owners("orders", "shipping", lease=0) == {}


async def test_every_beat_names_the_same_server_while_it_lives(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")

    assert await a.beat() == await a.beat() == await b.beat() != ""


async def test_a_server_that_was_restarted_is_another(private_redis: RedisServer) -> None:
    engine = RedisEngine(private_redis)
    before = await (await engine.consumer("a")).beat()
    await engine.close()

    private_redis.restart()

    assert await (await engine.consumer("a")).beat() != before
    await engine.close()


async def test_who_retires_is_gone_at_once(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    [delivery] = await a.publish_and_fetch()
    await a.settle(delivery, Done())
    await a.beat()

    await a.recovery.retire("a", [a.subscription])

    assert await b.inspection.workers() == []
    assert await b.inspection.consumers("orders", "shipping") == []


async def test_who_retires_while_it_holds_entries_loses_none_of_them(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    await a.publish_and_fetch(order("1"))
    await a.beat()

    await a.recovery.retire("a", [a.subscription])

    assert await b.recovery.lost_owners("orders", "shipping", lease=60) == {"a": "dead"}
    await a.hand_back()
    assert text_of(await b.claim_one()) == "1"


# ── mend ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_entries_whose_index_is_lost_come_back_when_it_is_mended(engine: Engine) -> None:
    consumer = await engine.consumer()
    parked, waiting, held = await consumer.publish_and_fetch(order("parked"), order("waiting"), order("held"))
    await consumer.settle(parked, Retry(delay=3600))
    await consumer.settle(waiting, Wait(*ORDER_PLACED, timeout=3600))
    engine.lose_indexes("orders", "shipping")
    assert (await consumer.claim()).deliveries == []

    assert await consumer.recovery.mend("orders", "shipping") == 2

    await engine.let_pass(0.01)
    assert sorted(text_of(delivery) for delivery in (await consumer.claim()).deliveries) == ["parked", "waiting"]
    assert await consumer.settle(held, Done()) is Verdict.SETTLED


async def test_mending_keeps_the_counts(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Retry(delay=3600))
    engine.lose_indexes("orders", "shipping")

    await consumer.recovery.mend("orders", "shipping")

    assert counts(await consumer.claim_one()) == (2, 2, 0)


async def test_what_was_parked_in_a_group_that_vanished_takes_no_place_in_a_claim(engine: Engine) -> None:
    consumer = await engine.consumer()
    for outcome in (Retry(delay=0), Wait("OrderPlaced", "v1", timeout=3600)):
        for delivery in await consumer.publish_and_fetch(*(order() for _ in range(3))):
            await consumer.settle(delivery, outcome)
    engine.lose_group("orders", "shipping")
    await consumer.transport.register(consumer.subscription)
    *_, last = await consumer.fetch()
    await consumer.settle(last, Retry(delay=0))
    await engine.let_pass(0.01)

    claimed = await consumer.claim(count=1)

    assert [delivery.entry_id for delivery in claimed.deliveries] == [last.entry_id]
    assert claimed.next_due is None


async def test_mending_what_is_whole_changes_nothing(engine: Engine) -> None:
    consumer = await engine.consumer()
    parked, waiting = await consumer.publish_and_fetch(order(), order())
    await consumer.settle(parked, Retry(delay=3600))
    await consumer.settle(waiting, Wait("OrderPlaced", "v2", timeout=3600))

    assert await consumer.recovery.mend("orders", "shipping") == 0

    claimed = await consumer.claim()
    assert claimed.deliveries == []
    assert claimed.next_due is not None
    assert claimed.next_due > 3000
