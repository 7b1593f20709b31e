"""Gathering: when a batch is ready, and what joins it."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

from streamtask import Batch
from streamtask.broker import Run
from streamtask.transport.values import Delivery
from streamtask.worker.gathering import Gathering
from tests.chaos.workers import until

SMALL, SLOW = Batch(2, wait=3600), Batch(10, wait=0.02)
ONE, OTHER = SimpleNamespace(), SimpleNamespace()


def run(name: str, *, handler: Any = ONE, stream: str = "jobs", group: str = "g") -> Run:
    return Run(Delivery(stream, group, name, "me", []), handler, SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]


def names(runs: list[Run] | None) -> list[str]:
    return [each.delivery.entry_id for each in runs or ()]


def nothing() -> None:
    """Nobody is told."""


async def test_a_batch_is_ready_at_its_size_and_the_next_one_begins_another() -> None:
    gathering, now = Gathering(nothing), time.monotonic()

    joined = [gathering.add(run(name), SMALL, now) for name in "abc"]

    assert joined == [False, True, False]
    assert names(gathering.next(lambda _: True)) == ["a", "b"]
    assert gathering.next(lambda _: True) is None
    assert list(map(names, gathering.close())) == [["c"]]


async def test_a_batch_is_ready_so_long_after_its_first_and_that_is_told() -> None:
    ripe = []
    gathering = Gathering(lambda: ripe.append(names(gathering.next(lambda _: True))))

    gathering.add(run("a"), SLOW, time.monotonic())
    gathering.add(run("b"), SLOW, time.monotonic())
    # It has waited elsewhere for all of its time.
    gathering.add(run("c", handler=OTHER), Batch(10, wait=60), time.monotonic() - 60)
    await until(lambda: len(ripe) == 2, 5)

    assert sorted(ripe) == [["a", "b"], ["c"]]


async def test_handlers_and_streams_gather_apart() -> None:
    gathering, now = Gathering(nothing), time.monotonic()
    for each in (run("a"), run("b", handler=OTHER), run("c", stream="orders"), run("d")):
        gathering.add(each, SMALL, now)

    assert names(gathering.next(lambda _: True)) == ["a", "d"]
    assert sorted(map(names, gathering.close())) == [["b"], ["c"]]


async def test_what_may_not_run_lets_others_pass_and_is_overdue_in_time() -> None:
    gathering, now = Gathering(nothing), time.monotonic()
    for each in (run("a"), run("b"), run("c", handler=OTHER), run("d", handler=OTHER)):
        gathering.add(each, SMALL, now)

    assert names(gathering.next(lambda each: each.handler is OTHER)) == ["c", "d"]
    assert gathering.waits("jobs", "g")
    assert not gathering.waits("jobs", "another")
    assert gathering.overdue(60) == []
    assert list(map(names, gathering.overdue(0))) == [["a", "b"]]
    assert not gathering.waits("jobs", "g")


async def test_what_grows_is_never_overdue_and_says_how_much_joins_it() -> None:
    gathering, now = Gathering(nothing), time.monotonic()
    assert gathering.space("jobs", "g") == 0
    gathering.add(run("a"), Batch(10, wait=3600), now - 100)
    gathering.add(run("b", handler=OTHER), Batch(5, wait=3600), now)

    assert gathering.overdue(0) == []
    assert gathering.space("jobs", "g") == 4
    assert gathering.space("jobs", "another") == gathering.space("orders", "g") == 0
    assert sorted(map(names, gathering.close())) == [["a"], ["b"]]
    await asyncio.sleep(0)
    assert gathering.close() == []
