"""Slots: at most so many handlers at once, of one kind no more than its limit. Decides nothing about an event.

A delivery waits in arrival order for a free slot. One whose kind is at its limit (`concurrency=`, a pool of child
processes) steps aside and lets the others pass. What waits for long is taken out again by `overdue`, for workers with
room.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any

from streamtask.broker import Run
from streamtask.transport.port import Delivery, Outcome

#: What runs together under one limit, and the limit.
Limit = tuple[Hashable, int]


@dataclass(slots=True, eq=False)
class Running:
    """One occupied slot."""

    number: int
    run: Run
    since: float
    #: What it shares its limit with, if it has one.
    kind: Hashable | None
    task: asyncio.Task[None] | None = None
    begun: bool = False
    #: It is to end: as soon as it has begun, where it has not.
    cancelled: bool = False
    #: Whether its long run was told already.
    told: bool = False

    def cancel(self) -> None:
        """Raise CancelledError in the handler, where it waits."""
        self.cancelled = True
        # A task that is cancelled before its first step never comes to the code that frees its slot.
        if self.begun and self.task is not None:
            self.task.cancel()


class Slots:
    """Holds what waits and what runs.

    `plan` says what is to be done with a delivery, `settle` takes an outcome that needs no handler, `handle` runs a
    handler in a slot to its end, `limit` names the limit of a run, or None; `changed` is called when one has ended.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        plan: Callable[[Delivery], Run | Outcome],
        settle: Callable[[Delivery, Outcome], None],
        handle: Callable[[Running], Coroutine[Any, Any, None]],
        limit: Callable[[Run], Limit | None],
        changed: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._settle = settle
        self._handle = handle
        self._limit = limit
        self._changed = changed
        self._free = list(range(concurrency - 1, -1, -1))
        self._queue: deque[tuple[float, Delivery]] = deque()
        self._aside: dict[Hashable, deque[tuple[float, Run]]] = {}
        self._busy: Counter[Hashable] = Counter()
        self._running: dict[int, Running] = {}
        self._closed = False
        self._loop = asyncio.get_running_loop()

    def put(self, deliveries: list[Delivery]) -> None:
        """Run these as soon as there are slots."""
        now = time.monotonic()
        self._queue.extend((now, delivery) for delivery in deliveries)
        self._fill()

    @property
    def running(self) -> list[Running]:
        """What runs now."""
        return list(self._running.values())

    def cancel(self, delivery: Delivery) -> None:
        """Cancel the handler of a delivery, if it runs."""
        for running in self.running:
            if running.run.delivery is delivery:
                running.cancel()

    def steps_aside(self, stream: str, group: str) -> bool:
        """Whether a delivery of this stream waits for others of its kind: more of them would wait as well."""
        return any(
            run.delivery.stream == stream and run.delivery.group == group
            for waiting in self._aside.values()
            for _, run in waiting
        )

    def overdue(self, seconds: float) -> list[Delivery]:
        """Take out what has waited for so long without a slot."""
        late = time.monotonic() - seconds
        found = []
        while self._queue and self._queue[0][0] <= late:
            found.append(self._queue.popleft()[1])
        for key, waiting in list(self._aside.items()):
            while waiting and waiting[0][0] <= late:
                found.append(waiting.popleft()[1].delivery)
            if not waiting:
                del self._aside[key]
        return found

    def close(self) -> list[Delivery]:
        """Start nothing any more; what had not been started is taken out."""
        self._closed = True
        return self.overdue(-1.0)

    async def idle(self, seconds: float) -> bool:
        """Wait until nothing runs, for so long at most; whether that came."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if not tasks:
            return True
        _, pending = await asyncio.wait(tasks, timeout=max(0.0, seconds))
        return not pending

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────

    def _fill(self) -> None:
        queue = self._queue
        while queue and self._free and not self._closed:
            arrived, delivery = queue.popleft()
            plan = self._plan(delivery)
            if not isinstance(plan, Run):
                self._settle(delivery, plan)
                continue
            limit = self._limit(plan)
            if limit is None:
                self._start(plan, None)
            elif self._busy[limit[0]] < limit[1]:
                self._start(plan, limit[0])
            else:
                self._aside.setdefault(limit[0], deque()).append((arrived, plan))

    def _start(self, run: Run, kind: Hashable | None) -> None:
        if kind is not None:
            self._busy[kind] += 1
        running = Running(self._free.pop(), run, time.monotonic(), kind)
        self._running[running.number] = running
        running.task = self._loop.create_task(self._occupy(running))

    async def _occupy(self, running: Running) -> None:
        running.begun = True
        if running.cancelled:
            running.cancel()
        try:
            await self._handle(running)
        finally:
            self._ended(running)

    def _ended(self, running: Running) -> None:
        del self._running[running.number]
        self._free.append(running.number)
        kind = running.kind
        if kind is not None:
            self._busy[kind] -= 1
            waiting = self._aside.get(kind)
            if waiting and not self._closed:
                _, run = waiting.popleft()
                if not waiting:
                    del self._aside[kind]
                self._start(run, kind)
        self._fill()
        self._changed()
