"""Publishes for one system, as the harness asks: a line of JSON in, a line of JSON out.

Run by that system's own Python: `python publisher.py on_celery`. What the module has to have is said in README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import sys
import threading
import time
from typing import Any

import fixture

#: Seconds between two events at low load, in turn, so that no poller can keep step with them.
PAUSES = (0.006, 0.011, 0.008, 0.013, 0.005, 0.009, 0.012, 0.007)
#: Seconds between two looks at the board, and after which an event counts as lost.
LOOK = 0.001
PATIENCE = 10.0


class Publisher:
    """The publishing side of one system."""

    def __init__(self, system: Any) -> None:
        self._system = system
        self._awaits = inspect.iscoroutinefunction(system.publish)

    async def publish(self, kind: str) -> None:
        """Publish one event."""
        if self._awaits:
            await self._system.publish(kind)
        else:
            self._system.publish(kind)

    async def one(self, kind: str, count: int) -> float:
        """Publish one after the other; seconds."""
        began = time.perf_counter()
        for _ in range(count):
            await self.publish(kind)
        return time.perf_counter() - began

    async def callers(self, kind: str, count: int, callers: int = 100) -> float:
        """Publish from so many callers at once, tasks where the system is async and else threads; seconds."""
        each = count // callers
        began = time.perf_counter()
        if self._awaits:
            await asyncio.gather(*(self.one(kind, each) for _ in range(callers)))
        else:

            def call() -> None:
                for _ in range(each):
                    self._system.publish(kind)

            threads = [threading.Thread(target=call) for _ in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return time.perf_counter() - began

    async def many(self, kind: str, count: int) -> float | None:
        """Publish with the call that the system has for many events, if it has one; seconds."""
        bulk = getattr(self._system, "publish_many", None)
        if bulk is None:
            return None
        began = time.perf_counter()
        result = bulk(kind, count)
        if inspect.isawaitable(result):
            await result
        return time.perf_counter() - began

    async def fill(self, kind: str, count: int) -> float:
        """Publish a backlog in whichever way is quickest here; seconds."""
        seconds = await self.many(kind, count)
        if seconds is None:
            seconds = await (self.callers(kind, count) if self._awaits else self.one(kind, count))
        return seconds

    async def paced(self, kind: str, count: int, limit: float) -> list[float]:
        """Publish one, wait for its handler, pause; the seconds from each publish to the start of its handler."""
        board = fixture.board
        if board is None:
            raise RuntimeError("$BENCH_BOARD is not set: the harness starts this")
        latencies: list[float] = []
        end = time.monotonic() + limit
        for number in range(count):
            seen = board.count
            began = time.monotonic_ns()
            await self.publish(kind)
            while board.count == seen:
                if time.monotonic_ns() - began > PATIENCE * 1e9:
                    raise TimeoutError(f"no handler ran within {PATIENCE:g} s")
                await asyncio.sleep(LOOK)
            latencies.append((board.at(seen + 1) - began) / 1e9)
            if time.monotonic() > end:
                break
            await asyncio.sleep(PAUSES[number % len(PAUSES)])
        return latencies


class Timed:
    """A system that takes its own time, such as `redis-benchmark`: `seconds(how, count)`."""

    def __init__(self, system: Any) -> None:
        self._system = system

    async def one(self, kind: str, count: int) -> float:  # noqa: ARG002 - as Publisher
        """See Publisher."""
        return float(self._system.seconds("one", count))

    async def callers(self, kind: str, count: int) -> float:  # noqa: ARG002 - as Publisher
        """See Publisher."""
        return float(self._system.seconds("callers", count))

    async def many(self, kind: str, count: int) -> float:  # noqa: ARG002 - as Publisher
        """See Publisher."""
        return float(self._system.seconds("many", count))


async def serve(system: Any) -> None:
    """Answer until stdin ends."""
    publisher = Timed(system) if hasattr(system, "seconds") else Publisher(system)
    async with contextlib.AsyncExitStack() as stack:
        if hasattr(system, "connected"):
            await stack.enter_async_context(system.connected())
        while line := await asyncio.to_thread(sys.stdin.readline):
            request = json.loads(line)
            try:
                answer: Any = {"value": await getattr(publisher, request.pop("do"))(**request)}
            except Exception as error:  # noqa: BLE001 - whatever a system raises is told, and the next request goes on
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    module = importlib.import_module(sys.argv[1])
    try:
        run = importlib.import_module("uvloop").run
    except ModuleNotFoundError:
        run = asyncio.run
    run(serve(module))
