"""Ticks: each slot once, whoever is first; what was missed as the rule says; all by the engine's clock."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Any

import pytest

from streamtask import App, Tick
from streamtask.clock import ManualClock
from streamtask.envelope import decode, tick_id
from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.timetable import Missed
from streamtask.transport.memory import MemoryStore, MemoryTransport
from streamtask.worker.ticker import MOST, Ticker
from tests.chaos.workers import until

#: The engine's time at the beginning: a full minute.
START = 1_700_000_040.0


class World:
    """A store with a clock of its own, and workers of it."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.store = MemoryStore()

    def worker(self, interval: float = 10, missed: Missed = "skip", *, cron: str = "") -> Worker:
        """A worker whose program has one rule."""
        app = App("shop", broker="memory://")
        decorate = (
            app.cron(cron, missed=missed, name="tidy") if cron else app.every(interval, missed=missed, name="tidy")
        )

        @decorate
        def tidy(tick: Tick) -> None: ...

        return Worker(self, app)

    def ticks(self) -> list[float]:
        """Seconds from the start of all ticks that were published, in order."""
        log = self.store.find("shop-tasks").log
        bodies = [entry.fields[1] for entry in log.after((0, 0))]
        return [_moment(body) - START for body in bodies]


class Worker:
    """One worker's duty, turn by turn."""

    def __init__(self, world: World, app: App) -> None:
        self.transport = MemoryTransport(world.store, clock=world.clock.now)
        self.ticker = Ticker(self.transport, app.broker, "shop-tasks", app.rules, Metrics())

    async def look(self) -> float:
        """Its next look; the seconds until the one after it."""
        assert self.transport.schedule is not None
        return await self.ticker._look(self.transport.schedule)


def _moment(body: bytes) -> float:
    payload = decode(body).payload
    return datetime.fromisoformat(payload["arguments"]["tick"]["at"]).timestamp()


@pytest.fixture
def world() -> World:
    return World()


# ── each slot once ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_rule_begins_now_and_ticks_at_each_moment_that_comes(world: World) -> None:
    worker = world.worker()

    assert await worker.look() == 5.0  # it looks each five seconds at least
    world.clock.advance(9.9)
    assert await worker.look() == pytest.approx(0.1, abs=0.002)
    world.clock.advance(0.1)
    await worker.look()
    world.clock.advance(10)
    await worker.look()

    assert world.ticks() == [10, 20]


async def test_of_several_workers_one_publishes_each_tick(world: World) -> None:
    workers = [world.worker() for _ in range(5)]
    for _ in range(4):
        for worker in workers:
            await worker.look()
        world.clock.advance(10)

    assert world.ticks() == [10, 20, 30]


async def test_a_tick_has_the_id_of_its_rule_and_moment(world: World) -> None:
    worker = world.worker()
    await worker.look()
    world.clock.advance(10)
    await worker.look()

    [entry] = world.store.find("shop-tasks").log.after((0, 0))
    assert decode(entry.fields[1]).event_id == tick_id("shop-tasks", "tidy", round(START + 10) * 1000)


async def test_the_clock_that_counts_is_the_engines(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: START + 3600)
    worker = world.worker()
    await worker.look()
    world.clock.advance(9)
    await worker.look()

    assert world.ticks() == []


async def test_an_engine_whose_clock_goes_back_repeats_no_tick(world: World) -> None:
    worker = world.worker()
    for _ in range(3):
        await worker.look()
        world.clock.advance(10)
    world.clock.set(START + 5)
    for _ in range(4):
        await worker.look()
        world.clock.advance(10)

    assert world.ticks() == [10, 20, 30]


# ── what was missed ───────────────────────────────────────────────────────────────────────────────────────────────


async def stop_and_start(world: World, missed: Missed, *, for_: float) -> Worker:
    """One tick, then no worker for some time, then another worker and its looks."""
    first = world.worker(missed=missed)
    await first.look()
    world.clock.advance(10)
    await first.look()
    world.clock.advance(for_)
    second = world.worker(missed=missed)
    await second.look()
    return second


@pytest.mark.parametrize(
    ("missed", "ticks"), [("skip", [10, 50]), ("once", [10, 40, 50]), ("all", [10, 20, 30, 40, 50])]
)
async def test_what_no_worker_lived_for_is_made_up_for_as_the_rule_says(
    world: World, caplog: pytest.LogCaptureFixture, missed: Missed, ticks: list[float]
) -> None:
    caplog.set_level(logging.WARNING, logger="streamtask")

    worker = await stop_and_start(world, missed, for_=35)
    world.clock.advance(5)
    await worker.look()
    await worker.look()

    assert world.ticks() == ticks
    [told] = [record for record in caplog.records if record.getMessage() == "rule.missed"]
    said: Any = told
    assert (said.rule, said.ticks) == ("tidy", len(ticks) - 2)
    assert said.until == datetime.fromtimestamp(START + 40, tz=datetime.fromisoformat(said.until).tzinfo).isoformat()


async def test_a_moment_that_passed_while_a_worker_was_replaced_is_not_missed(world: World) -> None:
    await stop_and_start(world, "skip", for_=11.5)

    assert world.ticks() == [10, 20]


async def test_a_worker_that_lived_and_could_not_reach_the_server_publishes_the_last_one_late(world: World) -> None:
    worker = world.worker(missed="skip")
    await worker.look()
    world.clock.advance(38)
    await worker.look()

    assert world.ticks() == [30]


async def test_not_more_than_a_thousand_are_made_up_for(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="streamtask")

    await stop_and_start(world, "all", for_=10 * (MOST + 500))

    assert len(world.ticks()) == 1 + MOST
    assert world.ticks()[-1] == 10 + 10 * (MOST + 500)


async def test_two_workers_that_make_up_for_the_same_at_once_double_nothing(world: World) -> None:
    await stop_and_start(world, "skip", for_=1)
    world.clock.advance(300)
    workers = [world.worker(missed="all") for _ in range(3)]

    await asyncio.gather(*(worker.look() for worker in workers))

    assert world.ticks() == [10, *range(20, 320, 10)]


# ── versions ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_changed_timetable_begins_now(world: World) -> None:
    old = world.worker(10, "all")
    await old.look()
    world.clock.advance(60)

    new = world.worker(cron="* * * * * *", missed="all")
    await new.look()
    world.clock.advance(1)
    await new.look()

    assert world.ticks() == [61]


async def test_two_versions_that_run_side_by_side_share_the_moments_that_both_have(world: World) -> None:
    old = world.worker(10)
    await old.look()
    new = world.worker(20)
    await new.look()
    for _ in range(6):
        world.clock.advance(10)
        for worker in (new, old):
            await worker.look()
    old_is_gone_at = 60
    for _ in range(4):
        world.clock.advance(10)
        await new.look()

    assert world.ticks() == [*range(10, old_is_gone_at + 1, 10), 80, 100]


# ── trouble ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_server_that_was_away_is_asked_again(world: World) -> None:
    worker = world.worker(1)
    schedule: Any = worker.transport.schedule
    stand, refused = schedule.stand, 0

    async def refuse_once(*args: Any, **options: Any) -> Any:
        nonlocal refused
        refused += 1
        if refused == 1:
            raise TransportError("away")
        return await stand(*args, **options)

    schedule.stand = refuse_once
    running = asyncio.create_task(worker.ticker.run())
    try:
        await until(lambda: refused >= 2, 5)
        world.clock.advance(10)
        await until(lambda: world.ticks() == [10], 10)
    finally:
        running.cancel()


async def test_a_server_that_came_back_empty_begins_anew(world: World) -> None:
    worker = world.worker(missed="all")
    await worker.look()
    world.clock.advance(10)
    await worker.look()
    world.store.streams.clear()
    world.clock.advance(100)
    await worker.look()
    world.clock.advance(10)
    await worker.look()

    assert world.ticks() == [120]
