"""Lanes: streams of their own that share what is known by an event's id or value."""

from __future__ import annotations

from streamtask.transport.values import Dead, Done, Mark, Progress, Result, Retry, Subscription, Verdict
from tests.conformance.engines import Consumer, Engine, order, text_of

HIGH = "orders@high"


async def lane_of(engine: Engine, owner: str = "me", stream: str = HIGH) -> Consumer:
    home = await engine.consumer(owner)
    subscription = Subscription(stream=stream, group=home.group, handles=home.subscription.handles)
    await home.transport.register(subscription)
    return Consumer(home.transport, owner, subscription)


async def test_a_lane_is_a_stream_of_its_own(engine: Engine) -> None:
    home, high = await engine.consumer(), await lane_of(engine)
    await home.publish(order("1"), order("2", stream=HIGH))

    [first], [second] = await home.fetch(), await high.fetch()

    assert (first.stream, text_of(first)) == ("orders", "1")
    assert (second.stream, text_of(second)) == (HIGH, "2")
    assert await high.settle(second, Retry(0.0)) is Verdict.SETTLED
    assert (await high.claim_one()).stream == HIGH
    assert (await home.claim()).deliveries == []
    assert {"orders", HIGH} <= set(await home.inspection.streams())
    assert [stats.pending for stats in await home.transport.stats(HIGH)] == [1]


async def test_what_a_handler_in_one_lane_emits_into_another_arrives_with_its_ack(engine: Engine) -> None:
    home, high = await engine.consumer(), await lane_of(engine)
    [delivery] = await high.publish_and_fetch(order(stream=HIGH))

    await high.settle(delivery, Done((order("now"), order("later", stream=HIGH, delay=0.01))))
    await engine.let_pass(0.05)
    await home.schedule.promote([HIGH])

    assert await home.texts() == ["now"]
    assert [text_of(each) for each in await high.fetch()] == ["later"]


async def test_the_dead_of_a_lane_are_its_own_and_come_back_to_it(engine: Engine) -> None:
    high = await lane_of(engine)
    [delivery] = await high.publish_and_fetch(order("x", stream=HIGH))
    await high.settle(delivery, Dead(reason="rejected"))
    [letter] = await high.dead_letters.page(HIGH, after="", limit=10)

    assert letter.id.startswith(f"{HIGH}/")
    assert await high.dead_letters.count("orders") == 0
    await high.dead_letters.replay(HIGH, letter.dead_id)
    assert [text_of(each) for each in await high.fetch()] == ["x"]


async def test_a_result_stands_beside_the_stream_whatever_the_lane(engine: Engine) -> None:
    high = await lane_of(engine)
    position = await high.transport.results.position("orders")
    [delivery] = await high.publish_and_fetch(order(stream=HIGH))
    await high.settle(delivery, Done(result=Result("e1", b"7", 60.0)))

    assert await high.transport.results.get("orders", "e1") == b"7"
    assert (await high.transport.results.news("orders", after=position, wait=10.0))[0] == ["e1"]
    assert await high.transport.results.get(HIGH, "e1") == b"7"


async def test_what_is_scheduled_in_a_lane_is_cancelled_there_and_so_for_all(engine: Engine) -> None:
    high = await lane_of(engine)
    await high.publish(order("x", stream=HIGH, event_id="e1", delay=60))
    cancellations = high.transport.cancellations

    assert await cancellations.cancel(HIGH, "e1", Result("e1", b"off", 60.0), ttl=60.0)

    assert await cancellations.cancelled("orders", ["e1"]) == await cancellations.cancelled(HIGH, ["e1"]) == [True]
    assert await high.transport.results.get("orders", "e1") == b"off"
    assert await high.schedule.scheduled(HIGH, limit=10) == []


async def test_how_far_an_event_is_can_be_watched_without_knowing_its_lane(engine: Engine) -> None:
    high = await lane_of(engine)
    [delivery] = await high.publish_and_fetch(order(stream=HIGH, event_id="e1"))
    await high.transport.checkpoints.report([(delivery, "e1", Progress(0.5))])

    told, _ = await high.transport.results.progress("orders", "e1", after="0", wait=10.0)
    assert told == Progress(0.5)


async def test_an_event_is_a_duplicate_in_whatever_lane_it_comes_again(engine: Engine) -> None:
    home, high = await engine.consumer(), await lane_of(engine)
    [first] = await home.publish_and_fetch(order())
    [second] = await high.publish_and_fetch(order(stream=HIGH))
    assert await home.settle(first, Done(mark=Mark("m", 60.0))) is Verdict.SETTLED

    assert await high.transport.marked(high.group, [(HIGH, "m"), ("orders", "m")]) == [True, True]
    assert await high.settle(second, Done(mark=Mark("m", 60.0))) is Verdict.DUPLICATE


async def test_it_is_published_once_for_a_key_whatever_the_lane(engine: Engine) -> None:
    home, high = await engine.consumer(), await lane_of(engine)
    await home.publish(order("1", dedup_key="k"))
    await home.publish(order("2", stream=HIGH, dedup_key="k"))

    assert len(await home.fetch()) == 1
    assert await high.fetch() == []
