"""Handlers that may start so often only, in a worker of its own in memory: what is limited, and what is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from streamtask import App, ConfigurationError, Event, RateLimit, Retry
from streamtask.broker import Run
from streamtask.errors import TransportError
from streamtask.handler import make_handler
from streamtask.rates import SLACK
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.values import Delivery, Start, Turn
from streamtask.worker.outage import Outage
from streamtask.worker.pacer import Intake, Pace, Pacer


class Call(Event, stream="calls"):
    user: str
    n: int = 0


class Other(Event, stream="calls"):
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
        await asyncio.sleep(0.01)


def most_within(moments: Sequence[float], seconds: float) -> int:
    return max(sum(first <= moment < first + seconds for moment in moments) for first in moments)


# ── what is said ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("limit", "spacing"), [("100/s", (1 + SLACK) / 100), ("5/m", (60 + SLACK) / 5), ("0.5/h", (3600 + SLACK) / 0.5)]
)
def test_a_limit_is_a_number_in_a_unit(limit: str, spacing: float) -> None:
    assert RateLimit(limit).spacing == pytest.approx(spacing)


@pytest.mark.parametrize("limit", ["", "5", "5/d", "-1/s", "0/s", "1/s ", "x/s", 5, None])
def test_what_is_no_limit_is_refused(limit: object) -> None:
    with pytest.raises(ValueError, match="such as '5/m'"):
        RateLimit(limit)  # type: ignore[arg-type]


def test_a_handler_with_a_limit_that_makes_no_sense_is_refused_by_name(app: App) -> None:
    with pytest.raises(ConfigurationError, match=r"handle: a rate limit is .* such as '5/m'"):

        @app.on(Call, rate_limit="often")
        async def handle(call: Call) -> None: ...

    with pytest.raises(ConfigurationError, match=r"handle_both: rate_limit is per 'user', which Other does not have"):

        @app.on(Call, Other, rate_limit=RateLimit("1/s", per="user"))
        async def handle_both(event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match=r"mail: rate_limit is per 'who', .* it has user, text"):

        @app.task(rate_limit=RateLimit("1/s", per="who"))
        def mail(user: str, text: str = "") -> None: ...


# ── what it does ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_retries_are_starts_too(app: App) -> None:
    starts: list[float] = []

    @app.on(Call, rate_limit="10/s", retry=Retry(4, backoff=0.0))
    async def handle(call: Call) -> None:
        starts.append(time.monotonic())
        raise OSError

    await app.publish_many([Call(user="a") for _ in range(2)])
    async with app.worker():
        await until(lambda: len(starts) == 8)

    assert max(starts) - min(starts) > 0.6


async def test_each_value_has_a_limit_of_its_own(app: App) -> None:
    started: list[str] = []

    @app.on(Call, rate_limit=RateLimit("5/m", per="user"))
    async def handle(call: Call) -> None:
        started.append(call.user)

    await app.publish_many([Call(user=user) for user in ("a", "a", "a", "b", "a", "c")])
    async with app.worker():
        await until(lambda: "c" in started)
        await asyncio.sleep(0.1)

    assert sorted(started) == ["a", "b", "c"]


async def test_a_task_is_limited_per_parameter_its_default_included(app: App) -> None:
    started: list[str] = []

    @app.task(rate_limit=RateLimit("5/m", per="user"))
    async def mail(text: str, user: str = "nobody") -> None:
        started.append(user)

    async with app.worker():
        for sent in [mail.send("x"), mail.send("y", user="nobody"), mail.send("z", user="b")]:
            await sent
        await until(lambda: "b" in started)
        await asyncio.sleep(0.1)

    assert sorted(started) == ["b", "nobody"]


async def test_others_of_its_stream_pass_what_waits_for_its_start(app: App) -> None:
    started: list[Event] = []

    @app.on(Call, rate_limit="5/m")
    async def limited(call: Call) -> None:
        started.append(call)

    @app.on(Other)
    async def free(other: Other) -> None:
        started.append(other)

    await app.publish_many([Call(user="a") for _ in range(50)] + [Other(n=n) for n in range(50)])
    async with app.worker(concurrency=10):
        await until(lambda: len(started) == 51, 15.0)


async def test_of_what_cannot_start_soon_hardly_anything_is_held(app: App) -> None:
    started: list[Event] = []

    @app.on(Call, rate_limit="5/m")
    async def limited(call: Call) -> None:
        started.append(call)

    await app.publish_many([Call(user="a") for _ in range(50)])
    async with app.worker():
        await until(lambda: started)
        await asyncio.sleep(1.0)
        [stats] = await app.transport.stats("calls")
        assert stats.pending <= 1
        assert stats.lag is not None
        assert stats.lag >= 48


async def test_where_slots_are_scarce_and_starts_as_well_what_is_limited_starts_all_the_same(app: App) -> None:
    started: list[Event] = []

    @app.on(Call, rate_limit="5/s")
    async def limited(call: Call) -> None:
        started.append(call)

    @app.on(Elsewhere)
    async def busy(event: Elsewhere) -> None:
        await asyncio.sleep(1.0)

    async def others() -> None:
        # As workers do that have many events, and slots.
        start = Start(group="shop", limit=app.handlers[0].name, spacing=0.2)
        while True:
            await app.transport.rates.reserve("calls", [start], ahead=0.25, longest=60.0)
            await asyncio.sleep(0.02)

    hogging = asyncio.create_task(others())
    await app.publish_many([Elsewhere(n=n) for n in range(100)])
    async with app.worker(concurrency=1, shutdown_timeout=0.0):
        await asyncio.sleep(0.1)
        await app.publish(Call(user="a"))
        await until(lambda: started, 6.0)
    hogging.cancel()


async def test_a_worker_that_stood_still_does_not_make_up_for_it(app: App) -> None:
    starts: list[float] = []

    @app.on(Call, rate_limit="200/s")
    async def limited(call: Call) -> None:
        starts.append(time.monotonic())

    await app.publish_many([Call(user="a") for _ in range(500)])
    async with app.worker():
        await until(lambda: len(starts) > 20)
        time.sleep(0.3)  # noqa: ASYNC251 - so that nothing else of this process can run
        await asyncio.sleep(1.1)

    assert len(starts) > 100
    assert most_within(starts, 1.0) <= 201


# ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────────


class FakeRates:
    """Says what it is told to."""

    def __init__(self, *answers: Turn | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[int] = []

    async def reserve(self, stream: str, starts: Sequence[Start], *, ahead: float, longest: float) -> list[Turn]:
        self.asked.append(len(starts))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [answer] * len(starts)


class Bench:
    """A pacer, and what it has called."""

    def __init__(self, *answers: Turn | Exception) -> None:
        async def limited(call: Call) -> None: ...

        self.handler = make_handler(limited, (Call,), rate_limit="100/s")
        self.rates = FakeRates(*answers)
        self.went: list[Run] = []
        self.told: list[float] = []
        self.pacer = Pacer(
            self.rates,
            "calls",
            paces={id(self.handler): Pace(RateLimit("100/s"))},
            outage=Outage("rates", Metrics()),
            go=self.went.append,
            too_far=lambda _, wait: self.told.append(wait),
            changed=lambda: None,
        )
        self.start = Start(group="g", limit="h", spacing=0.01)

    def run(self) -> Run:
        delivery = Delivery("calls", "g", "1-0", "me", [])
        return Run(delivery, self.handler, None, None)  # type: ignore[arg-type]

    async def while_running(self, act: Callable[[], Awaitable[None]]) -> None:
        duty = asyncio.create_task(self.pacer.run())
        try:
            await act()
        finally:
            duty.cancel()
            await asyncio.gather(duty, return_exceptions=True)


async def test_all_that_comes_up_in_one_turn_is_asked_for_at_once() -> None:
    bench = Bench(Turn(0.0, is_reserved=True))

    async def act() -> None:
        for _ in range(10):
            bench.pacer.step_aside(bench.run(), bench.start)
        await until(lambda: len(bench.went) == 10)

    await bench.while_running(act)
    assert bench.rates.asked == [10]


async def test_while_the_server_is_away_nothing_starts_and_then_it_does() -> None:
    bench = Bench(TransportError("away"), TransportError("away"), Turn(0.0, is_reserved=True))

    async def act() -> None:
        bench.pacer.step_aside(bench.run(), bench.start)
        await until(lambda: len(bench.rates.asked) == 2)
        assert not bench.went
        await until(lambda: bench.went)

    await bench.while_running(act)


async def test_who_has_left_does_not_start() -> None:
    bench = Bench(Turn(0.05, is_reserved=True))
    left = bench.run()

    async def act() -> None:
        bench.pacer.step_aside(left, bench.start)
        await until(lambda: bench.rates.asked)
        await asyncio.sleep(0)
        bench.pacer.leave(left.delivery)
        await asyncio.sleep(0.1)

    await bench.while_running(act)
    assert not bench.went
    assert not bench.pacer.may_start(left.delivery)


async def test_who_waits_in_a_slot_is_told_to_come_back_when_the_worker_ends() -> None:
    bench = Bench(TransportError("away"), TransportError("away"), TransportError("away"))

    async def act() -> None:
        waiting = asyncio.create_task(bench.pacer.turn(bench.run(), bench.start))
        await until(lambda: bench.rates.asked)
        bench.pacer.close()
        assert await waiting == 0.0

    await bench.while_running(act)


# ── how much is taken in ──────────────────────────────────────────────────────────────────────────────────────────


def room(intake: Intake, waiting: int = 0, *, due: bool = False, due_waits: bool = False) -> int:
    return intake.room(waiting, due=due, due_waits=due_waits, unlimited=1000)


def test_as_much_is_taken_in_as_can_start_soon_and_in_portions() -> None:
    intake = Intake([Pace(RateLimit("100/s"))], is_whole=True)

    assert [room(intake, waiting) for waiting in (0, 4, 5, 9)] == [9, 5, 0, 0]
    assert room(Intake([Pace(RateLimit("5/m"))], is_whole=True)) == 1


def test_once_a_start_was_too_far_off_nothing_new_is_taken_in_until_it_comes() -> None:
    pace = Pace(RateLimit("100/s"))
    intake = Intake([pace], is_whole=True)
    pace.is_full(60.0)

    assert room(intake) == 0
    assert room(intake, due=True) == 9


def test_between_two_starts_that_are_far_apart_nothing_is_taken_in() -> None:
    pace = Pace(RateLimit("5/m"))
    intake = Intake([pace], is_whole=True)
    pace.starts(0.0)

    assert room(intake) == 0


def test_others_of_the_stream_are_held_up_for_a_moment_only() -> None:
    pace = Pace(RateLimit("100/s"))
    intake = Intake([pace], is_whole=False)
    assert room(intake) == 1000
    pace.is_full(3600.0)
    assert room(intake) == 0

    time.sleep(0.65)

    assert room(intake) == 1000


def test_while_more_is_due_than_there_is_room_for_due_and_new_take_turns() -> None:
    intake = Intake([Pace(RateLimit("100/s"))], is_whole=True)
    assert room(intake, due_waits=True)
    intake.took(due=False)
    assert not room(intake, due_waits=True)
    assert room(intake)
    assert room(intake, due=True)
    intake.took(due=True)
    assert room(intake, due_waits=True)
