"""An app in memory: what a drain handles, what it leaves, and that the app is as it was afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streamtask import (
    App,
    Backoff,
    Batch,
    BatchError,
    ConfigurationError,
    Context,
    Event,
    Reject,
    Retry,
    RetryLater,
    TaskCancelledError,
    Tick,
    chord,
    group,
)
from streamtask.testing import DeadLettersError, FrozenClock, InMemoryApp, in_memory


class Placed(Event, stream="t-orders", key="order_id"):
    order_id: str


class Shipped(Event, stream="t-shipping"):
    order_id: str


class Reminder(Event, stream="t-reminders"):
    order_id: str


class Broken(Event, stream="t-broken"):
    cause: str


app = App("t-shop", broker="redis://nowhere.invalid:1")
entered: list[str] = []
seen: list[Any] = []
begun = asyncio.Event()


@app.worker_lifespan
async def lifespan(_: object) -> AsyncIterator[None]:
    entered.append("in")
    yield
    entered.append("out")


@app.on(Placed)
async def ship(order: Placed, ctx: Context) -> Shipped:
    ctx.emit(Reminder(order_id=order.order_id), delay=3600)
    return Shipped(order_id=order.order_id)


@app.on(Shipped)
def book(shipped: Shipped, ctx: Context) -> None:
    seen.append((shipped.order_id, threading.current_thread() is threading.main_thread()))
    if ctx.envelope.source == "t-shop":
        ctx.sync.publish(Broken(cause="none"))


@app.on(Reminder)
async def remind(reminder: Reminder) -> None:
    seen.append(reminder)


@app.on(Broken, retry=Retry(max_attempts=3, backoff=Backoff(base=100, factor=1, jitter=False)))
async def mend(broken: Broken, ctx: Context) -> None:
    seen.append((broken.cause, ctx.attempt))
    if broken.cause == "reject":
        raise Reject("for good")
    if broken.cause == "later" and ctx.envelope.timestamp == ctx.app.broker.clock.moment:  # type: ignore[attr-defined]
        raise RetryLater(delay=5)
    if broken.cause == "always":
        raise RuntimeError("it never works")


@app.task()
def add(x: int, y: int) -> int:
    return x + y


@app.task()
def total(values: list[int]) -> int:
    return sum(values)


@app.task()
async def endless() -> None:
    seen.append("begun")
    begun.set()
    await asyncio.Event().wait()


@pytest.fixture
def memory() -> Iterator[InMemoryApp]:
    seen.clear()
    begun.clear()
    entered.clear()
    with in_memory(app) as memory:
        yield memory


async def test_a_drain_handles_what_is_ready_and_what_that_leads_to(memory: InMemoryApp) -> None:
    await app.publish(Placed(order_id="1"))

    assert await memory.drain() == []
    assert seen == [("1", False), ("none", 1)]
    assert memory.published == [Placed(order_id="1"), Shipped(order_id="1"), Broken(cause="none")]
    assert memory.published_of(Shipped) == [Shipped(order_id="1")]
    [placed], [shipped] = memory.envelopes_of(Placed), memory.envelopes_of(Shipped)
    assert shipped.causation_id == placed.event_id


async def test_what_is_delayed_is_handled_once_its_time_has_come(memory: InMemoryApp) -> None:
    await memory.publish(Placed(order_id="1"))
    await memory.drain()

    assert memory.scheduled == [(memory.clock.moment + timedelta(hours=1), Reminder(order_id="1"))]
    memory.clock.advance(3599)
    await memory.drain()
    assert memory.published_of(Reminder) == []
    memory.clock.advance(1)
    await memory.drain()
    assert memory.published_of(Reminder) == [Reminder(order_id="1")]
    assert seen[-1] == Reminder(order_id="1")
    assert memory.scheduled == []


async def test_a_retry_waits_for_the_clock_and_not_for_real_time(memory: InMemoryApp) -> None:
    await memory.publish(Broken(cause="always"))
    await memory.drain()
    assert seen == [("always", 1)]
    memory.clock.advance(99)
    await memory.drain()
    assert seen == [("always", 1)]
    memory.clock.advance(1)
    await memory.drain()
    assert seen == [("always", 1), ("always", 2)]


async def test_while_time_passes_each_moment_at_which_something_is_due_is_kept(memory: InMemoryApp) -> None:
    started = memory.clock.moment
    await memory.publish(Broken(cause="always"))

    [letter] = await memory.run_for(1000, expect_dead=True)

    assert seen == [("always", 1), ("always", 2), ("always", 3)]
    assert letter.dead_at == pytest.approx(started + timedelta(seconds=200), abs=timedelta(milliseconds=5))
    assert memory.clock.moment == pytest.approx(started + timedelta(seconds=1000), abs=timedelta(milliseconds=5))


async def test_a_duplicate_within_the_window_is_not_handled_and_one_behind_it_is(memory: InMemoryApp) -> None:
    for _ in range(2):
        await memory.publish(Placed(order_id="1"))
        await memory.drain()
    assert len(memory.published_of(Shipped)) == 1
    memory.clock.advance(86_401)
    await memory.publish(Placed(order_id="1"))
    await memory.drain()
    assert len(memory.published_of(Shipped)) == 2


async def test_a_drain_raises_where_an_event_died_and_shows_where(memory: InMemoryApp) -> None:
    await memory.publish(Broken(cause="reject"))

    with pytest.raises(DeadLettersError, match=r"Broken of t-broken in group t-shop \(rejected, 1 attempt\)") as raised:
        await memory.drain()

    assert 'raise Reject("for good")' in str(raised.value)
    assert [letter.reason for letter in raised.value.letters] == ["rejected"]
    assert memory.dead == raised.value.letters
    assert await memory.drain() == []


async def test_a_death_that_is_expected_and_does_not_come_fails(memory: InMemoryApp) -> None:
    with pytest.raises(AssertionError, match="no event became a dead letter"):
        await memory.drain(expect_dead=True)


async def test_the_order_of_a_key_holds_while_one_waits_for_its_retry() -> None:
    own, ran = App("own"), []

    @own.on(Broken, ordered_by="cause", retry=Retry(max_attempts=2, backoff=Backoff(base=100, factor=1, jitter=False)))
    async def handle(broken: Broken, ctx: Context) -> None:
        ran.append((broken.cause, ctx.envelope.event_id))
        if broken.cause == "first fails" and ctx.attempt == 1 and len(ran) == 1:
            raise ValueError("once")

    with in_memory(own) as memory:
        one, two = [await memory.publish(Broken(cause="first fails")) for _ in range(2)]
        other = await memory.publish(Broken(cause="other"))
        await memory.drain()
        assert [event_id for _, event_id in ran] == [one, other]
        memory.clock.advance(100)
        await memory.drain()
    assert [event_id for _, event_id in ran] == [one, other, one, two]


async def test_the_envelopes_bear_the_time_of_the_clock(memory: InMemoryApp) -> None:
    memory.clock.set(datetime(2031, 2, 3, tzinfo=UTC))
    await memory.publish(Broken(cause="later"))
    await memory.run_for(60)

    assert [envelope.timestamp for envelope in memory.envelopes_of(Broken)] == [datetime(2031, 2, 3, tzinfo=UTC)]
    assert seen == [("later", 1), ("later", 1)]


async def test_the_result_of_a_task_is_there_after_a_drain_and_nobody_waits_for_more_of_them_afterwards() -> None:
    with in_memory(app) as memory:
        handles = [await add.send(2, n) for n in (3, 4)]
        waiting = [asyncio.create_task(handle.result(timeout=5)) for handle in handles]
        await asyncio.sleep(0.01)
        await memory.drain()

        assert await asyncio.gather(*waiting) == [5, 6]
        assert await handles[0].result(timeout=5) == 5
    await asyncio.sleep(0)
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("streamtask")] == []


async def test_a_drain_takes_a_workflow_to_its_end(memory: InMemoryApp) -> None:
    handle = await chord(group(add.s(1, 2), add.s(3, 4)), total.s()).send()
    await memory.drain()

    assert await handle.result(timeout=5) == 10


async def test_a_task_that_is_cancelled_is_not_begun_and_one_that_runs_is_ended(memory: InMemoryApp) -> None:
    handles = [await endless.send(), await endless.send()]
    await handles[1].cancel()
    draining = asyncio.create_task(memory.drain())
    async with asyncio.timeout(5):
        await begun.wait()
    await handles[0].cancel()
    await draining

    assert seen == ["begun"]
    for handle in handles:
        with pytest.raises(TaskCancelledError):
            await handle.result(timeout=5)


async def test_rules_tick_while_time_passes_and_a_jump_is_one_tick() -> None:
    own = App("t-rules", broker="memory://")
    ticks: list[datetime] = []

    @own.every(60)
    async def sweep(tick: Tick) -> None:
        ticks.append(tick.at)

    @own.cron("0 3 * * *")
    async def tidy(tick: Tick) -> None:
        ticks.append(tick.at)

    with in_memory(own, clock=FrozenClock(datetime(2030, 1, 1, tzinfo=UTC))) as memory:
        await memory.drain()
        assert ticks == []
        await memory.run_for(180)
        assert ticks == [datetime(2030, 1, 1, 0, minute, tzinfo=UTC) for minute in (1, 2, 3)]
        memory.clock.set(datetime(2030, 1, 1, 12, 0, 30, tzinfo=UTC))
        await memory.drain()
        assert sorted(ticks[3:]) == [datetime(2030, 1, 1, 3, tzinfo=UTC), datetime(2030, 1, 1, 12, tzinfo=UTC)]


def test_without_a_coroutine_the_blocking_twins_do_the_same(memory: InMemoryApp) -> None:
    handle = add.delay(2, 3)
    memory.sync.publish(Placed(order_id="1"))
    memory.sync.drain()

    assert handle.get(timeout=5) == 5
    assert memory.published_of(Shipped) == [Shipped(order_id="1")]
    memory.sync.run_for(3600)
    assert seen[-1] == Reminder(order_id="1")


async def test_a_blocking_twin_in_a_coroutine_names_what_to_write(memory: InMemoryApp) -> None:
    with pytest.raises(ConfigurationError, match=r"await memory\.drain"):
        memory.sync.drain()


async def test_worker_lifespans_surround_a_drain(memory: InMemoryApp) -> None:
    await memory.drain()

    assert entered == ["in", "out"]


async def test_afterwards_the_app_has_its_own_broker_again(memory: InMemoryApp) -> None:
    own = App("t-own", broker="redis://nowhere.invalid:1")
    clock = own.broker.clock

    for _ in range(2):
        with in_memory(own) as lent:
            await own.publish(Placed(order_id="1"))
            assert own.url == "memory://"
            assert lent.published == [Placed(order_id="1")]
            assert own.broker.clock is lent.clock
        assert own.broker.clock is clock
        assert own.url == "redis://nowhere.invalid:1"
        with pytest.raises(ConfigurationError, match="not connected"):
            await own.publish(Placed(order_id="1"))


async def test_an_app_that_is_connected_is_connected_to_its_own_afterwards() -> None:
    own = App("t-own", broker="memory://")

    async with own:
        await own.publish(Placed(order_id="real"))
        with in_memory(own) as lent:
            await own.publish(Placed(order_id="test"))
            assert lent.published == [Placed(order_id="test")]
        assert len(await own.transport.read("t-orders", after="0", count=10, wait=0)) == 1


async def test_events_are_handled_one_after_the_other_in_their_order() -> None:
    own = App("t-order", broker="memory://")
    steps: list[str] = []

    @own.on(Placed)
    async def handle(order: Placed) -> None:
        steps.append(f"{order.order_id} begins")
        await asyncio.sleep(0)
        steps.append(f"{order.order_id} ends")

    with in_memory(own) as memory:
        await memory.publish_many([Placed(order_id="1"), Placed(order_id="2")])
        await memory.drain()
    assert steps == ["1 begins", "1 ends", "2 begins", "2 ends"]


async def test_a_handler_that_waits_for_another_one_is_named_or_gets_a_second_slot() -> None:
    own = App("t-waits", broker="memory://")

    @own.task()
    async def inner() -> int:
        return 7

    @own.on(Placed)
    async def outer(order: Placed) -> None:
        seen.append(await (await inner.send()).result())

    with in_memory(own, patience=1) as memory:
        await memory.publish(Placed(order_id="1"))
        with pytest.raises(TimeoutError, match=r"outer.*concurrency=2"):
            await memory.drain()
    seen.clear()
    with in_memory(own, concurrency=2) as memory:
        await memory.publish(Placed(order_id="1"))
        await memory.drain()
    assert seen == [7]


async def test_beside_one_another_handlers_keep_their_own_limit() -> None:
    own = App("t-limit", broker="memory://")
    running, most = 0, 0

    @own.on(Placed, concurrency=2)
    async def handle(_: Placed) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    with in_memory(own, concurrency=10) as memory:
        await memory.publish_many([Placed(order_id=str(n)) for n in range(10)])
        await memory.drain()
    assert most == 2


async def test_what_is_ready_is_handled_in_batches() -> None:
    own = App("t-batches", broker="memory://")
    batches: list[list[str]] = []

    @own.on(Placed, batch=Batch(size=3, wait=60))
    async def handle(orders: list[Placed]) -> Shipped | None:
        batches.append([order.order_id for order in orders])
        if "bad" in batches[-1]:
            raise BatchError({batches[-1].index("bad"): Reject("bad")})
        return Shipped(order_id=orders[0].order_id)

    with in_memory(own) as memory:
        await memory.publish_many([Placed(order_id=str(n)) for n in range(7)])
        await memory.drain()
        assert batches == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
        assert [shipped.order_id for shipped in memory.published_of(Shipped)] == ["0", "3", "6"]
        await memory.publish_many([Placed(order_id="8"), Placed(order_id="bad"), Placed(order_id="8")])
        [letter] = await memory.drain(expect_dead=True)
        assert batches[3:] == [["8", "bad"]]
        assert letter.reason == "rejected"


async def test_events_of_one_key_keep_their_order_beside_one_another_and_through_a_retry() -> None:
    own = App("t-keys", broker="memory://")
    done: list[str] = []

    @own.on(Reminder, ordered_by="order_id", retry=Retry(backoff=Backoff(base=100, jitter=False)))
    async def handle(reminder: Reminder, ctx: Context) -> None:
        n = ctx.envelope.headers["n"] if ctx.envelope.headers else ""
        await asyncio.sleep(0.001 if n == "0" else 0)
        if reminder.order_id == "a" and n == "0" and ctx.attempt == 1:
            raise ConnectionError
        done.append(f"{reminder.order_id}{n}")

    with in_memory(own, concurrency=10) as memory:
        for n in range(3):
            for key in "ab":
                await memory.publish(Reminder(order_id=key), headers={"n": str(n)})
        await memory.drain()
        assert done == ["b0", "b1", "b2"]
        await memory.run_for(100)
        assert done[3:] == ["a0", "a1", "a2"]


async def test_what_a_drain_could_not_end_is_handled_by_the_next() -> None:
    own = App("t-again", broker="memory://")
    attempts: list[int] = []

    @own.on(Placed)
    async def handle(_: Placed, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) == 1:
            await asyncio.Event().wait()

    with in_memory(own, patience=1) as memory:
        await memory.publish(Placed(order_id="1"))
        with pytest.raises(TimeoutError, match="handle"):
            await memory.drain()
        await memory.drain()
    assert attempts == [1, 1]


async def test_a_handler_that_cancels_itself_has_failed() -> None:
    own = App("t-cancels", broker="memory://")

    @own.on(Placed, retry=Retry(max_attempts=1))
    async def handle(_: Placed) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with in_memory(own) as memory:
        await memory.publish(Placed(order_id="1"))
        [letter] = await memory.drain(expect_dead=True)
    assert letter.reason == "max_attempts"
