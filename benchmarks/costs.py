"""Where a worker's time goes: `python -m benchmarks.costs` prints microseconds of processor time for each event.

First whole drains, by a worker inside this process; then the steps of one event that need no server, each by itself.
Medians hide little here and minima hide less: what disturbs a measurement only ever adds to it, so each line is the
smallest of many short runs. Last, how many functions of ours an event calls: most of its time is Python's own, and that
number is the same on every machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import streamtask
from benchmarks.servers import private_server
from streamtask import App, Context, Event
from streamtask import envelope as envelopes
from streamtask.broker import Run
from streamtask.event import dump
from streamtask.transport.values import Delivery

_EVENTS = 20_000
_ROUNDS = 5
_REPEATS, _LOOPS = 200, 300
_OURS = str(Path(streamtask.__file__).parent)


class NoOp(Event, stream="costs"):
    """Handled by doing nothing."""

    i: int


class Emitting(Event, stream="costs"):
    """Handled by emitting one event."""

    i: int


class Emitted(Event, stream="emitted"):
    """What is emitted."""

    i: int


class _Bench:
    """An app whose handlers count."""

    def __init__(self, url: str) -> None:
        self.app = App("costs", broker=url)
        self._left = 0
        self._done = asyncio.Event()

        @self.app.on(NoOp)
        async def noop(_: NoOp) -> None:
            self._count()

        @self.app.on(Emitting)
        async def emit(event: Emitting) -> Emitted:
            self._count()
            return Emitted(i=event.i)

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()

    async def drain(self, kind: type[NoOp | Emitting]) -> float:
        """Microseconds of this thread for each event of a backlog."""
        await self.app.publish_many([kind(i=17) for _ in range(_EVENTS)])
        self._left = _EVENTS
        self._done.clear()
        async with self.app.worker():
            began = time.thread_time()
            await self._done.wait()
            return (time.thread_time() - began) / _EVENTS * 1e6

    async def calls(self, kind: type[NoOp | Emitting], events: int) -> float:
        """Functions of streamtask that an event of a backlog calls; where a coroutine goes on counts as a call."""
        calls = 0

        def count(frame: FrameType, event: str, _: Any) -> None:
            nonlocal calls
            calls += event == "call" and frame.f_code.co_filename.startswith(_OURS)

        await self.app.publish_many([kind(i=17) for _ in range(events)])
        self._left = events
        self._done.clear()
        async with self.app.worker():
            sys.setprofile(count)
            try:
                await self._done.wait()
            finally:
                sys.setprofile(None)
        return calls / events


async def _drains(url: str) -> dict[str, float]:
    bench = _Bench(url)
    best = {}
    async with bench.app:
        for kind, name in ((NoOp, "drain, no-op"), (Emitting, "drain, each emits one event")):
            best[name] = min([await bench.drain(kind) for _ in range(_ROUNDS)])
    return best


async def calls(url: str, events: int = _EVENTS) -> dict[str, float]:
    """How many functions of streamtask an event calls, by what is done with it."""
    bench = _Bench(url)
    async with bench.app:
        return {"no-op": await bench.calls(NoOp, events), "each emits one event": await bench.calls(Emitting, events)}


def _steps() -> dict[str, float]:
    app = App("costs", broker="memory://")

    @app.on(Emitting)
    async def emit(event: Emitting) -> None:
        """Not run: what surrounds it is measured."""

    broker = app.broker
    event = Emitting(i=17)
    ids = envelopes.new_event_id(), envelopes.new_trace_id()
    body = broker.outgoing(event, *ids).body
    delivery = Delivery("costs", "costs", "1700000000000-0", "owner", [b"envelope", body])
    run = broker.plan(delivery, {})
    if not isinstance(run, Run):
        raise TypeError(f"no handler was chosen, but {run}")
    context = Context(run.envelope, 1, app)
    return {
        "read an envelope": _cost(lambda: envelopes.decode(body)),
        "choose the handler (reading included)": _cost(lambda: broker.plan(delivery, {})),
        "read the payload": _cost(lambda: broker.event(run)),
        "decide, no effects": _cost(lambda: broker.succeed(run, context, None, None)),
        "decide, one event to emit": _cost(lambda: broker.succeed(run, context, event, None)),
        "  of it: the id": _cost(lambda: envelopes.emit_id(*ids, "handler", 0)),
        "  of it: write the payload, and see that it comes back": _cost(lambda: dump(event)),
        "make an event for a publish": _cost(lambda: broker.outgoing(event, *ids)),
    }


def _cost(step: Callable[[], object]) -> float:
    return min(timeit.repeat(step, number=_LOOPS, repeat=_REPEATS)) / _LOOPS * 1e6


def main() -> None:
    """Print both."""
    runner = asyncio.Runner()
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - as workers do, where it is installed

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with private_server() as server, runner:
        costs = runner.run(_drains(server.url)) | _steps()
        counted = runner.run(calls(server.url))
    for name, microseconds in costs.items():
        print(f"{microseconds:8.2f} µs  {name}")
    for name, number in counted.items():
        print(f"{number:8.1f}     calls of our functions, {name}")


if __name__ == "__main__":
    main()
