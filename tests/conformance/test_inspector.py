"""What the inspector makes of an engine's answers, where one event is, and what operators change."""

from __future__ import annotations

import json
import uuid

import pytest

from streamtask import App
from streamtask.errors import ConfigurationError, InUseError, NotFoundError
from streamtask.inspector import Connection, Inspector
from streamtask.operations import Operations
from streamtask.references import DeadLetterReference, EntryReference
from streamtask.rows import DeadLetterFilter
from streamtask.trail import Trail, follow
from streamtask.transport.values import Dead, Delivery, Done, Outgoing, Retry, Skip, Subscription, Wait
from tests.conformance.engines import Consumer, Engine


def placed(n: int = 0, *, event_id: str | None = None, causation_id: str | None = None, **options: object) -> Outgoing:
    """A whole OrderPlaced."""
    event_id = event_id or str(uuid.uuid4())
    envelope = {
        "schema_version": "v1",
        "event_id": event_id,
        "event_type": "OrderPlaced",
        "source": "test",
        "timestamp": "2024-10-19T12:34:56.789Z",
        "trace_id": "0" * 32,
        "payload": {"n": n},
    }
    if causation_id:
        envelope["causation_id"] = causation_id
    options = {"stream": "orders", **options}
    return Outgoing(body=json.dumps(envelope).encode(), event_id=event_id, **options)  # type: ignore[arg-type]


def on(consumer: Consumer) -> Inspector:
    return Inspector(Connection(consumer.transport))


def operate(consumer: Consumer) -> Operations:
    return Operations(on(consumer))


async def trail(consumer: Consumer, event: str | EntryReference, depth: int = 1000) -> Trail:
    return await follow(on(consumer), event, depth=depth)


async def buried(consumer: Consumer, n: int = 0, *, reason: str = "rejected", event_id: str | None = None) -> str:
    """The event id of a fresh dead letter."""
    item = placed(n, event_id=event_id)
    [delivery] = await consumer.publish_and_fetch(item)
    dead = Dead(reason=reason, error="boom", attempts=2, event_id=item.event_id, event_type="OrderPlaced")
    await consumer.settle(delivery, dead)
    return item.event_id


async def dead_ids(consumer: Consumer) -> list[str]:
    return [letter.id for letter in (await on(consumer).dead(DeadLetterFilter(), limit=1000)).rows]


# ── pending ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_pending_entries_are_told_with_their_events_and_states(engine: Engine) -> None:
    other = await engine.consumer("left")
    [left] = await other.publish_and_fetch(placed())
    consumer = await engine.consumer("a")
    await consumer.beat()
    items = [placed(n) for n in range(3)]
    running, retrying, waiting = await consumer.publish_and_fetch(*items)
    await consumer.settle(retrying, Retry(delay=60))
    await consumer.settle(waiting, Wait("OrderPlaced", "v1", timeout=60))

    found = await on(consumer).pending(limit=100)

    assert not found.cut
    assert {(row.entry_id, row.event_id, row.state) for row in found.rows[1:]} == {
        (running.entry_id, items[0].event_id, "running"),
        (retrying.entry_id, items[1].event_id, "retrying"),
        (waiting.entry_id, items[2].event_id, "retrying"),
    }
    assert (found.rows[0].entry_id, found.rows[0].state) == (left.entry_id, "abandoned")
    assert [row.due_in_ms is not None for row in found.rows] == [False, False, True, False]
    assert {row.event_type for row in found.rows} == {"OrderPlaced"}


async def test_a_pending_entry_that_is_no_envelope_or_gone_has_no_event(engine: Engine) -> None:
    consumer = await engine.consumer()
    engine.add("orders", b"envelope", b"\xff")
    engine.add("orders", b"other", b"1")
    gone = engine.add("orders", b"envelope", placed().body)
    await consumer.fetch()
    engine.delete("orders", gone)

    found = await on(consumer).pending(limit=10)

    assert [(row.event_id, row.event_type) for row in found.rows] == [(None, None)] * 3


async def test_a_great_backlog_does_not_hide_another_group(engine: Engine) -> None:
    consumer, other = await engine.consumer(), await engine.consumer(group="billing")
    await consumer.publish(*(placed(n) for n in range(500)))
    await consumer.fetch(500)
    await other.fetch(2)

    found = await on(consumer).pending(limit=300)

    groups = [row.group for row in found.rows]
    assert (groups.count("shipping"), groups.count("billing")) == (298, 2)
    assert (found.cut, found.total) == (True, 502)
    ids = [row.entry_id for row in found.rows if row.group == "shipping"]
    assert len(set(ids)) == 298


async def test_a_stream_or_group_that_is_not_there_is_named_with_those_that_are(engine: Engine) -> None:
    consumer = await engine.consumer()

    with pytest.raises(NotFoundError, match=r"no stream 'ordres'.*it has orders"):
        await on(consumer).pending("ordres", limit=1)
    with pytest.raises(NotFoundError, match=r"no group 'shiping' on any stream|on stream 'orders'.*shipping"):
        await on(consumer).groups(group="shiping")


async def test_a_stream_that_only_foreign_programs_know_is_found_by_its_name(engine: Engine) -> None:
    consumer = await engine.consumer()
    engine.add("foreign", b"envelope", placed().body)

    assert [info.length for info in await on(consumer).stream_infos("foreign")] == [1]


# ── groups, schedule, workers ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_group_is_told_in_numbers(engine: Engine) -> None:
    consumer = await engine.consumer()
    await buried(consumer)
    await consumer.publish_and_fetch(placed())

    [group] = await on(consumer).groups("orders", "shipping")

    assert (group.consumers, group.pending, group.dead) == (1, 1, 1)
    assert group.oldest_pending_ms is not None
    assert 0 <= group.oldest_pending_ms < 60_000


async def test_a_group_is_alive_while_one_of_its_consumers_is(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    await consumer.publish_and_fetch(placed())

    [dead] = await on(consumer).memberships()
    await consumer.beat()
    [alive] = await on(consumer).memberships()

    assert (dead.alive, alive.alive, alive.last_seen_ms) == (False, True, 0)
    assert dead.interest == ["OrderPlaced:v1"]


async def test_what_is_scheduled_is_told_soonest_first_over_all_streams(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(placed(event_id="late", delay=600), placed(event_id="soon", stream="bills", delay=60))

    found = await on(consumer).scheduled(limit=10)

    assert [(event.stream, event.event_id, event.event_type) for event in found.rows] == [
        ("bills", "soon", "OrderPlaced"),
        ("orders", "late", "OrderPlaced"),
    ]
    assert (await on(consumer).scheduled(limit=1)).cut


async def test_a_worker_that_says_little_is_told_with_what_it_said(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    await consumer.beat()

    [worker] = await on(consumer).workers()

    assert (worker.worker, worker.host, worker.pid, worker.groups) == ("a", "h", None, [])


async def test_an_engine_without_a_protocol_is_said_so(engine: Engine) -> None:
    consumer = await engine.consumer()
    consumer.transport.dead_letters = None

    with pytest.raises(ConfigurationError, match="cannot keep dead letters"):
        await on(consumer).dead(DeadLetterFilter(), limit=1)


# ── dead letters ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_dead_letters_are_listed_by_what_they_are(engine: Engine) -> None:
    shipping = await engine.consumer()
    first = await buried(shipping)
    second = await buried(shipping, reason="max_attempts")

    async def listed(**wanted: str) -> list[str]:
        return [letter.event_id for letter in (await on(shipping).dead(DeadLetterFilter(**wanted), limit=9)).rows]

    assert await listed() == [first, second]
    assert await listed(reason="max_attempts") == [second]
    assert await listed(stream="orders", group="shipping", event_type="OrderPlaced") == [first, second]
    assert await listed(event_type="OrderLost") == []
    with pytest.raises(NotFoundError, match="shipping"):
        await listed(group="shiping")
    assert (await on(shipping).dead(DeadLetterFilter(), limit=1)).cut


async def test_a_dead_letter_is_replayed_once_and_only_to_its_group(engine: Engine) -> None:
    consumer, other = await engine.consumer(), await engine.consumer(group="billing")
    await buried(consumer)
    await other.settle((await other.fetch())[0], Done())
    [letter] = (await on(consumer).dead(DeadLetterFilter(), limit=9)).rows
    reference = DeadLetterReference("orders", "shipping", letter.dead_id)

    replayed = await operate(consumer).replay_dead(reference)

    assert replayed.id == letter.id
    assert [delivery.only for delivery in await consumer.fetch()] == ["shipping"]
    with pytest.raises(NotFoundError, match="any more"):
        await operate(consumer).replay_dead(reference)
    assert await consumer.fetch() == []


async def test_a_dead_letter_of_another_group_is_not_there(engine: Engine) -> None:
    consumer = await engine.consumer()
    await buried(consumer)
    [letter] = (await on(consumer).dead(DeadLetterFilter(), limit=9)).rows

    for act in (operate(consumer).replay_dead, operate(consumer).purge_dead):
        with pytest.raises(NotFoundError):
            await act(DeadLetterReference("orders", "billing", letter.dead_id))

    assert await dead_ids(consumer) == [letter.id]


async def test_a_dead_letter_whose_group_is_gone_stays(engine: Engine) -> None:
    consumer = await engine.consumer()
    await buried(consumer)
    [letter] = (await on(consumer).dead(DeadLetterFilter(), limit=9)).rows
    await consumer.inspection.drop_group("orders", "shipping")

    with pytest.raises(NotFoundError, match="nobody would handle it"):
        await operate(consumer).replay_dead(DeadLetterReference("orders", "shipping", letter.dead_id))
    done = await operate(consumer).replay_all_dead(DeadLetterFilter(), lambda _: None)

    assert (done.count, dict(done.left)) == (0, {("orders", "shipping"): 1})
    assert await dead_ids(consumer) == [letter.id]


async def test_replaying_all_touches_only_what_stood_there_when_it_began(engine: Engine) -> None:
    consumer = await engine.consumer()
    for n in range(3):
        await buried(consumer, n)
    looked_at: list[int] = []
    inspector = on(consumer)

    pages = inspector.dead_pages(DeadLetterFilter())
    first = await anext(pages)
    await buried(consumer, 3)

    assert len(first) == 3
    assert [page async for page in pages] == []
    done = await Operations(inspector).replay_all_dead(DeadLetterFilter(reason="rejected"), looked_at.append)
    assert (done.count, looked_at) == (4, [4])
    assert len(await consumer.fetch()) == 4


async def test_what_fails_again_while_all_is_replayed_is_not_replayed_again(engine: Engine) -> None:
    consumer = await engine.consumer()
    for n in range(450):
        await buried(consumer, n)

    async def fail_again() -> None:
        for delivery in await consumer.fetch(1000):
            await consumer.settle(delivery, Dead(reason="rejected"))

    operations = operate(consumer)
    letters = on(consumer).dead_pages(DeadLetterFilter())
    seen = 0
    async for page in letters:
        seen += len(page)
        for letter in page:
            await operations.replay_dead(DeadLetterReference(letter.stream, letter.group, letter.dead_id))
        await fail_again()

    assert seen == 450
    assert len(await dead_ids(consumer)) == 450


async def test_purging_removes_those_that_are_meant(engine: Engine) -> None:
    consumer = await engine.consumer()
    await buried(consumer)
    kept = await buried(consumer, reason="max_attempts")

    assert await operate(consumer).purge_all_dead(DeadLetterFilter(reason="rejected"), lambda _: None) == 1
    assert await on(consumer).count_dead() == 1
    [letter] = (await on(consumer).dead(DeadLetterFilter(), limit=9)).rows
    assert letter.event_id == kept
    reference = DeadLetterReference("orders", "shipping", letter.dead_id)
    await operate(consumer).purge_dead(reference)
    with pytest.raises(NotFoundError):
        await operate(consumer).purge_dead(reference)


# ── groups and history ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_group_is_dropped_and_what_it_had_not_finished_is_told(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(placed(), placed())
    await consumer.fetch(1)

    dropped = await operate(consumer).drop_group("orders", "shipping")

    assert (dropped.pending, dropped.unread) in ((1, 1), (1, None))
    with pytest.raises(NotFoundError):
        await operate(consumer).drop_group("orders", "shipping")


async def test_a_group_with_a_living_worker_is_not_dropped(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    await consumer.publish_and_fetch(placed())
    await consumer.beat()

    with pytest.raises(InUseError, match="stop them first"):
        await operate(consumer).drop_group("orders", "shipping")

    assert await consumer.pending() == 1


async def test_history_goes_to_a_new_group_and_again_to_an_old_one(engine: Engine) -> None:
    consumer = await engine.consumer()
    for delivery in await consumer.publish_and_fetch(placed(), placed()):
        await consumer.settle(delivery, Done())

    again = await operate(consumer).replay_history("orders", "shipping", "0-0")
    new = await operate(consumer).replay_history("orders", "new", "0-0")

    assert (again.events, again.created) == (2, False)
    assert (new.events, new.created) == (2, True)
    with pytest.raises(NotFoundError, match="no stream"):
        await operate(consumer).replay_history("ordres", "new", "0-0")
    assert await consumer.inspection.streams() == ["orders"]


# ── one event ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_event_is_followed_through_every_group_and_to_what_it_caused(engine: Engine) -> None:
    shipping, billing = await engine.consumer("a"), await engine.consumer("b", group="billing")
    other = await engine.consumer("c", group="other", handles=[("OrderLost", "v1")])
    item = placed(7)
    [delivery] = await shipping.publish_and_fetch(item)
    made = placed(8, stream="bills", causation_id=item.event_id)
    later = placed(9, stream="bills", causation_id=item.event_id, delay=600)
    await shipping.settle(delivery, Done(emits=(made, later)))
    await billing.settle(await billing.fetch_one(), Retry(delay=60, error="boom"))
    await other.settle(await other.fetch_one(), Skip(event_type="OrderPlaced"))
    await shipping.publish(placed(1))

    found = await trail(shipping, item.event_id)

    assert (found.event_id, found.stream, found.entry_id) == (item.event_id, "orders", delivery.entry_id)
    assert found.envelope is not None
    assert found.envelope["payload"] == {"n": 7}
    assert found.complete
    groups = {standing.group: standing for standing in found.groups}
    assert {name: (standing.state, standing.attempts) for name, standing in groups.items()} == {
        "shipping": ("done", None),
        "billing": ("retrying", 1),
        "other": ("skipped", None),
    }
    assert groups["billing"].error == "boom"
    assert groups["billing"].due_in_ms is not None
    assert [(caused.event_id, caused.due_in_ms is None) for caused in found.caused] == [
        (made.event_id, True),
        (later.event_id, False),
    ]
    by_entry = await trail(shipping, EntryReference("orders", delivery.entry_id))
    assert (by_entry.envelope, len(by_entry.groups), len(by_entry.caused)) == (found.envelope, 3, 2)


async def test_a_dead_event_is_followed_to_its_letter_and_to_its_replay(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    event_id = await buried(consumer)

    dead = await trail(consumer, event_id)
    [letter] = (await on(consumer).dead(DeadLetterFilter(), limit=9)).rows
    await operate(consumer).replay_dead(DeadLetterReference("orders", "shipping", letter.dead_id))
    await consumer.beat()
    copy = await consumer.fetch_one()
    replayed = await trail(consumer, event_id)

    assert [(standing.state, standing.attempts, standing.error) for standing in dead.groups] == [("dead", 2, "boom")]
    assert [found.id for found in dead.dead] == [letter.id]
    assert replayed.dead == []
    assert [(standing.entry_id, standing.state) for standing in replayed.copies] == [(copy.entry_id, "running")]
    assert replayed.entry_id == letter.entry_id


async def test_an_event_that_was_trimmed_is_found_by_its_dead_letter(engine: Engine) -> None:
    consumer = await engine.consumer()
    event_id = await buried(consumer, 5)
    [letter] = (await on(consumer).dead(DeadLetterFilter(), limit=9)).rows
    engine.delete("orders", letter.entry_id)

    found = await trail(consumer, event_id)

    assert found.envelope is not None
    assert found.envelope["payload"] == {"n": 5}
    assert [each.id for each in found.dead] == [letter.id]


async def test_an_event_that_is_not_due_yet_is_found(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(placed(3, event_id="e-1", delay=600))

    found = await trail(consumer, "e-1")

    assert (found.entry_id, found.groups) == (None, [])
    assert found.envelope is not None
    assert found.envelope["payload"] == {"n": 3}
    assert found.due_in_ms is not None
    assert 500_000 < found.due_in_ms <= 600_000


async def test_an_entry_that_is_no_envelope_is_followed_by_its_id(engine: Engine) -> None:
    consumer = await engine.consumer()
    entry_id = engine.add("orders", b"envelope", b"\xff")
    await consumer.settle(await consumer.fetch_one(), Dead(reason="undecodable", error="not JSON"))

    found = await trail(consumer, EntryReference("orders", entry_id))

    assert (found.event_id, found.envelope) == (None, None)
    assert found.error is not None
    assert "not an envelope" in found.error
    assert [standing.state for standing in found.groups] == ["dead"]


async def test_a_search_that_was_cut_short_says_so(engine: Engine) -> None:
    consumer = await engine.consumer()
    [item, *_] = items = [placed(n) for n in range(5)]
    await consumer.publish(*items)

    with pytest.raises(NotFoundError, match="newest 3 of each stream; --depth"):
        await trail(consumer, item.event_id, depth=3)
    with pytest.raises(NotFoundError, match="never published"):
        await trail(consumer, "nobody")
    assert (await trail(consumer, item.event_id, depth=100)).complete


async def test_an_entry_that_is_not_there_is_not_found(engine: Engine) -> None:
    consumer = await engine.consumer()

    with pytest.raises(NotFoundError, match="no entry 1-1"):
        await trail(consumer, EntryReference("orders", "1-1"))
    with pytest.raises(NotFoundError, match="no stream"):
        await trail(consumer, EntryReference("ordres", "1-1"))


# ── the doctor's facts ────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_doctor_is_told_what_waits_and_what_was_skipped(engine: Engine) -> None:
    consumer = await engine.consumer("a", handles=[("OrderPlaced", "v1")])
    [skipped, waiting] = await consumer.publish_and_fetch(placed(), placed())
    await consumer.settle(skipped, Skip(event_type="OrderLost"))
    await consumer.settle(waiting, Wait("OrderPlaced", "v1", timeout=600))
    await buried(consumer)
    engine.age(_parked(waiting), 30)

    facts = await on(consumer).facts()

    [group] = facts.groups
    assert (group.stream, group.group, group.pending, group.alive) == ("orders", "shipping", 1, False)
    assert [(each.type, each.first_id, each.count) for each in group.skipped] == [("OrderLost", skipped.entry_id, 1)]
    assert [(each.type, each.count) for each in group.waiting] == [("OrderPlaced", 1)]
    assert group.waiting[0].longest_ms >= 30_000
    [dead] = facts.dead
    assert (dead.stream, dead.count) == ("orders", 1)
    assert dead.newest_ms < 60_000


def _parked(delivery: Delivery) -> Delivery:
    """The same delivery as its present owner has it."""
    return Delivery(delivery.stream, delivery.group, delivery.entry_id, "~waiting", delivery.fields)


async def test_the_subscription_of_another_stream_is_looked_at_too(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.transport.register(Subscription(stream="bills", group="billing"))

    facts = await on(consumer).facts()

    assert [(group.stream, group.group) for group in facts.groups] == [("bills", "billing"), ("orders", "shipping")]


async def test_an_inspector_of_an_app_asks_while_the_app_is_connected() -> None:
    app = App("shop", broker="memory://")
    inspector = Inspector(app)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="not connected"):
            await inspector.groups()
        async with app:
            assert await inspector.groups() == []
            assert await inspector.workers() == []
