"""The simulated loops do what real ones do, and what real processes do when they are stopped and killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from random import Random

import pytest

from tests.simulation.loops import Loop, Process, Scheduler, SpinningError, virtual


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler(Random(1))
    with virtual(made, 1):
        yield made
        made.bury()


def never() -> bool:
    return False


def test_waiting_takes_no_time_and_passes_it(scheduler: Scheduler) -> None:
    woke: list[float] = []

    async def main() -> None:
        await asyncio.sleep(3600)
        woke.append(time.monotonic())

    began = time.thread_time()
    scheduler.process("p").thread("main", main())

    assert scheduler.run(lambda: bool(woke), 7200)
    assert woke == [3600]
    assert time.thread_time() - began < 10


def test_a_loop_calls_back_in_order_and_which_loop_is_next_is_drawn(scheduler: Scheduler) -> None:
    steps: list[tuple[str, int]] = []

    async def main(name: str) -> None:
        for n in range(20):
            steps.append((name, n))
            await asyncio.sleep(0)

    for name in "ab":
        scheduler.process(name).thread("main", main(name))
    scheduler.run(never, 1)

    for name in "ab":
        assert [n for who, n in steps if who == name] == list(range(20))
    assert len({who for who, _ in steps[:10]}) == 2
    assert steps != [(who, n) for n in range(20) for who in "ab"]


def test_what_is_killed_runs_nothing_any_more_not_even_a_finally(scheduler: Scheduler) -> None:
    ran: list[str] = []

    async def main() -> None:
        try:
            await asyncio.sleep(1)
            ran.append("on")
        finally:
            if not buried:
                ran.append("finally")

    buried = False
    process = scheduler.process("p")
    process.thread("main", main())
    scheduler.run(never, 0.5)
    process.kill()
    scheduler.run(never, 10)

    assert ran == []
    buried = True


def test_what_is_stopped_goes_on_later_and_a_blocked_thread_blocks_no_other(scheduler: Scheduler) -> None:
    beats: dict[str, list[float]] = {"blocks": [], "beats": []}

    async def blocks() -> None:
        loop: Loop = asyncio.get_running_loop()  # type: ignore[assignment]
        loop.block(5)
        await asyncio.sleep(0)
        beats["blocks"].append(time.monotonic())

    async def keeps_beating() -> None:
        while True:
            beats["beats"].append(time.monotonic())
            await asyncio.sleep(1)

    process: Process = scheduler.process("p")
    process.thread("main", blocks())
    process.thread("keeper", keeps_beating())
    scheduler.run(never, 6.5)
    process.stop(3)
    scheduler.run(never, 4)

    assert beats["blocks"] == [5]
    assert beats["beats"] == [0, 1, 2, 3, 4, 5, 6, 9.5, 10.5]


def test_what_turns_without_waiting_is_told(scheduler: Scheduler) -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110 - that is what it is about
            await asyncio.sleep(0)

    scheduler.process("p").thread("main", spin())

    with pytest.raises(SpinningError, match="no time has passed"):
        scheduler.run(never, 1)
