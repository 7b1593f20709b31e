"""Many small jobs → one batch: what waits at the same time is run together, first come, first served.

A batch leaves as soon as a thread is free and it is full, or its first job has waited long enough. While every thread
is busy the next batch fills up by itself, so that the wait costs nothing under load. This module knows nothing of what
a job is; it never orders jobs anew, so that no light job overtakes a heavy one for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[J, R]):
    """A job that has been submitted, and who waits for its result."""

    job: J
    weight: int
    since: float
    result: asyncio.Future[R]


class Batcher(Generic[J, R]):
    """Runs jobs in batches, in threads of its own. Made and used within one event loop.

    `run` is called in a thread with the jobs of one batch and answers a result, or an error, for each. The weights of a
    batch sum to at most `limit`; a single heavier job goes alone. `wait`: seconds that a job waits for others.
    """

    def __init__(
        self,
        run: Callable[[Sequence[J]], Sequence[R | Exception]],
        *,
        weigh: Callable[[J], int] = lambda _: 1,
        limit: int,
        wait: float,
        threads: int = 1,
    ) -> None:
        if limit < 1 or threads < 1 or wait < 0:
            raise ValueError(f"limit and threads are at least 1, wait at least 0; got {limit}, {threads}, {wait}")
        self._run = run
        self._weigh = weigh
        self._limit = limit
        self._wait = wait
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="streamtask-batch")
        self._free = threads
        self._queue: deque[_Waiting[J, R]] = deque()
        self._weight = 0
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Future[Sequence[R | Exception]]] = set()
        self._closed = False

    @property
    def queued(self) -> int:
        """Jobs that wait to be run."""
        return len(self._queue)

    async def submit(self, job: J) -> R:
        """Have a job run with others; its result.

        Who is cancelled while the job waits takes it back. Raises what `run` answered for this job, or raised.
        """
        if self._closed:
            raise RuntimeError("the batcher is closed")
        loop = asyncio.get_running_loop()
        waiting: _Waiting[J, R] = _Waiting(job, self._weigh(job), loop.time(), loop.create_future())
        self._queue.append(waiting)
        self._weight += waiting.weight
        self._start()
        try:
            return await waiting.result
        finally:
            if waiting in self._queue:
                self._queue.remove(waiting)
                self._weight -= waiting.weight

    async def close(self) -> None:
        """Take no more jobs, run those that wait, and end the threads."""
        self._closed = True
        self._start()
        while self._running:
            await asyncio.wait(self._running)
        self._pool.shutdown(wait=False)

    def _start(self) -> None:
        """Start each batch that may leave now; else look again when the first job has waited long enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._queue and self._free:
            patience = self._queue[0].since + self._wait - loop.time()
            if self._weight < self._limit and patience > 0 and not self._closed:
                self._timer = loop.call_later(patience, self._start)
                return
            self._send(self._take(), loop)

    def _take(self) -> list[_Waiting[J, R]]:
        """The jobs of the next batch: from the front, as many as fit, at least one."""
        batch = [self._queue.popleft()]
        weight = batch[0].weight
        while self._queue and weight + self._queue[0].weight <= self._limit:
            weight += self._queue[0].weight
            batch.append(self._queue.popleft())
        self._weight -= weight
        return batch

    def _send(self, batch: list[_Waiting[J, R]], loop: asyncio.AbstractEventLoop) -> None:
        self._free -= 1
        running = loop.run_in_executor(self._pool, self._results, [waiting.job for waiting in batch])
        self._running.add(running)
        running.add_done_callback(lambda done: self._settle(batch, done))

    def _results(self, jobs: Sequence[J]) -> Sequence[R | Exception]:
        """In a thread: what came of each job. An error of the batch is an error of each job in it."""
        try:
            results = self._run(jobs)
        except StopIteration as error:
            # The one error that a future does not take.
            return [RuntimeError(repr(error))] * len(jobs)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait have to learn of it
            return [error] * len(jobs)
        if len(results) != len(jobs):
            return [RuntimeError(f"{len(results)} results for {len(jobs)} jobs")] * len(jobs)
        return results

    def _settle(self, batch: list[_Waiting[J, R]], running: asyncio.Future[Sequence[R | Exception]]) -> None:
        """Hand the results of a batch out, and start the next one."""
        self._free += 1
        self._running.discard(running)
        for waiting, result in zip(batch, running.result(), strict=True):
            if waiting.result.done():
                continue
            if isinstance(result, Exception):
                waiting.result.set_exception(result)
            else:
                waiting.result.set_result(result)
        self._start()
