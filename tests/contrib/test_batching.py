"""Many small jobs → one batch, with jobs that do nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from streamtask_contrib.batching import Batcher


class Runs:
    """Notes the batches that it is given; each waits until the test lets it pass."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_run = threading.Semaphore(1_000)

    def hold(self) -> None:
        """Let no batch pass from now on."""
        self.may_run = threading.Semaphore(0)

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        assert self.may_run.acquire(timeout=10)
        return [ValueError("odd") if job < 0 else job * 10 for job in jobs]


@pytest.fixture
def runs() -> Runs:
    return Runs()


@asynccontextmanager
async def batcher(
    runs: Callable[[Sequence[int]], Sequence[int | Exception]], **options: object
) -> AsyncIterator[Batcher[int, int]]:
    made = Batcher(runs, **({"limit": 4, "wait": 0.0} | options))
    try:
        yield made
    finally:
        if isinstance(runs, Runs):
            runs.may_run.release(1_000)
        await made.close()


async def submitted(made: Batcher[int, int], *jobs: int) -> list[asyncio.Task[int]]:
    """Tasks that have submitted their jobs, in this order."""
    tasks = [asyncio.create_task(made.submit(job)) for job in jobs]
    await asyncio.sleep(0)
    return tasks


async def test_what_waits_together_runs_together(runs: Runs):
    async with batcher(runs, wait=5.0) as made:
        tasks = await submitted(made, 1, 2, 3, 4)

        assert await asyncio.gather(*tasks) == [10, 20, 30, 40]
        assert runs.batches == [[1, 2, 3, 4]]


async def test_a_full_batch_does_not_wait_and_a_lonely_job_waits_no_longer_than_it_must(runs: Runs):
    async with batcher(runs, wait=0.01) as made:
        assert await asyncio.wait_for(made.submit(1), 5) == 10


async def test_while_the_thread_is_busy_the_next_batch_fills(runs: Runs):
    async with batcher(runs) as made:
        runs.hold()
        tasks = await submitted(made, 1)
        tasks += await submitted(made, 2, 3, 4, 5, 6)
        assert made.queued == 5
        runs.may_run.release(3)

        assert await asyncio.gather(*tasks) == [10, 20, 30, 40, 50, 60]
        assert runs.batches == [[1], [2, 3, 4, 5], [6]]


async def test_weights_bound_a_batch_and_a_heavy_job_goes_alone_and_in_its_turn(runs: Runs):
    async with batcher(runs, weigh=lambda job: job) as made:
        runs.hold()
        tasks = await submitted(made, 1)
        # Light jobs never overtake the heavy one, although they would fit beside each other.
        tasks += await submitted(made, 2, 9, 1, 1, 1)
        runs.may_run.release(4)

        await asyncio.gather(*tasks)
        assert runs.batches == [[1], [2], [9], [1, 1, 1]]


async def test_a_job_that_is_given_up_while_it_waits_is_not_run(runs: Runs):
    async with batcher(runs) as made:
        runs.hold()
        [running] = await submitted(made, 1)
        given_up, other = await submitted(made, 2, 3)
        given_up.cancel()
        await asyncio.sleep(0)
        assert made.queued == 1
        runs.may_run.release(2)

        assert await other == 30
        assert await running == 10
        assert runs.batches == [[1], [3]]


async def test_a_job_that_is_given_up_while_it_runs_harms_no_other(runs: Runs):
    async with batcher(runs, wait=5.0, limit=2) as made:
        runs.hold()
        first, second = await submitted(made, 1, 2)
        first.cancel()
        await asyncio.sleep(0)
        runs.may_run.release(1)

        assert await second == 20


async def test_an_error_of_one_job_is_its_own(runs: Runs):
    async with batcher(runs, wait=5.0, limit=2) as made:
        bad, good = await submitted(made, -1, 2)

        assert await good == 20
        with pytest.raises(ValueError, match="odd"):
            await bad


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda jobs: jobs[9], IndexError),
        (lambda jobs: [1], RuntimeError),
        (lambda jobs: next(iter(())), StopIteration),
    ],
    ids=["raises", "too few results", "raises what a future cannot hold"],
)
async def test_an_error_of_the_batch_is_told_to_each(answer: Callable[..., list[int]], error: type[Exception]):
    async with batcher(answer, wait=5.0, limit=2) as made:
        for result in await asyncio.gather(*await submitted(made, 1, 2), return_exceptions=True):
            assert isinstance(result, RuntimeError if error is StopIteration else error)


async def test_several_threads_run_several_batches(runs: Runs):
    async with batcher(runs, limit=1, threads=2) as made:
        runs.hold()
        tasks = await submitted(made, 1, 2, 3)
        assert made.queued == 1
        runs.may_run.release(3)

        assert await asyncio.gather(*tasks) == [10, 20, 30]


async def test_closing_runs_what_waits_and_takes_nothing_new(runs: Runs):
    async with batcher(runs, wait=60.0) as made:
        [waiting] = await submitted(made, 1)
        await asyncio.wait_for(made.close(), 5)

        assert waiting.result() == 10
        with pytest.raises(RuntimeError, match="closed"):
            await made.submit(2)


async def test_a_limit_of_nothing_is_refused(runs: Runs):
    with pytest.raises(ValueError, match="at least 1"):
        Batcher(runs, limit=0, wait=0.0)
