"""Events that nobody wants any more: remembered beside their stream, and taken out of the schedule at once."""

from __future__ import annotations

import asyncio

from streamtask.transport.redis import keys
from streamtask.transport.values import Cancelled, Done, Progress, Result, Verdict
from tests.conformance.engines import Consumer, Engine, RedisEngine, order

_NOT_WANTED = Result("e1", b"not wanted", 60.0)


async def cancel(consumer: Consumer, event_id: str = "e1", *, ttl: float = 60.0) -> bool:
    return await consumer.transport.cancellations.cancel(consumer.stream, event_id, _NOT_WANTED, ttl=ttl)


async def cancelled(consumer: Consumer, *event_ids: str) -> list[bool]:
    return await consumer.transport.cancellations.cancelled(consumer.stream, event_ids)


async def test_what_is_cancelled_is_remembered_by_its_id(engine: Engine) -> None:
    consumer = await engine.consumer()
    assert await cancelled(consumer, "e1", "e2") == [False, False]

    assert await cancel(consumer)
    assert await cancel(consumer)

    assert await cancelled(consumer, "e2", "e1") == [False, True]
    # Whoever runs it says what became of it.
    assert await consumer.transport.results.get(consumer.stream, "e1") is None


async def test_what_has_a_result_cannot_be_cancelled(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Done(result=Result("e1", b"done", 60.0)))

    assert not await cancel(consumer)

    assert await cancelled(consumer, "e1") == [False]
    assert await consumer.transport.results.get(consumer.stream, "e1") == b"done"


async def test_what_is_scheduled_is_taken_out_and_has_its_result_at_once(engine: Engine) -> None:
    consumer = await engine.consumer()
    results = consumer.transport.results
    too = order("too", event_id="e2", delay=0.05)
    await consumer.publish(order("later", event_id="e1", delay=0.05), too)
    position = await results.position(consumer.stream)

    assert await cancel(consumer)

    assert await results.get(consumer.stream, "e1") == _NOT_WANTED.body
    assert (await results.news(consumer.stream, after=position, wait=30.0))[0] == ["e1"]
    await engine.let_pass(0.1)
    await consumer.transport.schedule.promote([consumer.stream])
    assert [delivery.body for delivery in await consumer.fetch()] == [too.body]


async def test_a_cancellation_runs_out(engine: Engine) -> None:
    consumer = await engine.consumer()
    await cancel(consumer, ttl=0.1)
    await engine.let_pass(0.15)

    assert await cancelled(consumer, "e1") == [False]


async def test_a_cancelled_delivery_is_acked_and_leaves_what_it_says(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()

    assert await consumer.settle(delivery, Cancelled(result=_NOT_WANTED)) is Verdict.SETTLED

    assert await consumer.transport.results.get(consumer.stream, "e1") == _NOT_WANTED.body
    assert await consumer.inspection.pending(consumer.stream, consumer.group, limit=10) == []


# ── how far an event is ───────────────────────────────────────────────────────────────────────────────────────────


async def test_who_watches_is_told_how_far_an_event_is_and_who_comes_late_the_last_word(engine: Engine) -> None:
    consumer = await engine.consumer()
    checkpoints, results = consumer.transport.checkpoints, consumer.transport.results
    [delivery] = await consumer.publish_and_fetch()
    watching = asyncio.create_task(results.progress(consumer.stream, "e1", after="0", wait=30.0))
    await asyncio.sleep(0)

    await checkpoints.report([(delivery, "e1", Progress(0.25, "a quarter"))])
    said, position = await watching
    assert said == Progress(0.25, "a quarter")
    assert await results.progress(consumer.stream, "e1", after=position, wait=0.01) == (None, position)

    await checkpoints.report([(delivery, "e1", Progress(0.5))])
    await checkpoints.report([(delivery, "e1", Progress(0.75))])
    for after in (position, "0"):
        assert (await results.progress(consumer.stream, "e1", after=after, wait=30.0))[0] == Progress(0.75)


async def test_a_late_owner_tells_no_progress(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Done())

    await consumer.transport.checkpoints.report([(delivery, "e1", Progress(0.25))])

    told = await consumer.transport.results.progress(consumer.stream, "e1", after="0", wait=0.01)
    assert told == (None, "0")


# ── on a real server ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_marks_and_progress_end_by_themselves(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await cancel(consumer, ttl=100.0)
    await consumer.transport.checkpoints.report([(delivery, "e1", Progress(0.25))])

    client = redis_engine.client
    assert 99_000 < client.pttl(keys.cancelled(consumer.stream, "e1")) <= 100_000
    assert 3_500_000 < client.pttl(keys.progress(consumer.stream, "e1")) <= 3_600_000
    assert client.xlen(keys.progress(consumer.stream, "e1")) == 1
