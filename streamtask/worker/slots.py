"""Slots: at most so many handlers at once, of one kind no more than its limit. Decides nothing about an event.

A delivery waits for a free slot, in the order of its rank and then of its arrival. One whose kind is at its limit
(`concurrency=`, a pool of child processes) steps aside and lets the others pass; so does one that has to wait for its
start (`rate_limit=`), which comes back by `resume`. What a batch handler takes at once is gathered while a slot is
free, and has one slot. What waits for long is taken out again by `overdue`, for workers with room.

One task serves the queue: it runs one handler after the other, each in a context (`contextvars`) of its own. A handler
that comes to wait for something keeps that task until it ends, and a new one goes on with the queue. So a handler that
never waits costs neither a task nor a turn of the loop, and one that waits has a task that is nobody else's. Most
handlers are called before they have a slot (`Inline`), and get one if they come to wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from streamtask.batches import is_gathered
from streamtask.broker import Run
from streamtask.handler import Batch
from streamtask.transport.values import Delivery, Outcome
from streamtask.worker.begun import Begun, rest
from streamtask.worker.gathering import Gathering

#: What runs together under one limit, and the limit.
Limit = tuple[Hashable, int]
#: Seconds after which the task that serves the queue lets others have the loop: to read ahead, to settle.
_TURN = 0.002


class Running(msgspec.Struct, eq=False):
    """One occupied slot."""

    number: int
    run: Run
    since: float
    #: What it shares its limit with, if it has one.
    kind: Hashable | None
    #: Its own, from the moment when the handler waits for something.
    task: asyncio.Task[None] | None = None
    #: The worker wants it to end. (A handler can cancel its task, too.)
    cancelled: bool = False
    #: Handed back, it counts as a crash: it may be what the worker has to end for.
    charged: bool = False
    #: Whoever sent the task wants it to end: whatever it comes to is dropped.
    revoked: bool = False
    #: Whether its long run was told already.
    told: bool = False
    #: What was called before there was a need for a slot.
    begun: Begun | None = None
    #: What it handles in the same call, and how many of it all share this slot still with another.
    others: Sequence[Run] = ()
    sharing: int = 0

    @property
    def runs(self) -> list[Run]:
        """All that it handles."""
        return [self.run, *self.others]

    def cancel(self, *, charged: bool = False) -> None:
        """Raise CancelledError in the handler, where it waits. `charged`: handed back, it counts as a crash."""
        self.cancelled, self.charged = True, charged
        if self.task is not None:
            self.task.cancel()

    def revoke(self) -> None:
        """End a task that nobody wants any more. A thread cannot be ended: it is waited for."""
        self.revoked = True
        if self.run.handler.pool != "thread" or self.run.alone:
            self.cancel()


class Inline(Protocol):
    """Handles what needs no slot. See `worker.inline`."""

    def handle(self, deliveries: deque[Delivery], row: int, until: float) -> Begun | None:
        """Handle what comes first of these, until the first needs a slot or the time is over."""

    def ran_through(self, run: Run) -> None:
        """One of these has ended in its slot without waiting."""


class _Batch(msgspec.Struct, eq=False):
    """What came together, and when."""

    arrived: float
    rank: int
    deliveries: deque[Delivery]


class _Paced(msgspec.Struct, eq=False):
    """A run that waits for its start. It has its place among those of its kind, and no slot."""

    since: float
    run: Run
    kind: Hashable | None


class Slots:
    """Holds what waits and what runs.

    `plan` says what is to be done with a delivery, `settle` takes an outcome that needs no handler, `handle` runs a
    handler in a slot to its end, `inline` takes what needs none, or is None; `limit` names the limit of a run, or None;
    `pace` says whether a run waits elsewhere for its start, or is None where none does; `changed` is called when there
    is more room, `shared` with how many more deliveries (below 0: fewer) share the slot of another, and `failed` with
    an error of any of these: what was served then is stuck.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        plan: Callable[[Delivery], Run | Outcome],
        settle: Callable[[Delivery, Outcome], None],
        handle: Callable[[Running], Coroutine[Any, Any, None]],
        inline: Inline | None,
        limit: Callable[[Run], Limit | None],
        pace: Callable[[Run], bool] | None,
        changed: Callable[[], None],
        shared: Callable[[int], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._plan = plan
        self._settle = settle
        self._handle = handle
        self._inline = inline
        self._limit = limit
        self._pace = pace
        self._changed = changed
        self._shared = shared
        self._failed = failed
        self._free = list(range(concurrency - 1, -1, -1))
        #: What came together, what goes first first.
        self._queue: deque[_Batch] = deque()
        self._aside: dict[Limit, deque[tuple[float, Run]]] = {}
        self._busy: Counter[Hashable] = Counter()
        #: What waits for its start, and then, in order, for a slot.
        self._paced: dict[Delivery, _Paced] = {}
        self._resumed: deque[_Paced] = deque()
        self._running: dict[int, Running] = {}
        self._server: asyncio.Task[None] | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._gathering = Gathering(self._serve)

    def put(self, deliveries: list[Delivery], rank: int = 0) -> None:
        """Run these as soon as there are slots, before what has a higher rank and behind all else."""
        queue = self._queue
        place = len(queue)
        while place and queue[place - 1].rank > rank:
            place -= 1
        queue.insert(place, _Batch(time.monotonic(), rank, deque(deliveries)))
        self._serve()

    @property
    def running(self) -> list[Running]:
        """What has a slot now."""
        return list(self._running.values())

    def cancel(self, is_lost: Callable[[Delivery], bool]) -> None:
        """Cancel the handlers of which nothing is ours any more. A batch goes on for what is left of it."""
        for running in self.running:
            if is_lost(running.run.delivery) and all(is_lost(run.delivery) for run in running.others):
                running.cancel()

    def steps_aside(self, stream: str, group: str) -> bool:
        """Whether a delivery of this stream waits for others of its kind: more of them would wait as well."""
        return self._gathering.waits(stream, group) or any(
            run.delivery.stream == stream and run.delivery.group == group
            for waiting in self._aside.values()
            for _, run in waiting
        )

    def space(self, stream: str, group: str) -> int:
        """How many more deliveries of this stream need no slot of their own: batches of it grow."""
        if not self._free:
            return 0
        return max(0, self._gathering.space(stream, group) - sum(len(batch.deliveries) for batch in self._queue))

    def resume(self, run: Run) -> None:
        """The time has come for a run that waited for its start."""
        paced = self._paced.pop(run.delivery, None)
        if paced is not None:
            self._resumed.append(paced)
            self._serve()

    def dismiss(self, run: Run) -> bool:
        """Forget a run that waits for its start; whether there was such a one."""
        paced = self._paced.pop(run.delivery, None)
        if paced is None:
            return False
        self._leaves(paced.kind)
        self._serve()
        return True

    @property
    def paced(self) -> int:
        """How many wait for their starts."""
        return len(self._paced)

    def overdue(self, seconds: float) -> list[Delivery]:
        """Take out what has waited for so long without a slot."""
        late = time.monotonic() - seconds
        found: list[Delivery] = []
        for batch in [each for each in self._queue if each.arrived <= late]:
            self._queue.remove(batch)
            found.extend(batch.deliveries)
        for limit, waiting in list(self._aside.items()):
            while waiting and waiting[0][0] <= late:
                found.append(waiting.popleft()[1].delivery)
            if not waiting:
                del self._aside[limit]
        while self._resumed and self._resumed[0].since <= late:
            paced = self._resumed.popleft()
            self._leaves(paced.kind)
            found.append(paced.run.delivery)
        for paced in [each for each in self._paced.values() if each.since <= late]:
            self.dismiss(paced.run)
            found.append(paced.run.delivery)
        return found + self._scattered(self._gathering.overdue(seconds))

    def close(self) -> list[Delivery]:
        """Start nothing any more; what had not been started is taken out."""
        self._closed = True
        return self.overdue(-1.0) + self._scattered(self._gathering.close())

    async def idle(self, seconds: float) -> bool:
        """Wait until nothing runs, for so long at most; whether that came."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if not tasks:
            return True
        _, pending = await asyncio.wait(tasks, timeout=max(0.0, seconds))
        return not pending

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────

    def _scattered(self, batches: Iterable[Sequence[Run]]) -> list[Delivery]:
        """What was gathered, one by one again."""
        found = []
        for runs in batches:
            self._shared(1 - len(runs))
            found += [run.delivery for run in runs]
        return found

    def _serve(self) -> None:
        """See to it that a task serves the queue, where there is something to do for it."""
        some = self._queue or self._aside or self._resumed or self._gathering.ready
        if self._server is None and some and self._free and not self._closed:
            self._server = self._loop.create_task(self._run_queue())

    async def _run_queue(self) -> None:
        task = self._server
        turn = time.monotonic() + _TURN
        try:
            while task is not None and not task.cancelling():
                running = self._handled_inline(turn)
                if running is None:
                    if task.cancelling():
                        break
                    if time.monotonic() > turn:
                        await asyncio.sleep(0)
                        turn = time.monotonic() + _TURN
                        continue
                    running = self._next()
                    if running is None:
                        return
                left = self._started(running, task)
                if left is not None:
                    try:
                        await left
                    finally:
                        self._ended(running)
                    return
            # A handler has cancelled itself, and has ended all the same: that must not hit the next one.
            self._server = None
            self._serve()
        except Exception as error:  # noqa: BLE001 - the worker is told, and replaced
            self._failed(error)
        finally:
            if self._server is task:
                self._server = None

    def _started(self, running: Running, task: asyncio.Task[None]) -> Awaitable[Any] | None:
        """Start a handler in its slot; what is left of it if it has come to wait for something: the task is its own."""
        coroutine = self._handle(running)
        context = contextvars.copy_context() if running.begun is None else running.begun.variables
        try:
            waits_for = context.run(coroutine.send, None)
        except StopIteration:
            self._ended(running)
            if self._inline is not None and running.run.handler.is_inline:
                self._inline.ran_through(running.run)
            return None
        except BaseException:
            self._ended(running)
            raise
        running.task, self._server = task, None
        self._serve()
        return rest(coroutine, waits_for, context)

    def _handled_inline(self, turn: float) -> Running | None:
        """Handle what comes first and needs no slot; the slot of that which came to wait for something."""
        queue, is_next = self._queue, not (self._aside or self._resumed or self._gathering.ready)
        if self._inline is None or not queue or not is_next or not self._free or self._closed:
            return None
        deliveries = queue[0].deliveries
        begun = self._inline.handle(deliveries, self._free[-1], turn)
        if not deliveries:
            queue.popleft()
        if begun is None:
            return None
        running = self._occupy(begun.run, None)
        running.begun, running.since = begun, begun.since
        return running

    def _next(self) -> Running | None:
        """Occupy a slot with the next delivery that may run, if there is a slot."""
        if not self._free or self._closed:
            return None
        running, queue = None, self._queue
        if self._aside or self._resumed or self._gathering.ready:
            running = self._next_ready()
        while running is None and queue:
            batch = queue[0]
            delivery = batch.deliveries.popleft()
            if not batch.deliveries:
                queue.popleft()
            plan = self._plan(delivery)
            if not isinstance(plan, Run):
                self._settle(delivery, plan)
                continue
            if plan.handler.batch is not None and is_gathered(plan):
                running = self._gather(plan, plan.handler.batch, batch.arrived)
                continue
            limited = self._limit(plan)
            if limited is None and self._pace is None:
                return self._occupy(plan, None)
            if limited is not None and self._busy[limited[0]] >= limited[1]:
                self._aside.setdefault(limited, deque()).append((batch.arrived, plan))
            else:
                running = self._begin(plan, None if limited is None else limited[0])
        return running

    def _next_ready(self) -> Running | None:
        """Occupy a slot with what waits no more: for its start, for others of its kind, or for more of its batch."""
        if self._resumed:
            paced = self._resumed.popleft()
            self._changed()
            return self._occupy(paced.run, paced.kind)
        while (found := self._next_aside()) is not None:
            self._changed()
            if (running := self._begin(*found)) is not None:
                return running
        return self._next_batch() if self._gathering.ready else None

    def _next_aside(self) -> tuple[Run, Hashable] | None:
        """The next run that stepped aside and whose kind is below its limit by now."""
        for limit, waiting in self._aside.items():
            if self._busy[limit[0]] < limit[1]:
                _, run = waiting.popleft()
                if not waiting:
                    del self._aside[limit]
                return run, limit[0]
        return None

    def _gather(self, run: Run, batch: Batch, arrived: float) -> Running | None:
        """Have a run wait for others; occupy a slot if they are enough."""
        # Also one that is the first: there is room for others beside it.
        self._shared(int(self._gathering.add(run, batch, arrived)))
        return self._next_batch() if self._gathering.ready else None

    def _next_batch(self) -> Running | None:
        """Occupy a slot with what was gathered, if some of it is ready and may run."""
        runs = self._gathering.next(self._has_room)
        if runs is None:
            return None
        limited = self._limit(runs[0])
        kind = None if limited is None else limited[0]
        if kind is not None:
            self._busy[kind] += 1
        self._changed()
        return self._occupy(runs[0], kind, runs[1:])

    def _has_room(self, run: Run) -> bool:
        limited = self._limit(run)
        return limited is None or self._busy[limited[0]] < limited[1]

    def _begin(self, run: Run, kind: Hashable | None) -> Running | None:
        """Occupy a slot; None: the run waits for its start first."""
        if kind is not None:
            self._busy[kind] += 1
        if self._pace is not None and self._pace(run):
            self._paced[run.delivery] = _Paced(time.monotonic(), run, kind)
            self._changed()
            return None
        return self._occupy(run, kind)

    def _occupy(self, run: Run, kind: Hashable | None, others: Sequence[Run] = ()) -> Running:
        number = self._free.pop()
        running = self._running[number] = Running(number, run, time.monotonic(), kind)
        if others:
            running.others, running.sharing = others, len(others)
        return running

    def _ended(self, running: Running) -> None:
        del self._running[running.number]
        self._free.append(running.number)
        if running.sharing:
            self._shared(-running.sharing)
        if running.kind is not None:
            self._leaves(running.kind)
        if self._server is None:
            self._serve()

    def _leaves(self, kind: Hashable | None) -> None:
        if kind is not None:
            self._busy[kind] -= 1
