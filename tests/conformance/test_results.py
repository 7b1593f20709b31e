"""What became of an event, for those who wait: stored in one step with the rest of an outcome, told, and run out."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from streamtask.errors import TransportError
from streamtask.transport.redis import keys
from streamtask.transport.values import Dead, Done, Mark, Outcome, Result, Verdict
from tests.conformance.engines import Consumer, Engine, RedisEngine, order

_BODY = bytes(range(256))


def result(event_id: str = "e1", body: bytes = _BODY, ttl: float = 60.0) -> Result:
    return Result(event_id, body, ttl)


async def get(consumer: Consumer, event_id: str = "e1") -> bytes | None:
    return await consumer.transport.results.get(consumer.stream, event_id)


@pytest.mark.parametrize(
    "outcome",
    [
        Done(result=result()),
        Done((order("more"),), Mark("m", 60.0), result()),
        Dead(reason="rejected", result=result()),
        Dead(reason="rejected", emits=(order("last words"),), result=result()),
    ],
)
async def test_a_result_stands_once_its_outcome_is_settled(engine: Engine, outcome: Outcome) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    assert await get(consumer) is None

    assert await consumer.settle(delivery, outcome) is Verdict.SETTLED

    assert await get(consumer) == _BODY
    assert await get(consumer, "e2") is None
    assert len(await consumer.fetch()) == len(outcome.emits)  # type: ignore[union-attr]


async def test_many_results_of_one_batch_are_each_stored(engine: Engine) -> None:
    consumer = await engine.consumer()
    deliveries = await consumer.publish_and_fetch(*(order() for _ in range(50)))
    outcomes = [
        Done(result=result(f"e{n}", b"%d" % n)) if n % 3 else Done((order(),) * (n % 2)) for n in range(len(deliveries))
    ]

    await consumer.transport.settle(list(zip(deliveries, outcomes, strict=True)))

    found = [await get(consumer, f"e{n}") for n in range(50)]
    assert found == [b"%d" % n if n % 3 else None for n in range(50)]


async def test_a_late_owner_leaves_no_result(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    late = msgspec.structs.replace(delivery, owner="somebody")

    assert await consumer.settle(late, Done(result=result())) is Verdict.LOST

    assert await get(consumer) is None


async def test_a_duplicate_leaves_no_result(engine: Engine) -> None:
    consumer = await engine.consumer()
    first, second = await consumer.publish_and_fetch(order(), order())
    await consumer.settle(first, Done(mark=Mark("m", 60.0)))

    assert await consumer.settle(second, Done(mark=Mark("m", 60.0), result=result())) is Verdict.DUPLICATE

    assert await get(consumer) is None


async def test_a_result_runs_out(engine: Engine) -> None:
    consumer = await engine.consumer()
    brief, lasting = await consumer.publish_and_fetch(order(), order())
    await consumer.settle(brief, Done(result=result("brief", ttl=0.2)))
    await consumer.settle(lasting, Done(result=result("lasting")))
    await engine.let_pass(0.25)

    assert await get(consumer, "brief") is None
    assert await get(consumer, "lasting") == _BODY


async def test_who_waits_is_told_of_each_result_that_comes(engine: Engine) -> None:
    consumer = await engine.consumer()
    results = consumer.transport.results
    one, two, three = await consumer.publish_and_fetch(order(), order(), order())
    await consumer.settle(one, Done(result=result("before")))
    position = await results.position(consumer.stream)
    waiting = asyncio.create_task(results.news(consumer.stream, after=position, wait=30.0))
    await asyncio.sleep(0)

    await consumer.settle(two, Done(result=result("first")))
    told, position = await waiting
    await consumer.settle(three, Dead(reason="rejected", result=result("second")))
    later, position = await results.news(consumer.stream, after=position, wait=30.0)

    assert (told, later) == (["first"], ["second"])
    assert await results.news(consumer.stream, after=position, wait=0.01) == ([], position)


async def test_where_nothing_has_come_there_is_a_position_to_wait_from(engine: Engine) -> None:
    consumer = await engine.consumer()
    results = consumer.transport.results
    position = await results.position(consumer.stream)
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Done(result=result()))

    assert (await results.news(consumer.stream, after=position, wait=30.0))[0] == ["e1"]


# ── on a real server ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_where_a_result_cannot_be_told_nothing_is_stored(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    redis_engine.client.set(keys.results(consumer.stream), "somebody else's")

    with pytest.raises(TransportError):
        await consumer.settle(delivery, Done((order("more"),), result=result()))

    assert await get(consumer) is None
    assert await consumer.fetch() == []
    [entry] = await consumer.inspection.pending(consumer.stream, consumer.group, limit=10)
    assert entry.consumer == consumer.owner


async def test_results_and_their_news_end_by_themselves(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Done(result=result(ttl=100.0)))

    client = redis_engine.client
    assert 99_000 < client.pttl(keys.result(consumer.stream, "e1")) <= 100_000
    assert client.pttl(keys.results(consumer.stream)) > 0
