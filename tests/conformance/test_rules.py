"""Rules: how far each is, and slots that are taken once, with their tick."""

from __future__ import annotations

import asyncio

import pytest

from streamtask.errors import TransportError
from streamtask.transport.port import Schedule
from streamtask.transport.values import RuleText, Slot, Standing
from tests.conformance.engines import Engine, RedisEngine, order

_TIDY = RuleText("orders", "tidy", "every 30")
_CHANGED = RuleText("orders", "tidy", "every 60")


async def stand(schedule: Schedule, rule: RuleText = _TIDY, *, new: bool = False) -> Standing:
    [standing] = await schedule.stand([rule], new=new)
    return standing


def slot(at_ms: int, known_ms: int, text: str = "tick", *, passed: bool = False) -> Slot:
    return Slot(stream="orders", rule="tidy", at_ms=at_ms, known_ms=known_ms, item=None if passed else order(text))


async def test_a_rule_begins_when_it_is_first_named_and_has_missed_nothing(engine: Engine) -> None:
    schedule = (await engine.consumer()).schedule

    first = await stand(schedule, new=True)
    await engine.let_pass(0.05)
    later = await stand(schedule)

    assert first == Standing(first.now_ms, 0, first.now_ms)
    assert later == Standing(later.now_ms, 0, first.begun_ms)
    assert later.now_ms > first.now_ms


async def test_a_slot_is_taken_with_its_tick(engine: Engine) -> None:
    consumer = await engine.consumer()
    now = (await stand(consumer.schedule, new=True)).now_ms
    item = order("tick")

    assert await consumer.schedule.tick([Slot(stream="orders", rule="tidy", at_ms=now, known_ms=0, item=item)]) == [
        True
    ]

    assert (await stand(consumer.schedule)).last_ms == now
    assert list((await consumer.fetch_one()).fields) == [b"envelope", item.body]


async def test_of_workers_that_take_one_slot_at_once_one_does(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    now = (await stand(a.schedule, new=True)).now_ms

    taken = await asyncio.gather(*(each.schedule.tick([slot(now, 0)]) for each in (a, b, a, b)))

    assert sorted(taken) == [[False], [False], [False], [True]]
    assert await a.texts() == ["tick"]


async def test_a_slot_is_not_taken_by_who_does_not_know_the_last_one(engine: Engine) -> None:
    consumer = await engine.consumer()
    now = (await stand(consumer.schedule, new=True)).now_ms
    await consumer.schedule.tick([slot(now - 20, 0, "1")])

    assert await consumer.schedule.tick([slot(now - 10, 0, "2")]) == [False]
    assert await consumer.schedule.tick([slot(now - 10, now - 20, "2")]) == [True]

    assert await consumer.texts() == ["1", "2"]


async def test_a_slot_is_not_taken_before_its_time_by_the_engines_clock(engine: Engine) -> None:
    consumer = await engine.consumer()
    now = (await stand(consumer.schedule, new=True)).now_ms

    assert await consumer.schedule.tick([slot(now + 3_600_000, 0)]) == [False]

    assert (await stand(consumer.schedule)).last_ms == 0
    assert await consumer.texts() == []


async def test_slots_that_build_on_each_other_are_taken_in_one_call(engine: Engine) -> None:
    consumer = await engine.consumer()
    now = (await stand(consumer.schedule, new=True)).now_ms
    slots = [slot(now - 3, 0, "1"), slot(now - 2, now - 3, "2"), slot(now - 1, now - 2, "3")]

    assert await consumer.schedule.tick(slots) == [True, True, True]
    assert await consumer.schedule.tick(slots) == [False, False, False]

    assert await consumer.texts() == ["1", "2", "3"]


async def test_a_slot_that_is_passed_over_has_no_tick(engine: Engine) -> None:
    consumer = await engine.consumer()
    now = (await stand(consumer.schedule, new=True)).now_ms

    assert await consumer.schedule.tick([slot(now, 0, passed=True)]) == [True]
    assert await consumer.schedule.tick([slot(now, 0)]) == [False]

    assert (await stand(consumer.schedule)).last_ms == now
    assert await consumer.texts() == []


async def test_a_new_text_begins_when_a_worker_starts_with_it(engine: Engine) -> None:
    schedule = (await engine.consumer()).schedule
    first = await stand(schedule, new=True)
    await schedule.tick([slot(first.now_ms, 0, passed=True)])
    await engine.let_pass(0.05)

    changed = await stand(schedule, _CHANGED, new=True)

    assert changed.begun_ms == changed.now_ms > first.begun_ms
    assert changed.last_ms == first.now_ms


async def test_a_worker_with_the_old_text_does_not_put_it_back_and_goes_on(engine: Engine) -> None:
    consumer = await engine.consumer()
    first = await stand(consumer.schedule, new=True)
    await engine.let_pass(0.05)
    changed = await stand(consumer.schedule, _CHANGED, new=True)

    old = await stand(consumer.schedule)

    assert (old.last_ms, old.begun_ms) == (0, 0)
    assert (await stand(consumer.schedule, _CHANGED)).begun_ms == changed.begun_ms
    assert await consumer.schedule.tick([slot(first.now_ms, 0)]) == [True]


async def test_rules_are_told_with_what_they_are_and_how_far(engine: Engine) -> None:
    consumer = await engine.consumer()
    standing = await stand(consumer.schedule, new=True)
    await consumer.schedule.tick([slot(standing.now_ms, 0)])
    await stand(consumer.schedule, RuleText("orders", "a\tb", "cron UTC * * * * *"), new=True)

    other, tidy = await consumer.schedule.rules("orders")

    assert (other.rule, other.text, other.last_ms) == ("a\tb", "cron UTC * * * * *", 0)
    assert (tidy.rule, tidy.text, tidy.last_ms) == ("tidy", "every 30", standing.now_ms)
    assert (tidy.begun_ms, tidy.seen_ms) == (standing.begun_ms, standing.begun_ms)
    assert tidy.now_ms >= standing.now_ms
    assert await consumer.schedule.rules("bills") == []


async def test_a_tick_that_the_server_refuses_gives_its_slot_back(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    now = (await stand(consumer.schedule, new=True)).now_ms
    redis_engine.client.delete("stream:orders")
    redis_engine.client.set("stream:orders", "no stream")

    with pytest.raises(TransportError, match="WRONGTYPE"):
        await consumer.schedule.tick([slot(now, 0)])

    assert (await stand(consumer.schedule)).last_ms == 0
    redis_engine.client.delete("stream:orders")
    assert await consumer.schedule.tick([slot(now, 0)]) == [True]


async def test_a_server_that_came_back_empty_is_asked_how_far_the_rule_is_first(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    now = (await stand(consumer.schedule, new=True)).now_ms
    redis_engine.client.flushall()

    assert await consumer.schedule.tick([slot(now, 0)]) == [False]
    again = await stand(consumer.schedule)

    assert again.begun_ms == again.now_ms > now
