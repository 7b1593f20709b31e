"""One slot, from the start of its handler to the outcome on its way: single events, batches, limited handlers.

What runs is noted in the table of started entries for as long as it does. What to do with what a handler comes to is
the broker's business, how it is run the executor's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from streamtask import failpoints
from streamtask.broker import Broker, Run
from streamtask.errors import LeaseLostError
from streamtask.handler import Handler
from streamtask.transport.values import Delivery, Outcome, Release
from streamtask.worker.batching import BatchExecutor
from streamtask.worker.endings import Endings
from streamtask.worker.executor import Executor
from streamtask.worker.lanes import Place
from streamtask.worker.leases import Leases
from streamtask.worker.pacing import Pacing
from streamtask.worker.slots import Running
from streamtask.worker.started import StartedTable
from streamtask.worker.stock import Stock


class Handling:
    """Runs what is in a slot.

    `shared` is called with how many more deliveries (below 0: fewer) share the slot of another. `places` are the
    subscriptions by stream and group, as the table of started entries numbers them; of a batch each event has a row of
    that table, `concurrency` apart.
    """

    def __init__(
        self,
        broker: Broker,
        executor: Executor,
        batches: BatchExecutor,
        endings: Endings,
        *,
        pacing: Pacing,
        leases: Leases,
        stock: Stock,
        shared: Callable[[int], None],
        started: StartedTable | None,
        places: Mapping[Place, int],
        concurrency: int,
    ) -> None:
        self._broker = broker
        self._executor = executor
        self._batches = batches
        self._endings = endings
        self._pacing = pacing
        self._leases = leases
        self._stock = stock
        self._shared = shared
        self._started = started
        self._places = places
        self._concurrency = concurrency

    def of(self, handlers: Collection[Handler]) -> Callable[[Running], Coroutine[Any, Any, None]]:
        """What runs a slot of a worker that has these handlers."""
        is_plain = all(handler.batch is None and handler.rate_limit is None for handler in handlers)
        return self._one if is_plain else self._any

    def _any(self, running: Running) -> Coroutine[Any, Any, None]:
        handler = running.run.handler
        if handler.batch is not None:
            return self._batch(running)
        return (self._one if handler.rate_limit is None else self._limited)(running)

    # ── one event ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _one(self, running: Running) -> None:
        run = running.run
        delivery = run.delivery
        if delivery in self._leases.lost:
            # While it waited for a slot.
            self._endings.lose(run)
            return
        if self._started is not None:
            self._started.mark(running.number, self._places[delivery.stream, delivery.group], delivery.entry_id)
        try:
            begun = running.begun
            outcome = await (self._executor.execute(run) if begun is None else self._executor.go_on(run, begun))
        except LeaseLostError:
            self._endings.lose(run)
        except asyncio.CancelledError as error:
            self._interrupted(running, error)
            if running.cancelled:
                raise
        else:
            if failpoints.armed:
                failpoints.reached("after_effect")
            if running.revoked:
                # Whatever it has come to meanwhile.
                outcome = self._broker.cancel(run)
            self._endings.put(delivery, outcome, run, time.monotonic() - running.since)
        finally:
            if self._started is not None:
                self._started.clear(running.number)

    def _interrupted(self, running: Running, error: asyncio.CancelledError) -> None:
        """A handler ended with its cancellation: its own, its sender's, or the worker's."""
        run, seconds = running.run, time.monotonic() - running.since
        if not running.cancelled:
            # It has cancelled itself: handed back, it would do so again, for ever and uncharged.
            self._endings.put(run.delivery, self._broker.fail(run, error), run, seconds)
        elif running.revoked:
            self._endings.put(run.delivery, self._broker.cancel(run), run, seconds)
        else:
            self._endings.put(run.delivery, Release(charged=running.charged), run)

    async def _limited(self, running: Running) -> None:
        """The same for a handler that may start so often only: its time has come, or it waits for it here."""
        run = running.run
        wait = await self._pacing.turn(run)
        if wait is not None:
            self._endings.put(run.delivery, Release(wait))
            return
        running.since = time.monotonic()
        self._stock.begin(run.delivery)
        try:
            await self._one(running)
        finally:
            self._stock.end(run.delivery)

    # ── a batch ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _batch(self, running: Running) -> None:
        left = self._still_held(running)

        def settle(run: Run, outcome: Outcome) -> None:
            del left[run.delivery]
            self._ends_early(running)
            self._endings.put(run.delivery, outcome, run)

        if not left:
            return
        with self._noted(running, list(left)):
            try:
                ended = await self._batches.execute(list(left.values()), settle)
            except LeaseLostError:
                for run in left.values():
                    self._endings.lose(run)
            except asyncio.CancelledError as error:
                for run in left.values():
                    outcome = Release(charged=running.charged) if running.cancelled else self._broker.fail(run, error)
                    self._endings.put(run.delivery, outcome, run)
                if running.cancelled:
                    raise
            else:
                if failpoints.armed:
                    failpoints.reached("after_effect")
                self._endings.put_together(ended, time.monotonic() - running.since)

    def _still_held(self, running: Running) -> dict[Delivery, Run]:
        """What of a batch was not lost while it waited for a slot."""
        held = {}
        for run in running.runs:
            if self._leases.is_lost(run.delivery):
                self._ends_early(running)
                self._endings.lose(run)
            else:
                held[run.delivery] = run
        return held

    def _ends_early(self, running: Running) -> None:
        """One delivery of a batch has its outcome before the others, whose slot is as busy as before."""
        if running.sharing:
            running.sharing -= 1
            self._shared(-1)

    @contextmanager
    def _noted(self, running: Running, deliveries: Sequence[Delivery]) -> Iterator[None]:
        """These are started, for whoever has to tell after our death."""
        if self._started is None:
            yield
            return
        rows = [running.number + place * self._concurrency for place in range(len(deliveries))]
        for row, delivery in zip(rows, deliveries, strict=True):
            self._started.mark(row, self._places[delivery.stream, delivery.group], delivery.entry_id)
        try:
            yield
        finally:
            for row in rows:
                self._started.clear(row)
