"""Promoting: at the moment at which something is due, and soon where something sooner came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.values import Subscription
from streamtask.worker.rounds import Rounds
from streamtask.worker.timekeeper import Timekeeper

Pauses = Callable[["FakeSchedule"], Coroutine[Any, Any, list[float]]]


class FakeSchedule:
    """Answers with the seconds until the next one, and notes for which streams it was asked."""

    def __init__(self, *waits: float | Exception | None) -> None:
        self.waits = list(waits)
        self.asked: list[Sequence[str]] = []
        self.streams_asked = 0

    async def promote(self, streams: Sequence[str]) -> float | None:
        self.asked.append(streams)
        wait = self.waits.pop(0)
        if isinstance(wait, Exception):
            raise wait
        return wait

    async def streams(self) -> list[str]:
        self.streams_asked += 1
        return ["bills", "orders"]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Have a timekeeper look until the answers are used up; the pauses that it made, which take no time here."""

    async def run(schedule: FakeSchedule) -> list[float]:
        made: list[float] = []

        async def sleep(seconds: float) -> None:
            made.append(seconds)
            if not schedule.waits:
                raise asyncio.CancelledError

        monkeypatch.setattr("streamtask.worker.timekeeper.asyncio.sleep", sleep)
        transport: Any = SimpleNamespace(schedule=schedule, inspection=schedule)
        with pytest.raises(asyncio.CancelledError):
            await Timekeeper(transport, [Subscription(stream="own", group="g")], Metrics(), Rounds()).run()
        return made

    return run


async def test_what_comes_while_it_sleeps_is_seen_soon_and_sooner_where_something_waits(pauses: Pauses) -> None:
    nothing, *waits = await pauses(FakeSchedule(None, 3600.0, 0.3))

    assert nothing <= 0.5
    assert max(waits) < 0.25


async def test_it_wakes_when_the_next_one_is_due_and_does_not_spin(pauses: Pauses) -> None:
    assert await pauses(FakeSchedule(0.1, 0.05, 0.0)) == [0.1, 0.05, 0.01]


async def test_it_looks_at_every_stream_and_asks_for_their_names_less_often(pauses: Pauses) -> None:
    schedule = FakeSchedule(None, None, None)

    await pauses(schedule)

    assert schedule.asked == [["bills", "orders", "own"]] * 3
    assert schedule.streams_asked == 1


async def test_after_trouble_it_goes_on_a_second_later(pauses: Pauses) -> None:
    assert (await pauses(FakeSchedule(TransportError("away"), 0.1))) == [1.0, 0.1]
