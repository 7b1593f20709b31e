"""Slots: who runs in which task and context, and what a limit, a cancellation or a bug does to the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest

from streamtask.broker import Run
from streamtask.transport.values import Delivery, Release
from streamtask.worker.slots import Running, Slots

Body = Callable[[str], Awaitable[None]]


def delivery(name: str) -> Delivery:
    return Delivery("jobs", "g", name, "me", [])


class Bench:
    """Slots whose handler is `body`, called with the name of the delivery."""

    def __init__(self, body: Body, concurrency: int = 2, **options: Any) -> None:
        self.body = body
        self.errors: list[Exception] = []
        self.settled: list[str] = []
        self.slots = Slots(
            concurrency,
            plan=options.get(
                "plan", lambda each: Run(each, SimpleNamespace(batch=None), SimpleNamespace(), SimpleNamespace())
            ),
            settle=lambda each, _: self.settled.append(each.entry_id),
            handle=self._handle,
            inline=None,
            limit=options.get("limit", lambda _: None),
            pace=None,
            changed=lambda: None,
            shared=lambda _: None,
            failed=self.errors.append,
        )

    async def _handle(self, running: Running) -> None:
        await self.body(running.run.delivery.entry_id)

    def put(self, *names: str) -> None:
        self.slots.put([delivery(name) for name in names])


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_handlers_that_do_not_wait_share_a_task_and_no_context():
    seen: list[tuple[str, str, object]] = []
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    async def body(name: str) -> None:
        seen.append((name, variable.get(), asyncio.current_task()))
        variable.set(name)

    bench = Bench(body, concurrency=1)
    bench.put("a", "b", "c")
    await turns()
    assert [(name, value) for name, value, _ in seen] == [("a", "unset"), ("b", "unset"), ("c", "unset")]
    assert len({task for *_, task in seen}) == 1


async def test_a_handler_that_waits_keeps_its_task_its_context_and_its_slot():
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen: dict[str, list[object]] = {}
    gate = asyncio.Event()

    async def body(name: str) -> None:
        seen[name] = [asyncio.current_task(), variable.get()]
        variable.set(name)
        await gate.wait()
        await asyncio.sleep(0)
        seen[name] += [asyncio.current_task(), variable.get()]

    bench = Bench(body, concurrency=2)
    bench.put("a", "b", "c")
    await turns()
    assert len(bench.slots.running) == 2, "the third waits for a slot"
    gate.set()
    await turns(10)
    assert not bench.slots.running
    for name in "abc":
        before, empty, after, own = seen[name]
        assert (before, empty, own) == (after, "unset", name)
    assert len({seen[name][0] for name in "abc"}) == 3


async def test_errors_are_thrown_into_a_handler_where_it_waits():
    caught: list[BaseException] = []

    async def body(name: str) -> None:
        failing = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(failing.set_exception, OSError("down"))
        try:
            await failing
        except OSError as error:
            caught.append(error)

    bench = Bench(body)
    bench.put("a")
    await turns()
    assert [str(error) for error in caught] == ["down"]
    assert not bench.slots.running


async def test_cancelling_a_delivery_reaches_only_its_own_handler():
    ended: dict[str, str] = {}

    async def body(name: str) -> None:
        try:
            await asyncio.sleep(0.05)
            ended[name] = "done"
        except asyncio.CancelledError:
            ended[name] = "cancelled"
            raise

    bench = Bench(body, concurrency=3)
    bench.put("a", "b", "c")
    await turns()
    [victim] = [running for running in bench.slots.running if running.run.delivery.entry_id == "b"]
    bench.slots.cancel(lambda each: each is victim.run.delivery)
    assert await bench.slots.idle(5)
    assert ended == {"a": "done", "b": "cancelled", "c": "done"}
    bench.put("d")
    await turns()
    assert len(bench.slots.running) == 1, "the slot of the cancelled one is free again"


async def test_a_handler_that_cancels_its_task_and_ends_hits_no_other():
    ran: list[str] = []

    async def body(name: str) -> None:
        if name == "a":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        else:
            await asyncio.sleep(0)
        ran.append(name)

    bench = Bench(body)
    bench.put("a", "b", "c")
    await turns(10)
    assert ran == ["a", "b", "c"]


async def test_a_long_queue_lets_the_loop_turn():
    ended = 0

    async def body(name: str) -> None:
        nonlocal ended
        busy_until = time.monotonic() + 0.003
        while time.monotonic() < busy_until:
            pass
        ended += 1

    bench = Bench(body)
    bench.put(*map(str, range(10)))
    seen = set()
    async with asyncio.timeout(10):
        while ended < 10:
            await asyncio.sleep(0)
            seen.add(ended)
    assert len(seen) > 3


async def test_what_is_at_its_limit_steps_aside_and_comes_back():
    gate = asyncio.Event()
    started: list[str] = []

    async def body(name: str) -> None:
        started.append(name)
        if name.startswith("slow"):
            await gate.wait()

    def limit(run: Run) -> tuple[str, int] | None:
        return ("slow", 1) if run.delivery.entry_id.startswith("slow") else None

    bench = Bench(body, concurrency=3, limit=limit)
    bench.put("slow-1", "slow-2", "quick-1", "quick-2")
    await turns()
    assert started == ["slow-1", "quick-1", "quick-2"]
    assert bench.slots.steps_aside("jobs", "g")
    gate.set()
    await turns(10)
    assert started[-1] == "slow-2"
    assert not bench.slots.running
    assert not bench.slots.steps_aside("jobs", "g")


async def test_what_steps_aside_costs_no_turns_of_the_loop(monkeypatch: pytest.MonkeyPatch):
    served = 0
    serve = Slots._run_queue

    async def counted(self: Slots) -> None:
        nonlocal served
        served += 1
        await serve(self)

    monkeypatch.setattr(Slots, "_run_queue", counted)
    gate = asyncio.Event()

    async def body(name: str) -> None:
        await gate.wait()

    bench = Bench(body, concurrency=3, limit=lambda _: ("one", 1))
    bench.put("a", "b")
    await turns(50)
    assert served <= 3
    gate.set()
    await turns(10)
    assert not bench.slots.running


async def test_what_needs_no_handler_is_settled():
    async def body(name: str) -> None:
        raise AssertionError(name)

    bench = Bench(body, plan=lambda _: Release())
    bench.put("a", "b")
    await turns()
    assert bench.settled == ["a", "b"]


async def test_what_waited_too_long_or_at_the_end_is_taken_out():
    gate = asyncio.Event()

    async def body(name: str) -> None:
        await gate.wait()

    bench = Bench(body, concurrency=1)
    bench.put("a", "b")
    bench.put("c")
    await turns()
    assert bench.slots.overdue(60) == []
    assert [each.entry_id for each in bench.slots.overdue(0)] == ["b", "c"]
    bench.put("d")
    assert [each.entry_id for each in bench.slots.close()] == ["d"]
    gate.set()
    await turns()
    assert not bench.slots.running


async def test_a_bug_outside_of_handlers_is_told():
    def plan(each: Delivery) -> Run:
        raise RuntimeError("a bug")

    async def body(name: str) -> None:
        raise AssertionError(name)

    bench = Bench(body, plan=plan)
    bench.put("a")
    await turns()
    assert [str(error) for error in bench.errors] == ["a bug"]
