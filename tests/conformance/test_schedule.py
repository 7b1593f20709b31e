"""Events that are not due yet."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from streamtask.transport.redis import keys
from tests.conformance.engines import Engine, RedisEngine, order


async def test_a_delayed_event_is_answered_with_its_event_id_and_not_stored_yet(engine: Engine) -> None:
    consumer = await engine.consumer()

    assert await consumer.publish(order("1", event_id="e-1", delay=60)) == ["e-1"]

    assert await consumer.schedule.promote(["orders"]) is not None
    assert await consumer.fetch() == []


async def test_a_delayed_event_is_appended_when_it_is_due(engine: Engine) -> None:
    consumer = await engine.consumer()
    item = order("1", delay=0.05)
    await consumer.publish(item)
    await engine.let_pass(0.1)

    assert await consumer.schedule.promote(["orders"]) is None

    assert list((await consumer.fetch_one()).fields) == [b"envelope", item.body]
    await consumer.schedule.promote(["orders"])
    assert await consumer.fetch() == []


async def test_an_event_for_a_moment_is_appended_after_it(engine: Engine) -> None:
    consumer = await engine.consumer()
    now = datetime.now(UTC)
    await consumer.publish(order("past", at=now - timedelta(hours=1)), order("future", at=now + timedelta(hours=1)))

    next_due = await consumer.schedule.promote(["orders"])

    assert await consumer.texts() == ["past"]
    assert next_due is not None
    assert 3500 < next_due <= 3600


async def test_due_events_are_appended_soonest_first(engine: Engine) -> None:
    consumer = await engine.consumer()
    now = datetime.now(UTC)
    await consumer.publish(*(order(f"{n}", at=now - timedelta(seconds=9 - n)) for n in (3, 1, 2)))

    await consumer.schedule.promote(["orders"])

    assert await consumer.texts() == ["1", "2", "3"]


async def test_promoting_wakes_who_waits(engine: Engine) -> None:
    consumer, timekeeper = await engine.consumer(), await engine.consumer("timekeeper")
    await consumer.publish(order("1", delay=0.01))
    await engine.let_pass(0.05)

    fetch = asyncio.create_task(consumer.fetch(wait=30))
    await asyncio.sleep(0.02)
    await timekeeper.schedule.promote(["orders"])

    async with asyncio.timeout(5):
        assert len(await fetch) == 1


async def test_two_timekeepers_append_an_event_once(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    await a.publish(*(order(f"{n}", delay=0.01) for n in range(20)))
    await engine.let_pass(0.05)

    await asyncio.gather(*(one.schedule.promote(["orders"]) for one in (a, b, a, b)))

    assert sorted(await a.texts(), key=int) == [f"{n}" for n in range(20)]


async def test_promoting_looks_at_every_stream_that_is_named(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order(delay=1000), order(stream="bills", delay=60))

    next_due = await consumer.schedule.promote(["orders", "bills", "nothing"])

    assert next_due is not None
    assert 50 < next_due <= 60
    assert await consumer.schedule.promote([]) is None


async def test_what_is_scheduled_is_listed_soonest_first(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order(event_id="late", delay=600), order(event_id="soon", delay=60))

    listed = await consumer.schedule.scheduled("orders", limit=10)

    assert [(entry["event_id"], entry["event_type"]) for entry in listed] == [
        ("soon", "OrderPlaced"),
        ("late", "OrderPlaced"),
    ]
    assert [50_000 < int(str(entry["due_in_ms"])) <= 600_000 for entry in listed] == [True, True]
    assert len(await consumer.schedule.scheduled("orders", limit=1)) == 1
    assert await consumer.schedule.scheduled("bills", limit=10) == []


@pytest.mark.parametrize("size", [3, 60, 300, 70_000])
async def test_what_is_scheduled_shows_the_entry_that_it_will_be(engine: Engine, size: int) -> None:
    consumer = await engine.consumer()
    body = b"\xff" * size
    item = msgspec.structs.replace(
        order(delay=60), body=body, content_type="application/x-msgpack", content_encoding="gzip"
    )
    await consumer.publish(item)

    [entry] = await consumer.schedule.scheduled("orders", limit=10)

    fields = entry["fields"]
    assert isinstance(fields, list)
    assert fields[:6] == [
        *(b"envelope", body),
        *(b"content_type", b"application/x-msgpack"),
        *(b"content_encoding", b"gzip"),
    ]
    assert entry["event_type"] == ""


async def test_a_delayed_event_published_again_is_scheduled_once(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order(event_id="e-1", delay=60))

    assert await consumer.publish(order(event_id="e-1", delay=60, again=True)) == ["e-1"]

    assert len(await consumer.schedule.scheduled("orders", limit=10)) == 1


async def test_a_delayed_event_published_again_after_its_time_is_not_doubled(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("1", event_id="e-1", delay=0.01))
    await engine.let_pass(0.05)
    await consumer.schedule.promote(["orders"])

    await consumer.publish(order("1", event_id="e-1", delay=0.01, again=True))
    await engine.let_pass(0.05)
    await consumer.schedule.promote(["orders"])

    assert await consumer.texts() == ["1"]


async def test_a_dedup_key_counts_for_delayed_events_too(engine: Engine) -> None:
    consumer = await engine.consumer()

    first, second = await consumer.publish(
        order(event_id="e-1", delay=60, dedup_key="k"), order(event_id="e-2", delay=60, dedup_key="k")
    )

    assert first == second == "e-1"
    assert len(await consumer.schedule.scheduled("orders", limit=10)) == 1


# ── debounce ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_published_under_a_debounce_key_takes_the_place_of_what_waits_under_it(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("1", event_id="e-1", delay=0.05, debounce_key="k"))

    assert await consumer.publish(order("2", event_id="e-2", delay=60, debounce_key="k")) == ["e-2"]

    [waiting] = await consumer.schedule.scheduled("orders", limit=10)
    assert waiting["event_id"] == "e-2"
    assert 50_000 < int(str(waiting["due_in_ms"])) <= 60_000
    await engine.let_pass(0.1)
    await consumer.schedule.promote(["orders"])
    assert await consumer.fetch() == []


async def test_a_debounce_key_is_one_of_its_stream_and_binds_no_other_key_and_no_event_without(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(
        order("1", delay=0.01, debounce_key="k"),
        order("2", delay=0.02, debounce_key="K"),
        order("3", delay=0.03),
        order("4", stream="bills", delay=0.01, debounce_key="k"),
    )
    await engine.let_pass(0.1)

    await consumer.schedule.promote(["orders", "bills"])

    assert await consumer.texts() == ["1", "2", "3"]
    assert await consumer.texts("bills") == ["4"]


async def test_what_is_due_leaves_its_debounce_key_to_the_next(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("1", delay=0.01, debounce_key="k"))
    await engine.let_pass(0.05)
    await consumer.schedule.promote(["orders"])
    await consumer.publish(order("2", delay=0.01, debounce_key="k"), order("3", delay=0.02, debounce_key="k"))
    await engine.let_pass(0.05)

    await consumer.schedule.promote(["orders"])

    assert await consumer.texts() == ["1", "3"]


async def test_publishing_again_under_a_debounce_key_finds_what_is_stored(engine: Engine) -> None:
    consumer = await engine.consumer()
    item = order("1", event_id="e-1", delay=60, debounce_key="k")
    await consumer.publish(item)

    assert await consumer.publish(msgspec.structs.replace(item, again=True)) == ["e-1"]
    assert len(await consumer.schedule.scheduled("orders", limit=10)) == 1


async def test_many_publishers_under_one_debounce_key_leave_the_last(engine: Engine) -> None:
    consumers = [await engine.consumer(f"c{n}") for n in range(5)]

    async def publish(number: int) -> None:
        await consumers[number % 5].publish(order(f"{number}", event_id=f"e-{number}", delay=60, debounce_key="k"))

    await asyncio.gather(*map(publish, range(49)))
    await publish(49)

    [waiting] = await consumers[0].schedule.scheduled("orders", limit=100)
    assert waiting["event_id"] == "e-49"


async def test_what_is_cancelled_leaves_its_debounce_key_to_the_next(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("1", event_id="e-1", delay=60, debounce_key="k"))
    await consumer.schedule.cancel("orders", "e-1")
    await consumer.publish(order("2", event_id="e-2", delay=60, debounce_key="k"))
    await consumer.transport.cancellations.cancel("orders", "e-2", None, ttl=60)
    await consumer.publish(order("3", event_id="e-3", delay=60, debounce_key="k"))

    await consumer.publish(order("4", event_id="e-4", delay=60, debounce_key="k"))

    assert [waiting["event_id"] for waiting in await consumer.schedule.scheduled("orders", limit=10)] == ["e-4"]
    if isinstance(engine, RedisEngine):
        assert engine.client.hlen(keys.debounced("orders")) == 2


async def test_of_debounced_events_nothing_is_left_beside_the_stream(redis_engine: RedisEngine) -> None:
    consumer = await redis_engine.consumer()
    for n in range(10):
        await consumer.publish(order(f"{n}", delay=0.01, debounce_key=f"k{n % 3}"))
    assert redis_engine.client.hlen(keys.debounced("orders")) == 6
    await asyncio.sleep(0.05)

    await consumer.schedule.promote(["orders"])

    assert sorted(await consumer.texts()) == ["7", "8", "9"]
    for left in (keys.debounced("orders"), keys.delayed("orders"), keys.delayed_bodies("orders")):
        assert redis_engine.client.exists(left) == 0


async def test_where_the_key_of_the_debounce_is_somebody_elses_nothing_is_stored_and_others_are_promoted(
    redis_engine: RedisEngine,
) -> None:
    consumer = await redis_engine.consumer()
    redis_engine.client.set(keys.debounced("orders"), "foreign")

    [refused] = await consumer.transport.publish([order("1", delay=0, debounce_key="k")])
    await consumer.publish(order("2", delay=0))
    await consumer.schedule.promote(["orders"])

    assert isinstance(refused, Exception)
    assert await consumer.texts() == ["2"]


# ── changes ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_cancelled_does_not_come(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("1", event_id="e-1", delay=0.01), order("2", event_id="e-2", delay=0.01))

    assert await consumer.schedule.cancel("orders", "e-1") is True
    assert await consumer.schedule.cancel("orders", "e-1") is False
    await engine.let_pass(0.05)
    await consumer.schedule.promote(["orders"])

    assert await consumer.texts() == ["2"]
    assert await consumer.schedule.cancel("orders", "e-2") is False


async def test_what_was_cancelled_can_be_published_again(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("1", event_id="e-1", delay=60))
    await consumer.schedule.cancel("orders", "e-1")

    await consumer.publish(order("1", event_id="e-1", again=True))

    assert await consumer.texts() == ["1"]


async def test_what_is_moved_comes_at_the_new_time(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("sooner", event_id="e-1", delay=600), order("later", event_id="e-2", delay=0.01))

    assert await consumer.schedule.reschedule("orders", "e-1", delay=0.02) is True
    assert await consumer.schedule.reschedule("orders", "e-2", at=datetime.now(UTC) + timedelta(hours=1)) is True
    await engine.let_pass(0.05)
    next_due = await consumer.schedule.promote(["orders"])

    assert await consumer.texts() == ["sooner"]
    assert next_due is not None
    assert 3500 < next_due <= 3600


async def test_what_has_come_already_is_not_moved(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("1", event_id="e-1", delay=0.01))
    await engine.let_pass(0.05)
    await consumer.schedule.promote(["orders"])

    assert await consumer.schedule.reschedule("orders", "e-1", delay=0.0) is False
    assert await consumer.schedule.reschedule("orders", "nobody", delay=0.0) is False
    await consumer.schedule.promote(["orders"])

    assert await consumer.texts() == ["1"]


async def test_an_event_that_is_cancelled_and_promoted_at_once_is_one_of_both(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    await a.publish(*(order(f"{n}", event_id=f"e-{n}", delay=0.0) for n in range(20)))

    _, *cancelled = await asyncio.gather(
        b.schedule.promote(["orders"]), *(a.schedule.cancel("orders", f"e-{n}") for n in range(20))
    )

    assert len(await a.texts()) + sum(cancelled) == 20
    assert await a.schedule.scheduled("orders", limit=20) == []
