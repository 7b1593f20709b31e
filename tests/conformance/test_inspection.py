"""Questions about a running system, and the two commands of operators."""

from __future__ import annotations

from datetime import UTC, datetime

from streamtask.transport.values import Dead, Done, Release, Retry, Skip, Wait
from tests.conformance.engines import ORDER_PLACED, Engine, order, text_of

# ── stats ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_stats_tell_what_is_pending_and_what_is_unread(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(*(order() for _ in range(5)))
    await consumer.fetch(2)

    [stats] = await consumer.transport.stats("orders")

    assert (stats.stream, stats.group, stats.pending, stats.dead) == ("orders", "shipping", 2, 0)
    assert stats.lag in (3, None)
    assert stats.lag_seconds is None or 0 <= stats.lag_seconds < 60
    assert stats.oldest_pending is not None
    assert 0 <= stats.oldest_pending < 60


async def test_stats_of_a_group_that_is_done_are_empty(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Done())

    [stats] = await consumer.transport.stats("orders")

    assert (stats.pending, stats.oldest_pending) == (0, None)
    assert stats.lag in (0, None)
    assert stats.lag_seconds in (0, None)


async def test_stats_never_count_deleted_entries_as_lag(engine: Engine) -> None:
    consumer = await engine.consumer()
    ids = await consumer.publish(*(order() for _ in range(3)))
    engine.delete("orders", ids[1])

    [stats] = await consumer.transport.stats("orders")

    assert stats.lag in (2, None)


async def test_stats_of_an_old_entry_tell_its_age(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order(), order())
    await consumer.fetch(1)

    await engine.let_pass(0.3)

    [stats] = await consumer.transport.stats("orders", "shipping")
    assert stats.oldest_pending is not None
    assert stats.oldest_pending >= 0.3
    assert stats.lag_seconds is None or stats.lag_seconds >= 0.3


async def test_stats_count_the_consumers_without_the_reserved_ones(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    parked, waiting = await a.publish_and_fetch(order(), order())
    [done] = await b.publish_and_fetch()
    await b.settle(done, Done())
    await a.settle(parked, Retry(delay=60))
    await a.settle(waiting, Wait("OrderPlaced", "v2", timeout=60))

    [stats] = await a.transport.stats("orders")

    assert (stats.consumers, stats.pending) == (2, 2)


async def test_stats_name_every_group_or_the_one_asked_for(engine: Engine) -> None:
    consumer, _ = await engine.consumer(group="shipping"), await engine.consumer(group="billing")

    assert sorted(stats.group for stats in await consumer.transport.stats("orders")) == ["billing", "shipping"]
    assert [stats.group for stats in await consumer.transport.stats("orders", "billing")] == ["billing"]
    assert await consumer.transport.stats("orders", "nobody") == []
    assert await consumer.transport.stats("nowhere") == []


# ── inspection ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_streams_are_those_that_were_registered_or_published_to(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order(stream="bills"), order(stream="later", delay=60))

    assert await consumer.inspection.streams() == ["bills", "later", "orders"]


async def test_a_stream_is_told_in_numbers(engine: Engine) -> None:
    consumer, _ = await engine.consumer(), await engine.consumer(group="billing")
    ids = await consumer.publish(order(), order(), order())
    await consumer.publish(order(delay=60))
    await consumer.settle((await consumer.fetch())[0], Dead(reason="rejected"))

    info = await consumer.inspection.stream("orders")

    assert (info.stream, info.length, info.groups, info.dead, info.scheduled) == ("orders", 3, 2, 1, 1)
    assert (info.first_id, info.last_id) == (ids[0], ids[-1])
    assert info.bytes is None or info.bytes > 0


async def test_a_stream_that_is_not_there_is_empty(engine: Engine) -> None:
    consumer = await engine.consumer()

    info = await consumer.inspection.stream("nowhere")

    assert (info.length, info.groups, info.dead, info.scheduled) == (0, 0, 0, 0)
    assert await consumer.inspection.streams() == ["orders"]


async def test_pending_entries_are_listed_in_pages_with_their_owners(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    held, abandoned, parked, waiting = await consumer.publish_and_fetch(*(order() for _ in range(4)))
    await consumer.settle(parked, Retry(delay=60))
    await consumer.settle(waiting, Wait("OrderPlaced", "v2", timeout=60))
    await consumer.beat()

    first = await consumer.inspection.pending("orders", "shipping", limit=2)
    rest = await consumer.inspection.pending("orders", "shipping", limit=9, after=first[-1].entry_id)

    assert [entry.entry_id for entry in first] == [held.entry_id, abandoned.entry_id]
    assert [(entry.consumer, entry.deliveries, entry.due_in_ms, entry.alive) for entry in first] == [
        ("a", 1, None, True)
    ] * 2
    assert [(entry.entry_id, entry.alive) for entry in rest] == [(parked.entry_id, True), (waiting.entry_id, True)]
    assert rest[0].due_in_ms is not None
    assert 50_000 < rest[0].due_in_ms <= 60_000
    assert rest[1].due_in_ms is None


async def test_a_pending_entry_of_a_dead_owner_is_not_alive(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    [delivery] = await consumer.publish_and_fetch()
    engine.age(delivery, 100)

    [entry] = await consumer.inspection.pending("orders", "shipping", limit=1)

    assert entry.alive is False
    assert entry.idle_ms >= 100_000


async def test_consumers_are_listed_with_what_they_hold(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    await a.publish_and_fetch(order(), order())
    [done] = await b.publish_and_fetch()
    await b.settle(done, Done())
    await b.beat()

    found = {consumer.consumer: consumer for consumer in await a.inspection.consumers("orders", "shipping")}

    assert {name: (consumer.pending, consumer.alive) for name, consumer in found.items()} == {
        "a": (2, False),
        "b": (0, True),
    }


async def test_reserved_owners_are_no_consumers(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Retry(delay=60))

    assert [found.consumer for found in await consumer.inspection.consumers("orders", "shipping")] == ["a"]


async def test_living_workers_say_what_they_are(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    await a.recovery.beat("a", b'{"host": "h1", "pid": 7}', ttl=60)
    await b.beat(ttl=0.05)
    await engine.let_pass(0.1)

    [worker] = await a.inspection.workers()

    assert (worker["worker"], worker["host"], worker["pid"]) == ("a", "h1", 7)
    assert 0 <= int(str(worker["last_beat_ms"])) < 60_000


async def test_groups_tell_their_interest_and_what_they_skipped(engine: Engine) -> None:
    consumer = await engine.consumer(handles=[("OrderPlaced", "v2"), ORDER_PLACED])
    first, second = await consumer.publish_and_fetch(order(), order())
    for delivery in (first, second):
        await consumer.settle(delivery, Skip(event_type="OrderLost"))

    [group] = await consumer.inspection.groups("orders")

    assert (group["stream"], group["group"]) == ("orders", "shipping")
    assert group["interest"] == ["OrderPlaced:v1", "OrderPlaced:v2"]
    assert group["skipped"] == {"OrderLost": {"first_id": first.entry_id, "count": 2}}
    assert 0 <= int(str(group["last_seen_ms"])) < 60_000


async def test_an_entry_is_found_by_its_id(engine: Engine) -> None:
    consumer = await engine.consumer()
    [entry_id] = await consumer.publish(item := order())

    assert list(await consumer.inspection.entry("orders", entry_id) or ()) == [b"envelope", item.body]
    assert await consumer.inspection.entry("orders", "1-1") is None
    assert await consumer.inspection.entry("nowhere", entry_id) is None


async def test_entries_are_found_by_their_ids_in_one_go(engine: Engine) -> None:
    consumer = await engine.consumer()
    first, second = await consumer.publish(one := order(), two := order())

    found = await consumer.inspection.entries("orders", [second, "1-1", first])

    assert [fields and list(fields) for fields in found] == [[b"envelope", two.body], None, [b"envelope", one.body]]
    assert await consumer.inspection.entries("orders", []) == []


async def test_the_newest_entries_come_first_copies_included(engine: Engine) -> None:
    consumer = await engine.consumer()
    for delivery in await consumer.publish_and_fetch(order("0"), order("1")):
        await consumer.settle(delivery, Done())
    await consumer.inspection.replay_history("orders", "shipping", since="0", generation="g1")

    first = await consumer.inspection.newest("orders", before="", limit=3)
    rest = await consumer.inspection.newest("orders", before=first[-1].entry_id, limit=3)

    assert [(text_of(entry), entry.only) for entry in (*first, *rest)] == [
        ("1", "shipping"),
        ("0", "shipping"),
        ("1", None),
        ("0", None),
    ]
    assert await consumer.inspection.newest("nowhere", before="", limit=3) == []


async def test_the_state_of_an_entry_follows_its_life(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    [entry_id] = await consumer.publish(order())

    async def state() -> object:
        return (await consumer.inspection.state("orders", "shipping", entry_id))["state"]

    assert await state() == "unread"
    delivery = await consumer.fetch_one()
    assert await state() == "abandoned"
    await consumer.beat()
    assert await state() == "running"
    await consumer.settle(delivery, Retry(delay=0))
    assert await state() == "retrying"
    await consumer.settle(await consumer.claim_one(), Wait(*ORDER_PLACED, timeout=60))
    assert await state() == "waiting"
    await consumer.settle(await consumer.claim_one(), Done())
    assert await state() == "done"


async def test_the_state_of_a_retrying_entry_tells_its_counts(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Retry(delay=60, error="boom"))

    state = await consumer.inspection.state("orders", "shipping", delivery.entry_id)

    assert (state["state"], state["deliveries"], state["failures"]) == ("retrying", 1, 1)
    assert state["error"] == "boom"
    assert 50_000 < int(str(state["due_in_ms"])) <= 60_000


async def test_settings_are_words(engine: Engine) -> None:
    consumer = await engine.consumer()

    settings = await consumer.inspection.settings()

    assert all(isinstance(word, str) for pair in settings.items() for word in pair)


# ── drop a group ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_dropped_group_is_gone_with_all_that_belonged_to_it(engine: Engine) -> None:
    consumer = await engine.consumer()
    parked, skipped, waiting = await consumer.publish_and_fetch(order("0"), order("1"), order("2"))
    await consumer.settle(parked, Retry(delay=0))
    await consumer.settle(skipped, Skip(event_type="OrderLost"))
    await consumer.settle(waiting, Wait("OrderPlaced", "v2", timeout=60))

    assert await consumer.inspection.drop_group("orders", "shipping") is True
    assert await consumer.inspection.drop_group("orders", "shipping") is False

    assert await consumer.transport.stats("orders") == []
    assert await consumer.transport.interest("orders", "shipping") == frozenset()
    again = await engine.consumer(handles=[("OrderLost", "v1"), ("OrderPlaced", "v2")])
    assert (await again.claim()).deliveries == []
    fetched = await again.fetch()
    assert [(text_of(delivery), delivery.attempt) for delivery in fetched] == [("0", 1), ("1", 1), ("2", 1)]


async def test_a_dropped_group_begins_anew_where_it_is_told_to(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish_and_fetch()
    await consumer.retention.trim("orders", max_age=3600, max_entries=1000)
    await consumer.inspection.drop_group("orders", "shipping")

    again = await engine.consumer(start="latest")

    assert await again.fetch() == []


async def test_dropping_one_group_leaves_the_others_alone(engine: Engine) -> None:
    shipping, billing = await engine.consumer(group="shipping"), await engine.consumer(group="billing")
    await shipping.publish_and_fetch()
    delivery = await billing.fetch_one()
    await billing.settle(delivery, Retry(delay=0))

    await shipping.inspection.drop_group("orders", "shipping")

    assert (await billing.claim_one()).attempt == 2


async def test_the_counts_of_a_dropped_group_do_not_haunt_its_successor(engine: Engine) -> None:
    consumer = await engine.consumer()
    [delivery] = await consumer.publish_and_fetch()
    await consumer.settle(delivery, Retry(delay=3600))
    await consumer.inspection.drop_group("orders", "shipping")

    again = await engine.consumer()
    await again.settle(await again.fetch_one(), Release())

    assert (await again.claim_one()).failures == 0


# ── replay history ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_history_fills_a_new_group_from_an_id_on_that_one_included(engine: Engine) -> None:
    consumer = await engine.consumer()
    ids = await consumer.publish(*(order(f"{n}") for n in range(4)))

    assert await consumer.inspection.replay_history("orders", "new", since=ids[1], generation="g1") == 3

    new = await engine.consumer(group="new")
    assert [text_of(delivery) for delivery in await new.fetch()] == ["1", "2", "3"]
    assert await consumer.texts() == ["0", "1", "2", "3"]


async def test_history_fills_a_new_group_from_a_moment_on(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("before"))
    await engine.let_pass(0.01)
    [first] = await consumer.publish(order("first"))
    moment = datetime.fromtimestamp(int(first.partition("-")[0]) / 1000, UTC)

    assert await consumer.inspection.replay_history("orders", "new", since=moment, generation="g1") == 1

    assert text_of(await (await engine.consumer(group="new")).fetch_one()) == "first"


async def test_history_is_handed_to_an_existing_group_in_copies_for_it_alone(engine: Engine) -> None:
    consumer, other = await engine.consumer(), await engine.consumer(group="billing")
    for delivery in await consumer.publish_and_fetch(*(order(f"{n}") for n in range(3))):
        await consumer.settle(delivery, Done())
    await other.fetch()

    first = (await consumer.transport.read("orders", after="0", count=9, wait=0))[1].entry_id
    assert await consumer.inspection.replay_history("orders", "shipping", since=first, generation="g1") == 2

    copies = await consumer.fetch()
    assert [(text_of(copy), copy.only, copy.replay) for copy in copies] == [
        ("1", "shipping", "g1"),
        ("2", "shipping", "g1"),
    ]
    assert [copy.only for copy in await other.fetch()] == ["shipping", "shipping"]


async def test_history_contains_no_copies(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.settle((await consumer.publish_and_fetch(order("1")))[0], Done())
    await consumer.inspection.replay_history("orders", "shipping", since="0", generation="g1")
    await consumer.settle(await consumer.fetch_one(), Done())

    assert await consumer.inspection.replay_history("orders", "shipping", since="0", generation="g2") == 1

    copy = await consumer.fetch_one()
    assert (copy.replay, len(copy.fields)) == ("g2", 6)


async def test_history_does_not_double_what_the_group_has_still_to_do(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("done"), order("held"), order("unread"))
    done, _held = await consumer.fetch(2)
    await consumer.settle(done, Done())

    assert await consumer.inspection.replay_history("orders", "shipping", since="0", generation="g1") == 1

    assert [(text_of(delivery), delivery.only) for delivery in await consumer.fetch()] == [
        ("unread", None),
        ("done", "shipping"),
    ]
