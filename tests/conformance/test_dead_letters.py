"""Dead letters: kept whole with the evidence, replayed once, for the group that failed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from streamtask.transport.values import Dead, Delivery, Done, Retry
from tests.conformance.engines import Consumer, Engine, order, text_of


async def buried(consumer: Consumer, text: str = "1") -> str:
    """The id of a fresh dead letter."""
    [delivery] = await consumer.publish_and_fetch(order(text))
    await consumer.settle(delivery, Dead(reason="rejected"))
    letters = await consumer.dead_letters.page(consumer.stream, after="", limit=1000)
    return letters[-1].dead_id


async def test_a_dead_letter_keeps_the_entry_whole_with_the_evidence(engine: Engine) -> None:
    consumer = await engine.consumer("a")
    [delivery] = await consumer.publish_and_fetch(item := order(event_id="e-1"))
    await consumer.settle(delivery, Retry(delay=0))
    delivery = await consumer.claim_one()
    evidence = Dead(
        reason="max_attempts",
        error="ValueError: é",
        traceback="Traceback...\n  line",
        attempts=2,
        event_id="e-1",
        event_type="OrderPlaced",
        worker="host:1:abc",
    )

    await consumer.settle(delivery, evidence)

    [letter] = await consumer.dead_letters.page("orders", after="", limit=10)
    assert list(letter.fields) == [b"envelope", item.body]
    assert (letter.stream, letter.group, letter.entry_id) == ("orders", "shipping", delivery.entry_id)
    assert (letter.event_id, letter.event_type) == ("e-1", "OrderPlaced")
    assert (letter.reason, letter.error, letter.traceback) == ("max_attempts", evidence.error, evidence.traceback)
    assert (letter.attempts, letter.deliveries, letter.worker) == (2, 2, "host:1:abc")
    assert timedelta() <= letter.dead_at - letter.first_seen < timedelta(minutes=1)
    assert letter.id == f"orders/shipping/{letter.dead_id}"


async def test_a_dead_letter_is_settled_in_its_group(engine: Engine) -> None:
    consumer = await engine.consumer()

    await buried(consumer)

    assert await consumer.pending() == 0
    assert await consumer.fetch() == (await consumer.claim()).deliveries == []


async def test_dead_letters_come_in_pages_oldest_first(engine: Engine) -> None:
    consumer = await engine.consumer()
    ids = [await buried(consumer, f"{n}") for n in range(5)]

    first = await consumer.dead_letters.page("orders", after="", limit=3)
    rest = await consumer.dead_letters.page("orders", after=first[-1].dead_id, limit=3)

    assert [letter.dead_id for letter in [*first, *rest]] == ids
    assert await consumer.dead_letters.count("orders") == 5


async def test_one_dead_letter_is_found_by_its_id(engine: Engine) -> None:
    consumer = await engine.consumer()
    dead_id = await buried(consumer)

    letter = await consumer.dead_letters.get("orders", dead_id)

    assert letter is not None
    assert letter.dead_id == dead_id
    assert await consumer.dead_letters.get("orders", "1-1") is None
    assert await consumer.dead_letters.get("bills", dead_id) is None


async def test_a_replay_is_handled_by_the_group_that_failed_only(engine: Engine) -> None:
    shipping, billing = await engine.consumer(group="shipping"), await engine.consumer(group="billing")
    dead_id = await buried(shipping)
    await billing.settle(await billing.fetch_one(), Done())

    entry_id = await shipping.dead_letters.replay("orders", dead_id)

    replayed, elsewhere = await shipping.fetch_one(), await billing.fetch_one()
    assert replayed.entry_id == entry_id
    assert (replayed.only, replayed.replay) == ("shipping", dead_id)
    assert (elsewhere.only, elsewhere.replay) == ("shipping", dead_id)
    assert text_of(replayed) == "1"
    assert (replayed.deliveries, replayed.attempt) == (1, 1)


async def test_a_dead_letter_replayed_twice_at_once_comes_back_once(engine: Engine) -> None:
    a, b = await engine.consumer("a"), await engine.consumer("b")
    dead_id = await buried(a)

    replays = await asyncio.gather(*(one.dead_letters.replay("orders", dead_id) for one in (a, b)))

    assert [replay for replay in replays if replay is None] == [None]
    assert len(await a.fetch()) == 1
    assert await a.dead_letters.count("orders") == 0


async def test_a_replay_of_what_is_not_there_does_nothing(engine: Engine) -> None:
    consumer = await engine.consumer()

    assert await consumer.dead_letters.replay("orders", "1-1") is None

    assert await consumer.fetch() == []


async def test_any_bytes_and_repeated_names_survive_the_round_trip(engine: Engine) -> None:
    consumer = await engine.consumer()
    fields = [b"envelope", b"\xff\x00\xfe", b"na\xffme", b"1", b"twice", b"a", b"twice", b"b", b"", b""]
    engine.add("orders", *fields)
    await consumer.settle(await consumer.fetch_one(), Dead(reason="decode"))

    [letter] = await consumer.dead_letters.page("orders", after="", limit=1)
    assert list(letter.fields) == fields
    await consumer.dead_letters.replay("orders", letter.dead_id)

    replayed = await consumer.fetch_one()
    assert sorted(pairs(replayed)) == sorted(
        [*zip(fields[::2], fields[1::2], strict=True), (b"only", b"shipping"), (b"replay", letter.dead_id.encode())]
    )
    assert [value for name, value in pairs(replayed) if name == b"twice"] == [b"a", b"b"]


async def test_a_field_of_the_entry_is_never_taken_for_evidence(engine: Engine) -> None:
    consumer = await engine.consumer()
    fields = [b"group", b"x", b"reason", b"y", b"field:envelope", b"z", b"dead_at", b"0"]
    engine.add("orders", *fields)

    await consumer.settle(await consumer.fetch_one(), Dead(reason="decode"))

    [letter] = await consumer.dead_letters.page("orders", after="", limit=1)
    assert (letter.group, letter.reason, list(letter.fields)) == ("shipping", "decode", fields)


async def test_a_copy_of_a_copy_carries_the_newest_generation_only(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.dead_letters.replay("orders", await buried(consumer))
    await consumer.settle(await consumer.fetch_one(), Dead(reason="rejected"))
    [letter] = await consumer.dead_letters.page("orders", after="", limit=1)

    await consumer.dead_letters.replay("orders", letter.dead_id)

    names = [name for name, _ in pairs(await consumer.fetch_one())]
    assert sorted(names) == [b"envelope", b"only", b"replay"]


async def test_the_generation_of_a_copy_is_that_of_its_own_dead_letter(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.dead_letters.replay("orders", await buried(consumer))
    await consumer.settle(await consumer.fetch_one(), Dead(reason="rejected"))
    [letter] = await consumer.dead_letters.page("orders", after="", limit=1)

    await consumer.dead_letters.replay("orders", letter.dead_id)

    assert (await consumer.fetch_one()).replay == letter.dead_id


async def test_a_replay_survives_that_the_original_was_trimmed(engine: Engine) -> None:
    consumer = await engine.consumer()
    dead_id = await buried(consumer, "kept")
    await consumer.retention.trim("orders", max_age=3600, max_entries=0)

    await consumer.dead_letters.replay("orders", dead_id)

    assert text_of(await consumer.fetch_one()) == "kept"


async def test_the_last_dead_letter_is_the_newest(engine: Engine) -> None:
    consumer = await engine.consumer()
    assert await consumer.dead_letters.last("orders") == ""

    await buried(consumer)
    newest = await buried(consumer)

    assert await consumer.dead_letters.last("orders") == newest


async def test_purging_removes_those_and_says_how_many(engine: Engine) -> None:
    consumer = await engine.consumer()
    ids = [await buried(consumer) for _ in range(3)]

    assert await consumer.dead_letters.purge("orders", [ids[0], ids[2], "1-1"]) == 2
    assert await consumer.dead_letters.purge("orders", []) == 0

    assert [letter.dead_id for letter in await consumer.dead_letters.page("orders", after="", limit=9)] == [ids[1]]


async def test_dead_letters_are_counted_for_each_group(engine: Engine) -> None:
    shipping, billing = await engine.consumer(group="shipping"), await engine.consumer(group="billing")
    first = await buried(shipping)
    second = await buried(shipping)
    await billing.settle((await billing.fetch())[0], Dead(reason="rejected"))

    async def dead() -> dict[str, int]:
        return {stats.group: stats.dead for stats in await shipping.transport.stats("orders")}

    assert await dead() == {"shipping": 2, "billing": 1}
    await shipping.dead_letters.replay("orders", first)
    assert await dead() == {"shipping": 1, "billing": 1}
    await shipping.dead_letters.purge("orders", [second])
    assert await dead() == {"shipping": 0, "billing": 1}


def pairs(delivery: Delivery) -> list[tuple[bytes, bytes]]:
    """The fields of an entry, by two."""
    return list(zip(delivery.fields[::2], delivery.fields[1::2], strict=True))
