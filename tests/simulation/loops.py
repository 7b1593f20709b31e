"""Event loops with a time and a chance of their own: what runs next is drawn from a seed, and waiting takes no time.

A *process* is what is killed, stopped and goes on together. It has a loop for each of its threads, as a real one has,
and each loop calls back in order, as asyncio promises. Which loop of all takes the next step is drawn; where none can,
the clock jumps to the next timer. It knows nothing of streamtask.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

#: What the time of day begins with.
EPOCH = 1_700_000_000.0
#: Steps without the clock moving: more of them is a loop that turns and waits for nothing.
_MOST_STEPS = 100_000


class SpinningError(Exception):
    """Something runs without end and lets no time pass."""


class Scheduler:
    """All loops of a simulation, and their time."""

    def __init__(self, chance: random.Random) -> None:
        self.now = 0.0
        self._chance = chance
        self._processes: list[Process] = []
        self._loops: list[Loop] = []
        self._timers: list[tuple[float, int, Loop, asyncio.TimerHandle]] = []
        self._numbers = count()
        self._clock_off = 0.0

    def time_of_day(self) -> float:
        """As the process has it that takes its step now."""
        return EPOCH + self.now + self._clock_off

    def process(self, name: str) -> Process:
        """A new process, without a thread yet."""
        made = Process(self, name)
        self._processes.append(made)
        return made

    def run(self, until: Callable[[], bool], within: float) -> bool:
        """Run until it is so, for so many seconds at most; whether it came to that."""
        end = self.now + within
        steps = 0
        while not until():
            before = self.now
            if not self._step(end):
                return False
            steps = steps + 1 if self.now == before else 0
            if steps > _MOST_STEPS:
                raise SpinningError(f"{_MOST_STEPS} steps at {self.now:.3f} s and no time has passed")
        return True

    def bury(self) -> None:
        """End every task there is, those of the dead as well, so that nothing is left to the garbage collector."""
        self._timers.clear()
        for _ in range(100):
            left = [loop for process in self._processes for loop in process.loops if loop.has_tasks()]
            if not left:
                return
            for loop in left:
                loop.cancel_all()
        raise SpinningError(f"tasks that ignore their cancellation: {[loop.name for loop in left]}")

    # ── for loops and processes ───────────────────────────────────────────────────────────────────────────────

    def added(self, loop: Loop) -> None:
        """A loop joins."""
        self._loops.append(loop)

    def died(self, process: Process) -> None:
        """Nothing of this process runs any more."""
        self._loops = [loop for loop in self._loops if loop.process is not process]

    def at(self, when: float, loop: Loop, handle: asyncio.TimerHandle) -> None:
        """Have a loop call back at a moment."""
        heapq.heappush(self._timers, (when, next(self._numbers), loop, handle))

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────

    def _step(self, end: float) -> bool:
        """One callback, or one jump of the clock; False at the end of time."""
        now, timers = self.now, self._timers
        while timers and timers[0][0] <= now:
            _, _, loop, handle = heapq.heappop(timers)
            loop.ready.append(handle)
        able = [loop for loop in self._loops if loop.ready and loop.wakes_at <= now]
        if able:
            loop = self._chance.choice(able)
            self._clock_off = loop.process.clock_off
            loop.turn()
            return True
        waking = [loop.wakes_at for loop in self._loops if loop.ready]
        if timers:
            waking.append(timers[0][0])
        if not waking or min(waking) > end:
            self.now = max(now, end)
            return False
        self.now = min(waking)
        return True


class Process:
    """The loops that live and die together."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.loops: list[Loop] = []
        self.is_alive = True
        self.stops_until = 0.0
        self.clock_off = 0.0
        self._fuses: list[tuple[int, Callable[[], object]]] = []
        self._turns = 0

    def thread(self, name: str, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A thread of this process, with a loop that runs `main`."""
        loop = Loop(self, f"{self.name}/{name}")
        self.loops.append(loop)
        if self.is_alive:
            self.scheduler.added(loop)
        return loop.create_task(main)

    def kill(self) -> None:
        """End it between two callbacks, as a SIGKILL does: nothing of it runs again, not even a `finally`."""
        self.is_alive = False
        self.scheduler.died(self)

    def after(self, turns: int, do: Callable[[], object]) -> None:
        """Do something when so many more callbacks have run here: between any two of them, not only at rest."""
        self._fuses.append((self._turns + turns, do))

    def turned(self) -> None:
        """A callback has run."""
        self._turns += 1
        if self._fuses:
            burnt = [do for turn, do in self._fuses if turn <= self._turns]
            self._fuses = [fuse for fuse in self._fuses if fuse[0] > self._turns]
            for do in burnt:
                do()

    def stop(self, seconds: float) -> None:
        """Let it stand still, as SIGSTOP does."""
        self.stops_until = max(self.stops_until, self.scheduler.now + seconds)

    def set_clock(self, off: float) -> None:
        """Have its time of day be so many seconds off. Monotonic time is what it was."""
        self.clock_off = off

    def go_on(self) -> None:
        """Let it run on, as SIGCONT does."""
        self.stops_until = self.scheduler.now


class Loop(asyncio.AbstractEventLoop):
    """One thread's event loop: as much of it as code without sockets and threads asks for."""

    def __init__(self, process: Process, name: str) -> None:
        self.process = process
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self._blocked_until = 0.0
        self._scheduler = process.scheduler
        self._tasks: list[asyncio.Task[Any]] = []

    def block(self, seconds: float) -> None:
        """Whoever runs here now keeps the thread for itself, as `time.sleep` does."""
        self._blocked_until = max(self._blocked_until, self._scheduler.now + seconds)

    @property
    def wakes_at(self) -> float:
        """From when on it can call back."""
        return max(self._blocked_until, self.process.stops_until)

    def turn(self) -> None:
        """Call back once."""
        handle = self.ready.popleft()
        if not handle.cancelled():
            asyncio._set_running_loop(self)
            try:
                handle._run()
            finally:
                asyncio._set_running_loop(None)
        self.process.turned()

    def has_tasks(self) -> bool:
        """Whether a task has not ended, or a callback has not been called."""
        self._tasks = [task for task in self._tasks if not task.done()]
        return bool(self._tasks or self.ready)

    def cancel_all(self) -> None:
        """Cancel every task, and call back what comes of it."""
        for task in self._tasks:
            task.cancel()
        while self.ready:
            self.turn()

    # ── what asyncio asks for ─────────────────────────────────────────────────────────────────────────────────

    def time(self) -> float:
        return self._scheduler.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._scheduler.at(when, self, handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        """What a thread would do is done when the loop next turns."""
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - whoever waits for the thread gets it
                future.set_exception(error)

        self.call_soon(run)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise RuntimeError(context["message"]) from context.get("exception")


@contextmanager
def virtual(scheduler: Scheduler, seed: int) -> Iterator[None]:
    """Within it, `time` and `random` answer from the simulation, and nothing is logged."""
    kept = random.getstate()
    random.seed(seed)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            patch.object(time, "time", scheduler.time_of_day),
            patch.object(time, "monotonic", lambda: scheduler.now),
            patch.object(time, "perf_counter", lambda: scheduler.now),
        ):
            yield
    finally:
        logging.disable(disabled)
        random.setstate(kept)
