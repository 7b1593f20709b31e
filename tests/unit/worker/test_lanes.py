"""Which lane may take slots, and what a worker in memory makes of priorities."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from streamtask import App, ConfigurationError, Context, Event, RetryLater, TaskCancelledError
from streamtask.transport.values import Delivery
from streamtask.worker.lanes import NEXT, Lane, Lanes
from tests.unit.worker.test_slots import Bench

HIGH, NORMAL, LOW = ("orders@high", "g"), ("orders", "g"), ("orders@low", "g")
ELSEWHERE = "elsewhere", "g"


class Order(Event, stream="orders", priorities=("high", "low")):
    n: int = 0


class Elsewhere(Event, stream="elsewhere"):
    n: int = 0


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App("shop", broker="memory://")
    async with app:
        yield app


async def until(condition: Callable[[], object], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


# ── who may take slots ────────────────────────────────────────────────────────────────────────────────────────────


def lanes(concurrency: int = 20) -> Lanes:
    return Lanes([[(HIGH, -1), (NORMAL, 0), (LOW, 1)]], concurrency)


def room(of: Lanes, place: tuple[str, str], occupied: int = 0, *, due: bool = False) -> int:
    lane = of.get(place)
    assert lane is not None
    return of.room(lane, occupied, due=due, unlimited=1000)


def empty(of: Lanes, *places: tuple[str, str]) -> None:
    for place in places:
        lane = of.get(place)
        assert lane is not None
        lane.was_read(0, 10)


def test_a_lower_lane_may_take_slots_while_those_above_are_empty_and_leaves_some_to_each() -> None:
    of = lanes()
    assert [room(of, place) for place in (HIGH, NORMAL, LOW)] == [1000, 0, 0]
    empty(of, HIGH)
    assert [room(of, place) for place in (HIGH, NORMAL, LOW)] == [1000, 18, 0]
    empty(of, NORMAL)
    assert [room(of, place, 10) for place in (HIGH, NORMAL, LOW)] == [1000, 8, 6]
    assert [room(of, place, 17) for place in (HIGH, NORMAL, LOW)] == [1000, 1, 0]


@pytest.mark.parametrize(
    ("concurrency", "shares"), [(1, [1, 1, 1]), (2, [2, 1, 1]), (3, [3, 2, 1]), (100, [100, 90, 80])]
)
def test_each_lane_has_a_place_at_least(concurrency: int, shares: list[int]) -> None:
    high = Lane((), -1)
    normal = Lane((high,), 0)
    assert [lane.share(concurrency) for lane in (high, normal, Lane((high, normal), 1))] == shares


def test_what_is_due_again_has_begun_and_need_not_wait_until_others_are_empty() -> None:
    assert room(lanes(), LOW, 10, due=True) == 6


def test_one_of_ten_is_a_lower_lanes_whatever_the_others_are_and_for_that_they_leave_a_slot() -> None:
    of = lanes()
    for _ in range(9):
        assert of.took(ELSEWHERE, 1) == 0
    assert room(of, LOW) == 0
    assert of.took(HIGH, 1) == -1

    assert room(of, LOW, 20) == room(of, LOW, 20, due=True) == 1
    assert of.owed(HIGH, []) == of.owed(ELSEWHERE, []) == 2
    assert of.owed(LOW, []) == 1
    assert of.took(LOW, 1) == NEXT
    assert room(of, LOW) == 0
    assert of.owed(HIGH, []) == 1


def test_no_slot_is_left_to_a_lane_that_has_nothing_to_do() -> None:
    of = lanes()
    of.took(HIGH, 100)
    empty(of, NORMAL, LOW)

    assert of.owed(HIGH, []) == 0
    assert of.owed(HIGH, [LOW]) == 1


async def test_what_goes_first_waits_before_what_goes_later() -> None:
    ran: list[str] = []

    async def body(name: str) -> None:
        ran.append(name)

    bench = Bench(body, concurrency=1)
    for name, rank in (("normal 1", 0), ("low", 1), ("high 1", -1), ("normal 2", 0), ("high 2", -1), ("next", NEXT)):
        bench.slots.put([Delivery("jobs", "g", name, "me", [])], rank)
    await until(lambda: len(ran) == 6)

    assert ran == ["next", "high 1", "high 2", "normal 1", "normal 2", "low"]


# ── in a worker ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_highest_goes_first_and_the_others_do_not_starve(app: App) -> None:
    ran: list[str] = []

    @app.on(Order)
    async def handle(order: Order, ctx: Context) -> None:
        await asyncio.sleep(0.002)
        ran.append({0: "high", 1: "normal", 2: "low"}[order.n])

    for n, priority in ((2, "low"), (1, None), (0, "high")):
        await app.publish_many([Order(n=n) for _ in range(100)], priority=priority)
    async with app.worker(concurrency=1):
        await until(lambda: len(ran) == 300)

    first = ran[:90]
    assert first.count("high") > 60
    assert first.count("normal") >= 4
    assert first.count("low") >= 4
    assert ran[-60:].count("low") > 40


async def test_due_events_of_a_low_lane_do_not_starve_either(app: App) -> None:
    ran: list[int] = []
    stop = False

    @app.on(Order)
    async def handle(order: Order, ctx: Context) -> None:
        if order.n == 1 and ctx.attempt == 1 and not ran:
            ran.append(0)
            raise RetryLater(0.05)
        await asyncio.sleep(0.002)
        if order.n == 1:
            ran.append(1)
        elif not stop:
            ctx.emit(Order(n=2), priority="high")

    await app.publish(Order(n=1), priority="low")
    async with app.worker(concurrency=1):
        await until(lambda: ran)
        await app.publish_many([Order(n=2) for _ in range(50)], priority="high")
        await until(lambda: len(ran) == 2)
        stop = True
        await asyncio.sleep(0.05)


async def test_a_high_event_does_not_wait_for_long_low_ones(app: App) -> None:
    gate, ran = asyncio.Event(), list[int]()

    @app.on(Order)
    async def handle(order: Order) -> None:
        if order.n < 100:
            await gate.wait()
        ran.append(order.n)

    await app.publish_many([Order(n=n) for n in range(50)], priority="low")
    async with app.worker(concurrency=10) as worker:
        await until(lambda: worker._in_flight() == {"shop": 8})
        await app.publish_many([Order(n=n) for n in range(100, 103)], priority="high")
        await until(lambda: ran == [100, 101, 102], 3.0)
        await app.publish(Order(n=103))
        await until(lambda: ran[-1] == 103, 3.0)
        gate.set()
        await until(lambda: len(ran) == 54)


async def test_a_handler_with_a_concurrency_leaves_places_to_higher_lanes_too(app: App) -> None:
    gate, ran = asyncio.Event(), list[int]()

    @app.on(Order, concurrency=3)
    async def handle(order: Order) -> None:
        if order.n < 100:
            await gate.wait()
        ran.append(order.n)

    await app.publish_many([Order(n=n) for n in range(10)], priority="low")
    async with app.worker(concurrency=50) as worker:
        await until(lambda: worker._in_flight() == {"shop": 1})
        await app.publish(Order(n=100), priority="high")
        await until(lambda: ran == [100], 3.0)
        gate.set()
        await until(lambda: len(ran) == 11)


async def test_a_task_sent_with_a_priority_has_its_result_where_any_process_finds_it(app: App) -> None:
    @app.task(priorities=("high", "low"))
    async def double(n: int) -> int:
        return 2 * n

    async with app.worker():
        handles = [await double.options(priority=priority).send(n) for n, priority in enumerate(("high", None, "low"))]
        assert [await handle.result(timeout=10) for handle in handles] == [0, 2, 4]
        assert await double.handle(handles[2].id).result(timeout=10) == 4

    with pytest.raises(ConfigurationError, match="has no priority 'urgent'"):
        await double.options(priority="urgent").send(1)


async def test_a_delayed_task_is_cancelled_in_whatever_lane_it_waits(app: App) -> None:
    @app.task(priorities=("high", "low"))
    async def double(n: int) -> int:
        return 2 * n

    for priority in ("high", None, "low"):
        handle = await double.options(priority=priority, delay=60).send(1)
        assert await handle.cancel()
        with pytest.raises(TaskCancelledError):
            await handle.result(timeout=5)
        assert not await handle.cancel()


async def test_what_is_scheduled_is_moved_and_forgotten_without_naming_its_lane(app: App) -> None:
    event_id = await app.publish(Order(), delay=60, priority="low")

    assert await app.reschedule(Order, event_id, delay=30)
    assert await app.cancel_scheduled("orders", event_id)
    assert not await app.cancel_scheduled(Order, event_id)


async def test_what_is_emitted_with_a_priority_is_published_in_its_lane(app: App) -> None:
    seen: list[tuple[int, str]] = []

    @app.on(Order)
    async def handle(order: Order, ctx: Context) -> None:
        if order.n == 0:
            ctx.emit(Order(n=1), priority="low")
            with pytest.raises(ConfigurationError, match="has no priority 'x'"):
                ctx.emit(Order(n=2), priority="x")
        seen.append((order.n, ctx._delivery.stream if ctx._delivery else ""))

    await app.publish(Order(), priority="high")
    async with app.worker():
        await until(lambda: len(seen) == 2)

    assert seen == [(0, "orders@high"), (1, "orders@low")]


async def test_a_worker_of_a_stream_reads_its_lanes_and_one_without_priorities_nothing_more(app: App) -> None:
    @app.on(Order, Elsewhere)
    async def handle(event: Event) -> None: ...

    def streams(*named: str) -> list[str]:
        return [sub.stream for sub in app.broker.catalog.subscriptions(streams=named)]

    assert streams() == ["orders@high", "orders", "elsewhere", "orders@low"]
    assert streams("orders") == ["orders@high", "orders", "orders@low"]
    assert streams("orders@low") == ["orders@low"]
    assert streams("elsewhere") == ["elsewhere"]
