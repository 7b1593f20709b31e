"""Outcomes: each is atomic, fenced by (owner, delivery count), and changes one group only."""

from __future__ import annotations

import msgspec
import pytest

from streamtask.errors import TransportError
from streamtask.transport.values import (
    Dead,
    Delivery,
    Done,
    Mark,
    Outcome,
    Release,
    Retry,
    Skip,
    Together,
    Verdict,
    Wait,
)
from tests.conformance.engines import Engine, RedisEngine, counts, order, text_of

EVERY_OUTCOME = [
    Done(),
    Done(emits=(order("emitted", stream="bills"),)),
    Done(emits=(order("emitted", stream="bills"),), mark=Mark("m", window=60)),
    Retry(delay=0),
    Retry(delay=0, failed=False),
    Dead(reason="rejected"),
    Dead(reason="rejected", emits=(order("last words", stream="bills"),)),
    Release(),
    Skip(),
    Skip(event_type="Unknown"),
    Wait("OrderPlaced", "v2", timeout=60),
    Together(emits=(order("emitted", stream="bills"),), mark=Mark("m", window=60), others=()),
]

by_kind = pytest.mark.parametrize("outcome", EVERY_OUTCOME, ids=lambda outcome: type(outcome).__name__)


def someone_else(delivery: Delivery, *, owner: str | None = None, deliveries: int | None = None) -> Delivery:
    """The same entry, claimed to be held in another way."""
    return Delivery(
        delivery.stream,
        delivery.group,
        delivery.entry_id,
        owner or delivery.owner,
        delivery.fields,
        deliveries=deliveries or delivery.deliveries,
    )


# ── the fence ─────────────────────────────────────────────────────────────────────────────────────────────────────


@by_kind
async def test_a_wrong_owner_settles_nothing(engine: Engine, outcome: Outcome) -> None:
    consumer = await engine.consumer("a")
    [delivery] = await consumer.publish_and_fetch()

    assert await consumer.settle(someone_else(delivery, owner="b"), outcome) is Verdict.LOST

    assert await consumer.texts("bills") == []
    assert await consumer.transport.marked("shipping", [("orders", "m")]) == [False]
    assert await consumer.dead_letters.count("orders") == 0
    assert await consumer.settle(delivery, Done()) is Verdict.SETTLED


@by_kind
async def test_a_stale_delivery_count_settles_nothing(engine: Engine, outcome: Outcome) -> None:
    consumer = await engine.consumer("a")
    [stale] = await consumer.publish_and_fetch()
    await consumer.hand_back()
    fresh = await consumer.claim_one()

    assert await consumer.settle(stale, outcome) is Verdict.LOST

    assert await consumer.texts("bills") == []
    assert await consumer.dead_letters.count("orders") == 0
    assert await consumer.settle(fresh, Done()) is Verdict.SETTLED


@by_kind
async def test_a_second_settlement_changes_nothing(engine: Engine, outcome: Outcome) -> None:
    consumer = await engine.consumer("a")
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, outcome)
    emitted, dead = await consumer.texts("bills"), await consumer.dead_letters.count("orders")

    assert await consumer.settle(delivery, outcome) is Verdict.LOST

    assert await consumer.texts("bills") == emitted
    assert await consumer.dead_letters.count("orders") == dead


async def test_an_entry_named_twice_in_a_batch_is_settled_once(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    done = Done(emits=(order("emitted", stream="bills"),))

    verdicts = await consumer.transport.settle([(delivery, done), (delivery, done)])

    assert verdicts == [Verdict.SETTLED, Verdict.LOST]
    assert await consumer.texts("bills") == ["emitted"]


async def test_a_batch_answers_each_outcome_in_order(engine: Engine) -> None:
    consumer = await engine.consumer()
    deliveries = await consumer.publish_and_fetch(*(order() for _ in range(6)))
    mark = Mark("m", window=60)
    outcomes: list[Outcome] = [Done(), Retry(1), Done(mark=mark), Done(mark=mark), Dead(reason="rejected"), Skip()]
    await consumer.settle(deliveries[0], Done())

    verdicts = await consumer.transport.settle(list(zip(deliveries, outcomes, strict=True)))

    assert verdicts == [
        Verdict.LOST, Verdict.SETTLED, Verdict.SETTLED, Verdict.DUPLICATE, Verdict.SETTLED, Verdict.SETTLED,
    ]  # fmt: skip


async def test_a_batch_may_span_streams_groups_and_owners(engine: Engine) -> None:
    orders = await engine.consumer("a")
    bills = await engine.consumer("b", stream="bills", group="billing")
    [one] = await orders.publish_and_fetch()
    [two] = await bills.publish_and_fetch(order(stream="bills"))

    assert await orders.transport.settle([(one, Done()), (two, Done())]) == [Verdict.SETTLED, Verdict.SETTLED]
    assert await orders.pending() == await bills.pending() == 0


async def test_hundreds_of_outcomes_settle_in_one_batch(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(*(order(f"{n}") for n in range(500)))
    deliveries = await consumer.fetch(500)

    verdicts = await consumer.transport.settle(
        [(delivery, Done(emits=(order(text_of(delivery), stream="bills"),))) for delivery in reversed(deliveries)]
    )

    assert set(verdicts) == {Verdict.SETTLED}
    assert sorted(await consumer.texts("bills"), key=int) == [f"{n}" for n in range(500)]


async def test_a_batch_with_holes_loses_no_one_falsely(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    await a.publish(*(order(f"{n}") for n in range(300)))
    first = await a.fetch(1)
    await b.fetch(298)
    last = await a.fetch(1)

    assert await a.transport.renew([*first, *last]) == []
    assert await a.transport.settle([(first[0], Done()), (last[0], Done())]) == [Verdict.SETTLED, Verdict.SETTLED]


# ── done ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_done_leaves_the_entry_in_the_stream_and_never_comes_back(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch(order("1"))

    assert await consumer.settle(delivery, Done()) is Verdict.SETTLED

    assert await consumer.pending() == 0
    assert await consumer.texts() == ["1"]
    assert await consumer.fetch() == []
    assert (await consumer.claim()).deliveries == []


async def test_done_in_one_group_settles_nothing_in_another(engine: Engine) -> None:
    shipping, billing = await engine.consumer(group="shipping"), await engine.consumer(group="billing")
    [delivery] = await shipping.publish_and_fetch()
    await billing.fetch_one()

    await shipping.settle(delivery, Done())

    assert (await shipping.pending(), await billing.pending()) == (0, 1)


async def test_emits_appear_in_their_streams_and_in_order(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch(order("cause"))

    await consumer.settle(delivery, Done(emits=(order("1", stream="bills"), order("2"), order("3", stream="bills"))))

    assert await consumer.texts("bills") == ["1", "3"]
    assert await consumer.texts("orders") == ["cause", "2"]


async def test_a_delayed_emit_is_scheduled_with_the_ack(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()

    await consumer.settle(delivery, Done(emits=(order("later", stream="bills", delay=60, event_id="e-1"),)))

    [scheduled] = await consumer.schedule.scheduled("bills", limit=10)
    assert scheduled["event_id"] == "e-1"
    assert await consumer.texts("bills") == []


async def test_an_emit_names_its_stream_for_inspection(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()

    await consumer.settle(delivery, Done(emits=(order(stream="bills"),)))

    assert await consumer.inspection.streams() == ["bills", "orders"]


async def test_a_second_delivery_of_a_marked_event_is_acked_without_effects(engine: Engine) -> None:
    consumer = await engine.consumer()
    first, second = await consumer.publish_and_fetch(order(), order())
    done = Done(emits=(order("effect", stream="bills"),), mark=Mark("m", window=60))

    assert await consumer.settle(first, done) is Verdict.SETTLED
    assert await consumer.settle(second, done) is Verdict.DUPLICATE

    assert await consumer.texts("bills") == ["effect"]
    assert await consumer.pending() == 0


async def test_two_deliveries_of_one_mark_in_one_batch_leave_one_set_of_effects(engine: Engine) -> None:
    consumer = await engine.consumer()
    deliveries = await consumer.publish_and_fetch(order(), order())
    done = Done(emits=(order("effect", stream="bills"),), mark=Mark("m", window=60))

    verdicts = await consumer.transport.settle([(delivery, done) for delivery in deliveries])

    assert verdicts == [Verdict.SETTLED, Verdict.DUPLICATE]
    assert await consumer.texts("bills") == ["effect"]


async def test_a_mark_of_one_group_does_not_bind_another(engine: Engine) -> None:
    shipping, billing = await engine.consumer(group="shipping"), await engine.consumer(group="billing")
    [one] = await shipping.publish_and_fetch()
    two = await billing.fetch_one()
    done = Done(emits=(order("effect", stream="bills"),), mark=Mark("m", window=60))

    assert await shipping.settle(one, done) is Verdict.SETTLED
    assert await billing.settle(two, done) is Verdict.SETTLED


async def test_a_replay_ignores_the_mark_that_stands_and_sets_it_anew(engine: Engine) -> None:
    consumer = await engine.consumer()
    first, second = await consumer.publish_and_fetch(order(), order())
    mark = Mark("m", window=60)
    await consumer.settle(first, Done(mark=msgspec.structs.replace(mark, window=0.05)))

    assert await consumer.settle(second, Done(mark=msgspec.structs.replace(mark, replace=True))) is Verdict.SETTLED

    await engine.let_pass(0.1)
    assert await consumer.transport.marked("shipping", [("orders", "m")]) == [True]


async def test_a_mark_whose_window_is_over_binds_nobody(engine: Engine) -> None:
    consumer = await engine.consumer()
    first, second = await consumer.publish_and_fetch(order(), order())
    await consumer.settle(first, Done(mark=Mark("m", window=0.05)))

    await engine.let_pass(0.1)

    assert await consumer.settle(second, Done(mark=Mark("m", window=60))) is Verdict.SETTLED


# ── together ──────────────────────────────────────────────────────────────────────────────────────────────────────


def together(*members: Delivery, marks: bool = True) -> tuple[Delivery, Together]:
    """What a call for all these leaves: one event, and a mark for each."""
    first, *others = [(each, Mark(text_of(each), window=60) if marks else None) for each in members]
    return first[0], Together(emits=(order("of all", stream="bills"),), mark=first[1], others=tuple(others))


async def test_what_was_handled_together_is_settled_with_its_effects_and_marks(engine: Engine) -> None:
    consumer = await engine.consumer()
    deliveries = await consumer.publish_and_fetch(*(order(name) for name in "abc"))

    assert await consumer.settle(*together(*deliveries)) is Verdict.SETTLED

    assert await consumer.texts("bills") == ["of all"]
    assert await consumer.pending() == 0
    marks = [("orders", name) for name in "abc"]
    assert await consumer.transport.marked("shipping", marks) == [True, True, True]


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_with_one_of_them_lost_nothing_of_what_was_handled_together_is_committed(
    engine: Engine, lost: int
) -> None:
    consumer = await engine.consumer()
    deliveries = await consumer.publish_and_fetch(*(order(name) for name in "abc"))
    await consumer.settle(deliveries[lost], Release())

    assert await consumer.settle(*together(*deliveries)) is Verdict.TORN

    assert await consumer.texts("bills") == []
    assert await consumer.pending() == 3
    assert await consumer.transport.marked("shipping", [("orders", name) for name in "abc"]) == [False] * 3
    others = [delivery for index, delivery in enumerate(deliveries) if index != lost]
    assert [await consumer.settle(delivery, Done()) for delivery in others] == [Verdict.SETTLED] * 2


async def test_with_all_of_them_lost_what_was_handled_together_is_lost(engine: Engine) -> None:
    consumer = await engine.consumer()
    deliveries = await consumer.publish_and_fetch(order("a"), order("b"))
    await consumer.settle(*together(*deliveries))

    assert await consumer.settle(*together(*deliveries)) is Verdict.LOST
    assert await consumer.texts("bills") == ["of all"]


async def test_with_a_duplicate_among_them_nothing_of_what_was_handled_together_is_committed(engine: Engine) -> None:
    consumer = await engine.consumer()
    first, *deliveries = await consumer.publish_and_fetch(order("b"), order("a"), order("b"))
    await consumer.settle(first, Done(mark=Mark("b", window=60)))

    assert await consumer.settle(*together(*deliveries)) is Verdict.TORN

    assert await consumer.texts("bills") == []
    assert await consumer.pending() == 2
    replayed = Together(emits=(), mark=None, others=((deliveries[1], Mark("b", window=60, replace=True)),))
    assert await consumer.settle(deliveries[0], replayed) is Verdict.SETTLED


async def test_what_was_handled_together_is_one_outcome_among_others(engine: Engine) -> None:
    consumer = await engine.consumer()
    deliveries = await consumer.publish_and_fetch(*(order(f"{n}") for n in range(7)))
    await consumer.settle(deliveries[5], Release())

    verdicts = await consumer.transport.settle([
        (deliveries[0], Done()),
        together(*deliveries[1:3]),
        (deliveries[3], Retry(0)),
        together(*deliveries[4:6]),
        (deliveries[2], Done()),
        (deliveries[6], Done(emits=(order("own", stream="bills"),))),
    ])  # fmt: skip

    assert verdicts == [
        Verdict.SETTLED, Verdict.SETTLED, Verdict.SETTLED, Verdict.TORN, Verdict.LOST, Verdict.SETTLED,
    ]  # fmt: skip
    assert await consumer.texts("bills") == ["of all", "own"]


async def test_what_was_handled_together_and_failed_before_leaves_no_history(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    first, second = await consumer.publish_and_fetch(order("a"), order("b"))
    await consumer.settle(second, Retry(0, error="once"))
    again = await consumer.claim_one()

    assert await consumer.settle(*together(first, again)) is Verdict.SETTLED
    assert redis_engine.client.hgetall("{stream:orders}:history:shipping") == {}


async def test_a_mark_that_cannot_be_set_undoes_what_was_handled_together(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    deliveries = await consumer.publish_and_fetch(*(order(name) for name in "abc"))
    client = redis_engine.client
    prefix = "{stream:orders}:done:shipping:"
    client.execute_command(
        "ACL", "SETUSER", "default", "resetkeys", "~stream:*", "~{stream:*}:[^d]*", f"~{prefix}a", f"~{prefix}c"
    )
    try:
        [verdict] = await consumer.transport.settle([together(*deliveries)])
    finally:
        client.execute_command("ACL", "SETUSER", "default", "~*")

    assert isinstance(verdict, TransportError)
    assert await consumer.texts("bills") == []
    assert await consumer.pending() == 3
    assert await consumer.transport.marked("shipping", [("orders", name) for name in "abc"]) == [False] * 3


# ── retries, hand-backs and the three counts ──────────────────────────────────────────────────────────────────────


async def test_a_failure_counts_as_an_attempt_and_not_as_a_crash(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch(order("1"))

    await consumer.settle(delivery, Retry(delay=0, failed=True, error="boom"))

    again = await consumer.claim_one()
    assert (text_of(again), counts(again)) == ("1", (2, 2, 0))


@pytest.mark.parametrize("outcome", [Retry(delay=0, failed=False), Release(), Release(delay=0.01)])
async def test_what_was_nobodys_fault_is_neither_an_attempt_nor_a_crash(engine: Engine, outcome: Outcome) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()

    await consumer.settle(delivery, outcome)

    assert counts(await consumer.claim_one()) == (2, 1, 0)


@pytest.mark.parametrize("delay", [0, 0.01])
async def test_what_is_handed_back_and_charged_counts_as_a_crash(engine: Engine, delay: float) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()

    assert await consumer.settle(delivery, Release(delay, charged=True)) is Verdict.SETTLED

    again = await consumer.claim_one()
    assert counts(again) == (2, 1, 1)
    await consumer.settle(again, Release())
    assert counts(await consumer.claim_one()) == (3, 1, 1)


async def test_the_three_counts_add_up_over_a_whole_life(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()

    await consumer.settle(delivery, Retry(delay=0))
    delivery = await consumer.claim_one()
    await consumer.hand_back(started=[delivery.entry_id])
    delivery = await consumer.claim_one()
    await consumer.settle(delivery, Release())
    delivery = await consumer.claim_one()
    await consumer.hand_back(started=[])
    delivery = await consumer.claim_one()
    await consumer.settle(delivery, Retry(delay=0))
    delivery = await consumer.claim_one()

    assert (delivery.deliveries, delivery.failures, delivery.uncharged, delivery.crashes) == (6, 2, 2, 1)


async def test_a_retry_reaches_its_own_group_only(engine: Engine) -> None:
    shipping, billing = await engine.consumer(group="shipping"), await engine.consumer(group="billing")
    [delivery] = await shipping.publish_and_fetch(order("1"))
    await billing.settle(await billing.fetch_one(), Done())

    await shipping.settle(delivery, Retry(delay=0))

    await shipping.claim_one()
    assert await billing.fetch() == (await billing.claim()).deliveries == []
    assert await shipping.texts() == ["1"]


async def test_a_retry_is_not_claimed_before_it_is_due(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()

    await consumer.settle(delivery, Retry(delay=60))

    claimed = await consumer.claim()
    assert claimed.deliveries == []
    assert claimed.next_due is not None
    assert 50 < claimed.next_due <= 60


async def test_a_retry_is_claimed_when_it_is_due(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()

    await consumer.settle(delivery, Retry(delay=0.05))
    await engine.let_pass(0.1)

    assert len((await consumer.claim()).deliveries) == 1


async def test_a_retry_of_hours_waits_for_hours(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()

    await consumer.settle(delivery, Retry(delay=36_000))

    claimed = await consumer.claim()
    assert claimed.next_due is not None
    assert 35_990 < claimed.next_due <= 36_000


async def test_counts_are_forgotten_when_the_entry_is_settled(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Retry(delay=0, error="boom"))
    await consumer.settle(await consumer.claim_one(), Done())

    state = await consumer.inspection.state("orders", "shipping", delivery.entry_id)

    assert state["state"] == "done"


# ── what a server may refuse ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_settlement_whose_emit_cannot_be_stored_changes_nothing(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    redis_engine.client.set("stream:broken", "not a stream")
    done = Done(emits=(order("1", stream="bills"), order("2", stream="broken")), mark=Mark("m", window=60))

    [verdict] = await consumer.transport.settle([(delivery, done)])

    assert isinstance(verdict, TransportError)
    assert await consumer.texts("bills") == []
    assert await consumer.transport.marked("shipping", [("orders", "m")]) == [False]
    redis_engine.client.delete("stream:broken")
    assert await consumer.settle(delivery, done) is Verdict.SETTLED


@pytest.mark.parametrize("in_the_way", ["{stream:bills}:delayed", "{stream:bills}:delayed:body"])
async def test_effects_are_taken_back_when_a_later_one_cannot_be_stored(
    redis_engine: RedisEngine, in_the_way: str
) -> None:
    consumer = await redis_engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    redis_engine.client.set(in_the_way, "no schedule")
    done = Done(emits=(order("now", stream="bills"), order("later", stream="bills", delay=60)))

    [verdict] = await consumer.transport.settle([(delivery, done)])

    assert isinstance(verdict, TransportError)
    assert await consumer.texts("bills") == []
    assert await consumer.transport.renew([delivery]) == []
    redis_engine.client.delete(in_the_way)
    assert await consumer.settle(delivery, done) is Verdict.SETTLED
    assert await consumer.texts("bills") == ["now"]


@pytest.mark.parametrize("outcome", [Dead(reason="rejected"), Retry(delay=0), Wait("OrderPlaced", "v2", timeout=60)])
async def test_an_outcome_that_cannot_be_kept_leaves_the_entry_with_its_owner(
    redis_engine: RedisEngine, outcome: Outcome
) -> None:
    consumer = await redis_engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    for name in ("dead", "retry:shipping", "waits:shipping"):
        redis_engine.client.set("{stream:orders}:" + name, "in the way")

    [verdict] = await consumer.transport.settle([(delivery, outcome)])

    assert isinstance(verdict, TransportError)
    assert await consumer.transport.renew([delivery]) == []
    assert await consumer.settle(delivery, Done()) is Verdict.SETTLED


async def test_a_dead_letter_and_what_is_emitted_with_it_are_one_step(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    emits = (order("one", stream="bills"), order("two", stream="mails"), order("three", stream="bills"))

    assert await consumer.settle(delivery, Dead(reason="rejected", emits=emits)) is Verdict.SETTLED

    assert await consumer.texts("bills") == ["one", "three"]
    assert await consumer.texts("mails") == ["two"]
    assert await consumer.dead_letters.count("orders") == 1
    assert await consumer.pending() == 0


async def test_no_dead_letter_stands_without_what_is_emitted_with_it(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    redis_engine.client.set("{stream:bills}:delayed", "no schedule")
    dead = Dead(reason="rejected", emits=(order("now", stream="bills"), order("later", stream="bills", delay=60)))

    [verdict] = await consumer.transport.settle([(delivery, dead)])

    assert isinstance(verdict, TransportError)
    assert await consumer.dead_letters.page("orders", after="", limit=10) == []
    assert await consumer.texts("bills") == []
    assert await consumer.transport.renew([delivery]) == []
    redis_engine.client.delete("{stream:bills}:delayed")
    assert await consumer.settle(delivery, dead) is Verdict.SETTLED
    assert await consumer.dead_letters.count("orders") == 1


async def test_what_cannot_be_stored_beside_a_dead_letter_is_named(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    redis_engine.client.set("stream:bills", "in the way")

    [verdict] = await consumer.transport.settle(
        [(delivery, Dead(reason="rejected", emits=(order("lost", stream="bills"),)))]
    )

    assert "WRONGTYPE stream:bills" in str(verdict)
    assert await consumer.dead_letters.page("orders", after="", limit=10) == []


async def test_one_refused_outcome_does_not_hold_up_the_others_of_its_batch(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    refused, fine = await consumer.publish_and_fetch(order(), order())
    redis_engine.client.set("stream:broken", "not a stream")

    verdicts = await consumer.transport.settle(
        [(refused, Done(emits=(order(stream="broken"),))), (fine, Done(emits=(order("fine", stream="bills"),)))]
    )

    assert isinstance(verdicts[0], TransportError)
    assert "stream:broken" in str(verdicts[0])
    assert verdicts[1] is Verdict.SETTLED
    assert await consumer.texts("bills") == ["fine"]
    assert await consumer.transport.renew([refused]) == []
