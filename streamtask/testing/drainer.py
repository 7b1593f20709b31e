"""Handles what is ready in a memory, step by step: what a worker does, without its duties, its timers and its threads.

It takes what is due and what is new through the transport, has the worker's executor run it, and settles the outcome.
It never lets time pass and never waits for it: what is due later stays where it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, nullcontext
from typing import Any, Self

import msgspec

from streamtask.app import App
from streamtask.batches import is_gathered
from streamtask.broker import Run
from streamtask.errors import TransportError
from streamtask.handler import Handler
from streamtask.testing.executing import cancellations_of, executors_of
from streamtask.testing.store import MemoryConnector
from streamtask.transport.values import Dead, Delivery, Outcome, Subscription, TypeVersion
from streamtask.worker.batching import together
from streamtask.worker.rounds import Rounds
from streamtask.worker.settler import Settlement
from streamtask.worker.slots import Running
from streamtask.worker.worker import new_owner


class Drainer:
    """One worker's life in steps: `async with Drainer(...) as drainer: await drainer.run()`."""

    def __init__(self, app: App, connector: MemoryConnector, *, concurrency: int = 1) -> None:
        self.owner = new_owner()
        self.transport = connector.open()
        #: What says what becomes of a delivery.
        self.broker = app.broker
        self._app = app
        self._memory = connector
        self._concurrency = concurrency
        self._subscriptions = app.broker.catalog.subscriptions()
        self._interest: dict[tuple[str, str], frozenset[TypeVersion]] = {}
        self._running: dict[asyncio.Task[None], Running] = {}
        #: What is to share a call with others, by handler and stream.
        self._gathered: dict[tuple[int, str], list[Run]] = {}
        self._limits: dict[int, asyncio.Semaphore] = {}
        self._open = AsyncExitStack()
        self._ending = False

    async def __aenter__(self) -> Self:
        """Register the groups and make what handlers need.

        Raises:
            ConfigurationError, StreamtaskError: a worker lifespan failed.
        """
        for sub in self._subscriptions:
            registered = await self.transport.register(sub)
            self._interest[sub.stream, sub.group] = registered.interest
        cancellations = cancellations_of(self.transport, self._running.values)
        self.executors = await self._open.enter_async_context(
            executors_of(self._app, self.broker, self.transport, cancellations=cancellations, threads=self._concurrency)
        )
        if any(handler.is_task for handler in self.broker.catalog.handlers(*self._interest)):
            looking = asyncio.create_task(cancellations.run(Rounds()), name="streamtask-cancellations")
            self._open.push_async_callback(_end, looking)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hand back what was not finished, and put everything away."""
        self._ending = True
        await _end(*self._running)
        for sub in self._subscriptions:
            await self.transport.recovery.hand_back(sub.stream, sub.group, self.owner, started=())
        await self._open.aclose()

    async def hand_back(self) -> None:
        """Have what it holds be taken over at once, as if its process had died."""
        for sub in self._subscriptions:
            await self.transport.recovery.hand_back(sub.stream, sub.group, self.owner)

    @property
    def _has_room(self) -> bool:
        return len(self._running) < self._concurrency

    @property
    def running(self) -> list[Run]:
        """What has a handler that runs now."""
        return [running.run for running in self._running.values()]

    async def run(self) -> None:
        """Handle what is ready, what that leads to, and so on, until nothing is."""
        streams = [sub.stream for sub in self._subscriptions]
        with self._memory.store.listening(streams) as something_came:
            while True:
                something_came.clear()
                taken = await self._take(self._concurrency - len(self._running))
                for delivery in taken:
                    await self._plan(delivery)
                self._start_batches(only_full=bool(taken))
                if taken and self._has_room:
                    continue
                if not self._running:
                    return
                # Where no slot is free, what comes has to wait.
                arrivals = [asyncio.create_task(something_came.wait())] if self._has_room else []
                await asyncio.wait((*self._running, *arrivals), return_when=asyncio.FIRST_COMPLETED)
                await _end(*arrivals)
                self._collect()

    async def next_due(self) -> float | None:
        """Seconds until the next retry or delayed event is due; None: nothing waits."""
        moments = [await self.next_retry()]
        moments.append(await self._memory.promote())
        return min((moment for moment in moments if moment is not None), default=None)

    async def next_retry(self) -> float | None:
        """Seconds until the next retry is due; None: none waits."""
        claims = [await self._claim(sub, 0) for sub in self._subscriptions]
        return min((due for _, due in claims if due is not None), default=None)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _take(self, room: int) -> list[Delivery]:
        """What is ready, at most so much: in each stream what is due first, as it has begun before."""
        await self._memory.promote()
        taken: list[Delivery] = []
        for sub in self._subscriptions:
            if room - len(taken) > 0:
                taken += (await self._claim(sub, room - len(taken)))[0]
            if count := room - len(taken):
                taken += await self._fetch(sub, count)
        return taken

    async def _fetch(self, sub: Subscription, count: int) -> list[Delivery]:
        if sub.gates:
            return await self.transport.gates.fetch(sub, self.owner, count=count, wait=0)
        return await self.transport.fetch(sub.group, self.owner, [sub.stream], count=count, wait=0)

    async def _claim(self, sub: Subscription, count: int) -> tuple[list[Delivery], float | None]:
        """What is due, and seconds until the next is; what has waited in vain for another worker dies."""
        claimed = await self.transport.recovery.claim(sub, self.owner, count=count)
        for delivery in claimed.expired:
            await self.settle(delivery, self.broker.expired(delivery, self._interest))
        return list(claimed.deliveries), claimed.next_due

    async def _plan(self, delivery: Delivery) -> None:
        plan = self.broker.plan(delivery, self._interest)
        if not isinstance(plan, Run):
            await self.settle(delivery, plan)
        elif is_gathered(plan):
            self._gathered.setdefault((id(plan.handler), delivery.stream), []).append(plan)
        else:
            self._start([plan])

    def _start_batches(self, *, only_full: bool) -> None:
        """Start what was gathered: what no more fits into, or, once nothing more is ready, all."""
        for key, runs in list(self._gathered.items()):
            batch = runs[0].handler.batch
            if self._has_room and batch is not None and (not only_full or len(runs) >= batch.size):
                self._start(runs[: batch.size])
                self._gathered[key] = runs[batch.size :]
                if not self._gathered[key]:
                    del self._gathered[key]

    def _start(self, runs: Sequence[Run]) -> None:
        running = Running(0, runs[0], 0.0, None, others=runs[1:])
        handle = self._handle if runs[0].handler.batch is None else self._handle_batch
        running.task = asyncio.create_task(handle(running))
        self._running[running.task] = running

    def _collect(self) -> None:
        for task in [task for task in self._running if task.done()]:
            del self._running[task]
            task.result()

    async def _handle(self, running: Running) -> None:
        run = running.run
        if run.handler.batch is not None:
            await self._handle_batch(running)
            return
        async with self._room_for(run.handler):
            try:
                outcome = await self.execute(run)
            except asyncio.CancelledError as error:
                if self._ending:
                    raise
                # It has cancelled itself, or whoever sent it has.
                outcome = self.broker.fail(run, error)
        if running.revoked:
            outcome = self.broker.cancel(run)
        if outcome is not None:
            await self.settle(run.delivery, outcome)

    async def _handle_batch(self, running: Running) -> None:
        # What needs no call is no part of what the call leaves.
        early: list[Settlement] = []

        def settle(run: Run, outcome: Outcome) -> None:
            early.append(Settlement(run.delivery, outcome, run))

        async with self._room_for(running.run.handler):
            try:
                ended = await self.execute_batch(running.runs, settle)
            except asyncio.CancelledError as error:
                if self._ending:
                    raise
                done = {settlement.delivery for settlement in early}
                left = [run for run in running.runs if run.delivery not in done]
                ended = [(run, self.broker.fail(run, error)) for run in left]
        settlements = together([Settlement(run.delivery, outcome, run) for run, outcome in ended])
        for settlement in [*early, *settlements]:
            await self.settle(settlement.delivery, settlement.outcome)

    def _room_for(self, handler: Handler) -> Any:
        if handler.concurrency is None:
            return nullcontext()
        return self._limits.setdefault(id(handler), asyncio.Semaphore(handler.concurrency))

    # ── what a worker that fails does otherwise ───────────────────────────────────────────────────────────────

    async def execute(self, run: Run) -> Outcome | None:
        """Run a handler to its outcome; None: there is nothing to be settled."""
        return await self.executors.single.execute(run)

    async def execute_batch(
        self, runs: Sequence[Run], end: Callable[[Run, Outcome], None]
    ) -> list[tuple[Run, Outcome]]:
        """Run a batch handler to the outcomes of its events; `end` is told of those that need no call."""
        return await self.executors.batches.execute(runs, end)

    async def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Commit an outcome."""
        if isinstance(outcome, Dead):
            outcome = msgspec.structs.replace(outcome, worker=self.owner)
        [verdict] = await self.transport.settle([(delivery, outcome)])
        if isinstance(verdict, TransportError):
            raise verdict


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
