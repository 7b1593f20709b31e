"""What the end of a call means to its workflow: stored in one step with its outcome, counted once, and run out."""

from __future__ import annotations

import pytest

from streamtask.errors import TransportError
from streamtask.transport.redis import keys
from streamtask.transport.values import (
    Dead,
    Delivery,
    Done,
    Mark,
    Member,
    Outcome,
    Outgoing,
    Result,
    Retry,
    Step,
    Verdict,
)
from tests.conformance.engines import Consumer, Engine, MemoryEngine, RedisEngine, order


def step(
    name: str = "1", state: str = "done", *, ttl: float = 60.0, member: Member | None = None, **more: object
) -> Step:
    return Step("w", name, state, ttl, member=member, **more)  # type: ignore[arg-type]


def member(index: int, *emits: Outgoing, size: int = 3, group: str = "g", result: Result | None = None) -> Step:
    joined = Member(group, index, size, b"%d" % index, emits or (order("joined"),), result)
    return step(str(index), member=joined)


async def begin(consumer: Consumer, ttl: float = 60.0) -> None:
    await consumer.transport.workflows.begin(consumer.stream, "w", b"what it is made of", ttl=ttl)


async def states(consumer: Consumer) -> dict[str, str] | None:
    found = await consumer.transport.workflows.states(consumer.stream, "w")
    return None if found is None else found[1]


async def values(consumer: Consumer, group: str = "g") -> dict[int, bytes]:
    return await consumer.transport.workflows.values(consumer.stream, group)


async def settle_all(consumer: Consumer, *outcomes: Outcome) -> list[Verdict]:
    """Deliver an order for each outcome and settle them one by one."""
    deliveries = await consumer.publish_and_fetch(*(order() for _ in outcomes))
    return [await consumer.settle(each, outcome) for each, outcome in zip(deliveries, outcomes, strict=True)]


async def result(consumer: Consumer, event_id: str) -> bytes | None:
    return await consumer.transport.results.get(consumer.stream, event_id)


# ── states ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_workflow_is_made_of_stands_once_it_has_begun(engine: Engine) -> None:
    consumer = await engine.consumer()
    assert await consumer.transport.workflows.states(consumer.stream, "w") is None
    await begin(consumer)
    await begin(consumer)

    assert await consumer.transport.workflows.states(consumer.stream, "w") == (b"what it is made of", {})


async def test_each_end_of_a_call_is_noted(engine: Engine) -> None:
    consumer = await engine.consumer()
    await begin(consumer)

    await settle_all(
        consumer,
        Done(step=step("1")),
        Done((order("next"),), result=Result("e", b"value", 60.0), step=step("2")),
        Dead(reason="rejected", step=step("3", "failed")),
        Done(step=step("4", "cancelled")),
        Done(),
    )

    assert await states(consumer) == {"1": "done", "2": "done", "3": "failed", "4": "cancelled"}
    assert await result(consumer, "e") == b"value"
    assert len(await consumer.fetch()) == 1


async def test_a_call_that_is_done_ends_no_second_time(engine: Engine) -> None:
    consumer = await engine.consumer()
    outcome = Done((order("next"),), Mark("m", 60.0), Result("e", b"first", 60.0), step())
    again = Done((order("next"),), None, Result("e", b"second", 60.0), step())
    fails = Dead(
        reason="rejected", emits=(order("told"),), result=Result("e", b"third", 60.0), step=step("1", "failed")
    )

    assert await settle_all(consumer, outcome, again, fails) == [Verdict.SETTLED, Verdict.DUPLICATE, Verdict.SETTLED]

    assert await result(consumer, "e") == b"first"
    assert [each.body and b"next" in each.body for each in await consumer.fetch()] == [True]
    assert await consumer.dead_letters.count(consumer.stream) == 1
    await begin(consumer)
    assert await states(consumer) == {"1": "done"}


async def test_a_call_that_failed_may_be_done_later(engine: Engine) -> None:
    consumer = await engine.consumer()
    await begin(consumer)
    told = Result("whole", b"it failed", 60.0)

    await settle_all(consumer, Dead(reason="rejected", emits=(order("told"),), step=step("1", "failed", result=told)))
    assert (await states(consumer), await result(consumer, "whole")) == ({"1": "failed"}, b"it failed")
    assert len(await consumer.fetch()) == 1
    await settle_all(consumer, Done((order("next"),), step=step()))

    assert await states(consumer) == {"1": "done"}


async def test_a_late_owner_and_a_retry_say_nothing(engine: Engine) -> None:
    consumer = await engine.consumer()
    await begin(consumer)
    held, retried = await consumer.publish_and_fetch(order(), order())
    late = Delivery(held.stream, held.group, held.entry_id, "somebody", held.fields)

    assert await consumer.settle(late, Done(step=member(0, size=1))) is Verdict.LOST
    await consumer.settle(retried, Retry(delay=60.0))

    assert (await states(consumer), await values(consumer)) == ({}, {})
    assert await consumer.fetch() == []


async def test_what_is_known_of_a_workflow_runs_out(engine: Engine) -> None:
    consumer = await engine.consumer()
    await begin(consumer, ttl=0.2)
    await engine.let_pass(0.3)

    assert await states(consumer) is None


async def test_with_each_step_it_is_kept_longer() -> None:
    # On servers by what is left of the time: `test_what_is_kept_of_a_workflow_ends_by_itself`.
    engine = MemoryEngine()
    consumer = await engine.consumer()
    await begin(consumer, ttl=50.0)
    await settle_all(consumer, Done(step=step("1", ttl=100.0)))
    await engine.let_pass(60.0)
    assert await states(consumer) == {"1": "done"}
    await engine.let_pass(60.0)

    assert await states(consumer) is None


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_value_that_makes_a_group_complete_emits_what_comes_after_it(engine: Engine) -> None:
    consumer = await engine.consumer()
    outcomes = [Done(step=member(index, order("a"), order("b"))) for index in range(3)]

    await settle_all(consumer, *outcomes[:2])
    assert await consumer.fetch() == []
    await settle_all(consumer, outcomes[2])

    assert len(await consumer.fetch()) == 2
    assert await values(consumer) == {0: b"0", 1: b"1", 2: b"2"}


async def test_a_group_may_end_with_a_result(engine: Engine) -> None:
    consumer = await engine.consumer()
    end = [Done(step=step(str(n), member=Member("g", n, 2, b"v", (), Result("g", b"all", 60.0)))) for n in range(2)]

    await settle_all(consumer, end[1])
    assert await result(consumer, "g") is None
    await settle_all(consumer, end[0])

    assert await result(consumer, "g") == b"all"


async def test_members_that_end_in_one_batch_are_counted_each(engine: Engine) -> None:
    consumer = await engine.consumer()
    deliveries = await consumer.publish_and_fetch(*(order() for _ in range(50)))
    outcomes = [Done(step=member(n, size=50)) for n in range(50)]

    verdicts = await consumer.transport.settle(list(zip(deliveries, outcomes, strict=True)))

    assert set(verdicts) == {Verdict.SETTLED}
    assert len(await consumer.fetch()) == 1
    assert len(await values(consumer)) == 50


async def test_a_member_that_runs_twice_is_counted_once(engine: Engine) -> None:
    consumer = await engine.consumer()

    verdicts = await settle_all(consumer, *(Done(step=member(n)) for n in (0, 1, 1, 0)))
    assert verdicts == [Verdict.SETTLED, Verdict.SETTLED, Verdict.DUPLICATE, Verdict.DUPLICATE]
    assert await consumer.fetch() == []
    await settle_all(consumer, *(Done(step=member(n)) for n in (2, 2)))

    assert len(await consumer.fetch()) == 1


async def test_a_value_that_is_there_counts_no_second_time_although_the_states_are_lost(engine: Engine) -> None:
    consumer = await engine.consumer()
    brief = [Done(step=step(str(n), member=Member("g", n % 2, 2, b"v", (order("joined"),)))) for n in (0, 2, 1, 3)]

    await settle_all(consumer, *brief[:2])
    assert await consumer.fetch() == []
    await settle_all(consumer, *brief[2:])

    assert len(await consumer.fetch()) == 1


async def test_the_values_of_a_group_run_out(engine: Engine) -> None:
    consumer = await engine.consumer()
    await settle_all(consumer, Done(step=step("1", ttl=0.2, member=Member("g", 0, 2, b"v"))))
    await engine.let_pass(0.3)

    assert await values(consumer) == {}


# ── cancelling ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_workflow_is_cancelled_once_and_its_result_says_so(engine: Engine) -> None:
    consumer = await engine.consumer()
    workflows, cancellations = consumer.transport.workflows, consumer.transport.cancellations
    position = await consumer.transport.results.position(consumer.stream)
    told = Result("whole", b"cancelled", 60.0)

    assert await workflows.cancel(consumer.stream, "w", told, ttl=60.0) is True
    assert await workflows.cancel(consumer.stream, "w", told, ttl=60.0) is False

    assert await cancellations.cancelled(consumer.stream, ["w", "v"]) == [True, False]
    assert await result(consumer, "whole") == b"cancelled"
    news, _ = await consumer.transport.results.news(consumer.stream, after=position, wait=30.0)
    assert news == ["whole"]


async def test_a_workflow_that_has_a_result_keeps_it_and_begins_nothing_more(engine: Engine) -> None:
    consumer = await engine.consumer()
    await settle_all(consumer, Done(result=Result("whole", b"value", 60.0), step=step()))
    told = Result("whole", b"cancelled", 60.0)

    assert await consumer.transport.workflows.cancel(consumer.stream, "w", told, ttl=60.0) is False

    assert await result(consumer, "whole") == b"value"
    assert await consumer.transport.cancellations.cancelled(consumer.stream, ["w"]) == [True]


async def test_a_workflow_that_keeps_no_result_is_cancelled_for_a_while(engine: Engine) -> None:
    consumer = await engine.consumer()

    assert await consumer.transport.workflows.cancel(consumer.stream, "w", None, ttl=0.2) is True
    await engine.let_pass(0.3)

    assert await consumer.transport.cancellations.cancelled(consumer.stream, ["w"]) == [False]


# ── on a real server ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("place", ["values", "states", "results"])
async def test_where_something_cannot_be_stored_nothing_is(redis_engine: RedisEngine, place: str) -> None:
    consumer = await redis_engine.consumer()
    await settle_all(consumer, Done(step=member(0, size=2)))
    stream, client = consumer.stream, redis_engine.client
    key = {"values": keys.values(stream, "g"), "states": keys.workflow(stream, "w"), "results": keys.results(stream)}[
        place
    ]
    [delivery] = await consumer.publish_and_fetch()
    if client.exists(key):
        client.rename(key, key + ":kept")
    client.set(key, "somebody else's")
    outcome = Done((order("more"),), step=member(1, size=2, result=Result("g", b"all", 60.0)))

    with pytest.raises(TransportError, match="WRONGTYPE"):
        await consumer.settle(delivery, outcome)

    assert await consumer.fetch() == []
    assert await result(consumer, "g") is None
    [entry] = await consumer.inspection.pending(stream, consumer.group, limit=10)
    assert entry.consumer == consumer.owner
    # And with that out of the way, it goes as if nothing had been.
    client.delete(key)
    if client.exists(key + ":kept"):
        client.rename(key + ":kept", key)
    await consumer.settle(delivery, outcome)
    assert len(await consumer.fetch()) == 2
    assert await values(consumer) == {0: b"0", 1: b"1"}


async def test_what_is_kept_of_a_workflow_ends_by_itself(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    await begin(consumer, ttl=50.0)
    await settle_all(consumer, Done(step=step("1", ttl=100.0, member=Member("g", 0, 2, b"v"))))

    client = redis_engine.client
    for key in (keys.workflow(consumer.stream, "w"), keys.values(consumer.stream, "g")):
        assert 99_000 < client.pttl(key) <= 100_000
