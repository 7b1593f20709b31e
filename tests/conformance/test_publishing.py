"""Publishing: order, ids, and storing once."""

from __future__ import annotations

from streamtask.transport.values import Outgoing
from tests.conformance.engines import Engine, order, text_of


async def test_events_stand_in_the_order_in_which_they_were_published(engine: Engine) -> None:
    consumer = await engine.consumer()

    ids = await consumer.publish(*(order(f"{n}") for n in range(50)))

    deliveries = await consumer.fetch()
    assert [text_of(delivery) for delivery in deliveries] == [f"{n}" for n in range(50)]
    assert [delivery.entry_id for delivery in deliveries] == ids


async def test_one_batch_may_name_several_streams(engine: Engine) -> None:
    consumer = await engine.consumer()

    await consumer.publish(order("a"), order("b", stream="bills"), order("c"))

    assert await consumer.texts("orders") == ["a", "c"]
    assert await consumer.texts("bills") == ["b"]


async def test_an_empty_batch_is_nothing(engine: Engine) -> None:
    transport = await engine.transport()

    assert await transport.publish([]) == []
    assert await transport.settle([]) == []
    assert await transport.renew([]) == []


async def test_a_plain_entry_is_one_field_named_envelope(engine: Engine) -> None:
    consumer = await engine.consumer()

    [delivery] = await consumer.publish_and_fetch(item := order())

    assert list(delivery.fields) == [b"envelope", item.body]


async def test_content_type_and_encoding_travel_beside_the_envelope(engine: Engine) -> None:
    consumer = await engine.consumer()
    item = Outgoing(
        stream="orders", body=b"\x80\xff\x00", event_id="e", content_type="msgpack", content_encoding="zstd"
    )

    [delivery] = await consumer.publish_and_fetch(item)

    assert delivery.body == b"\x80\xff\x00"
    assert delivery.field(b"content_type") == b"msgpack"
    assert delivery.field(b"content_encoding") == b"zstd"


async def test_a_dedup_key_stores_once_and_answers_with_the_first_id(engine: Engine) -> None:
    consumer = await engine.consumer()

    first, second = await consumer.publish(order("1", dedup_key="k"), order("2", dedup_key="k"))

    assert first == second
    assert await consumer.texts() == ["1"]


async def test_a_dedup_key_counts_within_its_stream_only(engine: Engine) -> None:
    consumer = await engine.consumer()

    await consumer.publish(order("1", dedup_key="k"), order("2", stream="bills", dedup_key="k"))

    assert await consumer.texts("bills") == ["2"]


async def test_a_dedup_key_stands_for_its_window_only(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("1", dedup_key="k", dedup_window=0.05))

    await engine.let_pass(0.1)
    await consumer.publish(order("2", dedup_key="k"))

    assert await consumer.texts() == ["1", "2"]


async def test_publishing_again_finds_what_is_stored_already(engine: Engine) -> None:
    consumer = await engine.consumer()
    [stored] = await consumer.publish(order("1", event_id="id-1"))
    await consumer.publish(order("other"))

    assert await consumer.publish(order("1", event_id="id-1", again=True)) == [stored]
    assert await consumer.texts() == ["1", "other"]


async def test_publishing_again_finds_a_compressed_event_too(engine: Engine) -> None:
    consumer = await engine.consumer()
    item = Outgoing(stream="orders", body=b"\x80", event_id="id-1", content_encoding="zstd")
    again = Outgoing(stream="orders", body=b"\x80", event_id="id-1", content_encoding="zstd", again=True)

    [stored] = await consumer.publish(item)

    assert await consumer.publish(again) == [stored]


async def test_publishing_again_stores_what_never_arrived(engine: Engine) -> None:
    consumer = await engine.consumer()

    await consumer.publish(order("1", event_id="id-1", again=True))

    assert await consumer.texts() == ["1"]


async def test_publishing_again_does_not_take_another_event_that_mentions_the_id_for_it(engine: Engine) -> None:
    consumer = await engine.consumer()
    await consumer.publish(order("the order id-1 was announced"))

    await consumer.publish(order("1", event_id="id-1", again=True))

    assert await consumer.texts() == ["the order id-1 was announced", "1"]
