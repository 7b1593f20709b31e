"""Promoting: at the moment at which something is due, and soon where something sooner came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.values import Subscription
from streamtask.worker.timekeeper import Timekeeper


class FakeSchedule:
    """Answers with the seconds until the next one, and notes when it was asked for which streams."""

    def __init__(self, *waits: float | Exception | None) -> None:
        self.waits = list(waits)
        self.asked: list[tuple[float, Sequence[str]]] = []
        self.streams_asked = 0

    async def promote(self, streams: Sequence[str]) -> float | None:
        self.asked.append((asyncio.get_running_loop().time(), streams))
        wait = self.waits.pop(0) if len(self.waits) > 1 else self.waits[0]
        if isinstance(wait, Exception):
            raise wait
        return wait

    async def streams(self) -> list[str]:
        self.streams_asked += 1
        return ["bills", "orders"]


@pytest.fixture
def looks() -> Callable[..., Any]:
    """Have a timekeeper look for so many seconds; the pauses between its looks."""

    async def run(schedule: FakeSchedule, seconds: float) -> list[float]:
        transport: Any = SimpleNamespace(schedule=schedule, inspection=schedule)
        keeper = Timekeeper(transport, [Subscription(stream="own", group="g")], Metrics())
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        moments = [moment for moment, _ in schedule.asked]
        return [after - before for before, after in pairwise(moments)]

    return run


async def test_what_comes_while_it_sleeps_is_seen_within_a_quarter_of_a_second(looks: Any) -> None:
    schedule = FakeSchedule(None, 3600.0)

    pauses = await looks(schedule, 1.2)

    assert 3 <= len(pauses) <= 6
    assert sum(pauses) / len(pauses) <= 0.25
    assert schedule.streams_asked == 1
    assert schedule.asked[-1][1] == ["bills", "orders", "own"]


async def test_it_wakes_when_the_next_one_is_due(looks: Any) -> None:
    schedule = FakeSchedule(0.1, 0.05, 0.0, 3600.0)

    first, second, third, *_ = await looks(schedule, 0.6)

    assert 0.1 <= first < 0.2
    assert 0.05 <= second < 0.15
    assert 0.005 <= third < 0.1


async def test_after_trouble_it_goes_on(looks: Any) -> None:
    schedule = FakeSchedule(TransportError("away"), None)

    pauses = await looks(schedule, 1.5)

    assert 1.0 <= pauses[0] < 1.4
    assert len(pauses) >= 2
