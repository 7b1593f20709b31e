"""Batch handlers on the in-memory engine: what comes together, what becomes of each, and whose fault it is."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest

from streamtask import (
    App,
    Batch,
    BatchContext,
    BatchError,
    ConfigurationError,
    ConsumeNext,
    Context,
    Depends,
    Event,
    Middleware,
    Reject,
    Retry,
    RetryLater,
    Router,
    SoftTimeoutError,
    Timeout,
)
from streamtask.errors import HandlerTimeoutError
from streamtask.transport.values import DeadLetter, Outgoing
from tests.chaos.workers import until

NOW = Retry(3, backoff=0.0)


class Job(Event, stream="jobs"):
    n: int


class Single(Event, stream="jobs"):
    n: int


class Order(Event, stream="orders", key="id"):
    id: str
    n: int


class Urgent(Event, stream="urgent", priorities=("high", "low")):
    n: int


class Made(Event, stream="made"):
    numbers: list[int]


def of_event(job: Job) -> int:
    return job.n


def of_context(ctx: Context) -> int:
    return ctx.attempt


def beside(given: Annotated[int, Depends(of_context)]) -> int:
    return given


async def session(app: App) -> AsyncIterator[list[str]]:
    opened = [app.name]
    yield opened
    opened.append("closed")


class Calls:
    """An app with one batch handler, which notes what it is called with and then does as it is told."""

    def __init__(self, then: Callable[[list[Any], BatchContext], Any] = lambda jobs, ctx: None, **options: Any) -> None:
        self.app = App("batches", broker="memory://")
        self.lists: list[list[int]] = []
        self.attempts: list[list[int]] = []
        options = {"batch": Batch(10, wait=0.05), "retry": NOW, **options}

        @self.app.on(*options.pop("events", (Job,)), **options)
        async def handle(jobs: list[Any], ctx: BatchContext) -> Any:
            self.lists.append([job.n for job in jobs])
            self.attempts.append(list(ctx.attempts))
            returned = then(jobs, ctx)
            return await returned if asyncio.iscoroutine(returned) else returned

    async def run(self, *events: Event, **settings: Any) -> None:
        """Publish, and work until all is handled."""
        async with self.app.worker(**settings) as worker:
            await self.app.publish_many(events)
            await asyncio.wait_for(worker.burst_done(), 10)

    async def made(self) -> list[list[int]]:
        return [json.loads(self.app.broker.decode(each).payload_bytes)["numbers"] for each in await read(self.app)]

    async def letters(self, stream: str = "jobs") -> list[DeadLetter]:
        async with self.app as app:
            assert app.transport.dead_letters is not None
            return await app.transport.dead_letters.page(stream, after="", limit=1000)


async def read(app: App, stream: str = "made") -> list[Any]:
    async with app:
        return await app.transport.read(stream, after="0", count=1000, wait=0)


def jobs(n: int) -> list[Job]:
    return [Job(n=number) for number in range(n)]


# ── what comes together ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_batch_runs_as_soon_as_it_has_its_size() -> None:
    calls = Calls(batch=Batch(10, wait=3600))

    await calls.run(*jobs(30))

    assert calls.lists == [list(range(first, first + 10)) for first in (0, 10, 20)]


async def test_a_batch_that_is_not_full_runs_some_time_after_its_first_event() -> None:
    calls = Calls(batch=Batch(10, wait=0.3))
    began = time.monotonic()

    await calls.run(*jobs(13))

    assert calls.lists == [list(range(10)), [10, 11, 12]]
    assert time.monotonic() - began >= 0.3


async def test_what_comes_within_the_wait_joins_the_batch() -> None:
    calls = Calls(batch=Batch(10, wait=1.0))
    async with calls.app.worker(concurrency=1) as worker:
        for job in jobs(3):
            await calls.app.publish(job)
            await until(lambda: worker._flow.taken == job.n + 1, 5)  # noqa: B023 - waited for at once
        await until(lambda: calls.lists, 5)

    assert calls.lists == [[0, 1, 2]]


async def test_without_a_wait_a_batch_is_what_is_there() -> None:
    calls = Calls(batch=Batch(10, wait=0))

    async with calls.app:
        await calls.app.publish_many(jobs(4))
        await calls.run()

    assert calls.lists == [[0, 1, 2, 3]]


async def test_gathering_for_longer_than_a_slot_is_waited_for_hands_nothing_back() -> None:
    calls = Calls(batch=Batch(10, wait=1.5))

    await calls.run(*jobs(3))

    assert calls.lists == [[0, 1, 2]]
    assert outcomes(calls.app) == {"done": 3}


async def test_a_batch_takes_one_slot_and_no_more_wait_than_the_free_slots_take() -> None:
    gate = asyncio.Event()

    async def then(*_: Any) -> None:
        await gate.wait()

    calls = Calls(then)
    async with calls.app.worker(concurrency=2) as worker:
        await calls.app.publish_many(jobs(100))
        await until(lambda: len(calls.lists) == 2, 5)
        await asyncio.sleep(0.2)
        [stats] = await calls.app.transport.stats("jobs", "batches")
        gate.set()
        await asyncio.wait_for(worker.burst_done(), 10)

    assert stats.pending == 20
    assert sorted(n for numbers in calls.lists for n in numbers) == list(range(100))


async def test_at_most_so_many_batches_run_at_once() -> None:
    most = running = 0

    async def then(*_: Any) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1

    calls = Calls(then, concurrency=2)
    await calls.run(*jobs(100))

    assert most == 2
    assert Counter(map(len, calls.lists)) == {10: 10}


async def test_single_events_of_the_same_stream_are_handled_beside_the_batches() -> None:
    calls = Calls(batch=Batch(10, wait=3600))
    singles = []

    @calls.app.on(Single)
    async def single(event: Single) -> None:
        singles.append(event.n)

    mixed = [event for n in range(40) for event in (Job(n=n), Single(n=n))]
    await calls.run(*mixed, concurrency=3)

    assert calls.lists == [list(range(first, first + 10)) for first in range(0, 40, 10)]
    assert singles == list(range(40))


async def test_a_batch_holds_events_of_several_types_and_of_one_stream() -> None:
    calls = Calls(events=(Job, Single, Order), dedupe=False)

    await calls.run(Job(n=1), Order(id="a", n=2), Single(n=3), Order(id="b", n=4))

    assert sorted(calls.lists) == [[1, 3], [2, 4]]


async def test_what_was_gathered_goes_back_uncharged_when_the_worker_stops() -> None:
    calls = Calls(batch=Batch(10, wait=3600))
    async with calls.app:
        async with calls.app.worker() as worker:
            await calls.app.publish_many(jobs(3))
            await until(lambda: worker._flow.taken == 3, 5)
            await asyncio.sleep(0.05)
        assert calls.lists == []
        async with calls.app.worker():
            await calls.app.publish_many([Job(n=n) for n in range(3, 10)])
            await until(lambda: calls.lists, 5)

    assert sorted(calls.lists[0]) == list(range(10))
    assert set(calls.attempts[0]) == {1}


# ── what becomes of each ──────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_batch_returns_and_emits_is_published_once() -> None:
    def then(jobs: list[Job], ctx: BatchContext) -> list[Made]:
        ctx.emit(Made(numbers=[len(ctx.envelopes)]))
        return [Made(numbers=[job.n for job in jobs])]

    calls = Calls(then)
    await calls.run(*jobs(10))

    assert await calls.made() == [list(range(10)), [10]]
    cause = (await read(calls.app, "jobs"))[0]
    first, second = [calls.app.broker.decode(entry) for entry in await read(calls.app)]
    assert first.causation_id == second.causation_id == calls.app.broker.decode(cause).event_id
    assert first.event_id != second.event_id


async def test_what_a_batch_emits_with_a_priority_is_in_the_lane_of_it() -> None:
    refused: list[Exception] = []

    def then(_: list[Job], ctx: BatchContext) -> None:
        ctx.emit(Urgent(n=1), priority="high")
        ctx.emit(Urgent(n=2))
        try:
            ctx.emit(Made(numbers=[]), priority="high")
        except ConfigurationError as error:
            refused.append(error)

    calls = Calls(then)
    await calls.run(*jobs(10))

    lanes = {lane: await read(calls.app, lane) for lane in ("urgent@high", "urgent", "urgent@low", "made")}
    assert {lane: len(entries) for lane, entries in lanes.items()} == {
        "urgent@high": 1, "urgent": 1, "urgent@low": 0, "made": 0,
    }  # fmt: skip
    assert "has no priority 'high'" in str(refused)


async def test_of_a_batch_only_what_failed_is_run_again_and_the_good_ones_are_done() -> None:
    def then(jobs: list[Job], ctx: BatchContext) -> None:
        ctx.emit(Made(numbers=[job.n for job in jobs if job.n != 4]))
        failed = {place: OSError("four") for place, job in enumerate(jobs) if job.n == 4}
        if failed:
            raise BatchError(failed)

    calls = Calls(then)
    await calls.run(*jobs(10))

    assert calls.lists == [list(range(10)), [4], [4]]
    assert calls.attempts == [[1] * 10, [2], [3]]
    assert await calls.made() == [[0, 1, 2, 3, 5, 6, 7, 8, 9]]
    assert [(letter.reason, letter.attempts) for letter in await calls.letters()] == [("max_attempts", 3)]


async def test_each_error_of_a_batch_means_what_it_means_alone() -> None:
    def then(jobs: list[Job], ctx: BatchContext) -> None:
        errors = {0: Reject("no"), 1: RetryLater(delay=0), 2: KeyError("never again")}
        if ctx.attempts == [1] * 4 and len(jobs) == 4:
            raise BatchError(errors)

    calls = Calls(then, retry=Retry(3, backoff=0.0, give_up_on=KeyError))
    await calls.run(*jobs(4))

    assert calls.lists == [[0, 1, 2, 3], [1]]
    assert calls.attempts[1] == [1]
    assert sorted(letter.reason for letter in await calls.letters()) == ["not_retryable", "rejected"]


@pytest.mark.parametrize("errors", [{}, {-1: OSError()}, {"0": OSError()}, {0: "error"}, {True: OSError()}])
def test_a_batch_error_names_errors_by_their_places(errors: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match="by the place"):
        BatchError(errors)


async def test_a_batch_error_that_names_no_event_of_the_list_fails_all() -> None:
    def then(jobs: list[Job], ctx: BatchContext) -> None:
        if len(calls.lists) == 1:
            raise BatchError({0: OSError(), 99: OSError()})

    calls = Calls(then)
    await calls.run(*jobs(3))

    assert [sorted(numbers) for numbers in calls.lists] == [[0, 1, 2], [0, 1, 2]]
    assert calls.attempts[1] == [2, 2, 2]


@pytest.mark.parametrize("attempts", [2, 4])
async def test_an_event_that_fails_every_batch_is_given_up_alone_and_its_neighbours_are_done(attempts: int) -> None:
    def then(jobs: list[Job], ctx: BatchContext) -> None:
        if any(job.n == 4 for job in jobs):
            raise OSError("four")

    calls = Calls(then, retry=Retry(attempts, backoff=0.0))
    await calls.run(*jobs(10))

    [letter] = await calls.letters()
    assert json.loads(letter.fields[1])["payload"] == {"n": 4}
    assert letter.attempts == attempts
    ends = [numbers for numbers, tries in zip(calls.lists, calls.attempts, strict=True) if max(tries) > 2]
    assert all(len(numbers) == 1 for numbers in ends)
    assert {n for numbers in calls.lists for n in numbers if 4 not in numbers} == {0, 1, 2, 3, 5, 6, 7, 8, 9}


async def test_an_error_that_is_final_gives_no_neighbour_up() -> None:
    def then(jobs: list[Job], ctx: BatchContext) -> Made:
        if any(job.n == 4 for job in jobs):
            raise KeyError("four")
        # What cannot be published is final, too.
        return Made.model_construct(numbers=["x"] if any(job.n == 5 for job in jobs) else [jobs[0].n])

    calls = Calls(then, retry=Retry(5, backoff=0.0, give_up_on=KeyError))
    await calls.run(*jobs(10))

    assert sorted(letter.reason for letter in await calls.letters()) == ["emit_refused", "not_retryable"]
    assert sorted(number for [number] in await calls.made()) == [0, 1, 2, 3, 6, 7, 8, 9]


async def test_a_rejected_batch_is_given_up_whole_and_one_that_asks_for_time_is_not_charged() -> None:
    def then(jobs: list[Job], ctx: BatchContext) -> None:
        if len(calls.lists) == 1:
            raise RetryLater(delay=0)
        raise Reject("all of it")

    calls = Calls(then)
    await calls.run(*jobs(3))

    assert calls.attempts == [[1, 1, 1], [1, 1, 1]]
    assert [letter.reason for letter in await calls.letters()] == ["rejected"] * 3


async def test_an_event_that_cannot_be_read_is_given_up_alone() -> None:
    calls = Calls()
    async with calls.app as app:
        item = app.broker.outgoing(Job(n=1), "e-1", "t" * 32)
        broken = Outgoing(stream="jobs", body=item.body.replace(b'"n":1', b'"n":"x"'), event_id="e-1")
        await app.transport.publish([broken, Outgoing(stream="jobs", body=b"{", event_id="e-2")])
        await calls.run(*jobs(3))

    assert calls.lists == [[0, 1, 2]]
    assert sorted(letter.reason for letter in await calls.letters()) == ["undecodable", "validation_error"]


async def test_duplicates_are_taken_out_before_the_call() -> None:
    def then(orders: list[Order], ctx: BatchContext) -> Made:
        return Made(numbers=[order.n for order in orders])

    calls = Calls(then, events=(Order,))
    await calls.run(Order(id="a", n=1), Order(id="b", n=2), Order(id="a", n=3))
    await calls.run(Order(id="c", n=4), Order(id="b", n=5))

    assert calls.lists == await calls.made() == [[1, 2], [4]]
    assert outcomes(calls.app)["deduplicated"] == 2


async def test_a_batch_of_which_most_are_duplicates_takes_its_slot_as_any_other() -> None:
    gate = asyncio.Event()

    async def then(orders: list[Order], ctx: BatchContext) -> None:
        if orders[0].n == 100:
            await gate.wait()

    calls = Calls(then, events=(Order,))
    await calls.run(*(Order(id=f"{n}", n=n) for n in range(9)))
    async with calls.app.worker(concurrency=1) as worker:
        await calls.app.publish_many([*(Order(id=f"{n}", n=n) for n in range(9)), Order(id="new", n=100)])
        await until(lambda: [100] in calls.lists, 5)
        await calls.app.publish_many([Order(id=f"more-{n}", n=n) for n in range(200)])
        await asyncio.sleep(0.2)
        [stats] = await calls.app.transport.stats("orders", "batches")
        gate.set()
        await asyncio.wait_for(worker.burst_done(), 10)
        assert worker._flow.held == 0

    # The one that runs, and a batch ahead of it.
    assert stats.pending <= 11


async def test_a_duplicate_in_one_batch_is_handled_where_the_first_one_is_given_up() -> None:
    def then(orders: list[Order], ctx: BatchContext) -> None:
        if orders[0].n == 1:
            raise BatchError({0: Reject("the first")})

    calls = Calls(then, events=(Order,))
    await calls.run(Order(id="a", n=1), Order(id="b", n=2), Order(id="a", n=3))

    assert calls.lists == [[1, 2], [3]]
    assert calls.attempts[1] == [1]


async def test_a_handler_in_a_thread_takes_a_list() -> None:
    app, lists = App("batches", broker="memory://"), []

    @app.on(batch=Batch(5, wait=0.05), timeout=5)
    def handle(events: list[Job | Single]) -> Made:
        lists.append([type(event).__name__ for event in events])
        return Made(numbers=[event.n for event in events])

    async with app.worker() as worker:
        await app.publish_many([Job(n=1), Single(n=2)])
        await asyncio.wait_for(worker.burst_done(), 5)

    assert lists == [["Job", "Single"]]
    assert len(await read(app)) == 1


async def test_a_batch_that_runs_too_long_fails_whole_and_is_told_before() -> None:
    soft = []

    async def then(jobs: list[Job], ctx: BatchContext) -> None:
        try:
            await asyncio.sleep(30)
        except SoftTimeoutError:
            soft.append(len(jobs))
            await asyncio.sleep(30)

    calls = Calls(then, retry=Retry(1), timeout=Timeout(soft=0.05, hard=0.1))
    await calls.run(*jobs(3))

    assert soft == [3]
    errors = {letter.error for letter in await calls.letters()}
    assert errors == {f"HandlerTimeoutError: {HandlerTimeoutError(0.1)}"}


async def test_a_batch_that_cancels_itself_has_failed() -> None:
    async def then(jobs: list[Job], ctx: BatchContext) -> None:
        if len(calls.lists) == 1:
            raise asyncio.CancelledError
        if len(calls.lists) == 2:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(30)

    calls = Calls(then, retry=Retry(5, backoff=0.0))
    await calls.run(*jobs(3))

    assert [sorted(tries) for tries in calls.attempts] == [[1] * 3, [2] * 3, [3], [3], [3]]


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────


def refused(function: Callable[..., Any], *events: type[Event], **options: Any) -> str:
    with pytest.raises(ConfigurationError) as error:
        App("batches", broker="memory://").on(*events, **options)(function)
    assert f"{function.__module__}.{function.__qualname__}" in str(error.value)
    return str(error.value)


def test_what_does_not_go_with_batches_is_refused_by_the_name_of_the_function() -> None:
    async def one(job: Job) -> None: ...
    async def many(jobs: list[Job]) -> None: ...
    async def wrong_context(jobs: list[Job], ctx: Context) -> None: ...
    async def no_batch(job: Job, ctx: BatchContext) -> None: ...
    async def numbers(jobs: list[int]) -> None: ...

    batch = Batch(10, wait=1)
    assert "takes a list of events" in refused(one, batch=batch)
    assert "takes a list of events" in refused(one, Job, batch=batch)
    assert "batch=Batch(size, wait)" in refused(many)
    assert "batch=Batch(size, wait)" in refused(many, Job)
    assert "takes a BatchContext" in refused(wrong_context, batch=batch)
    assert "takes a Context" in refused(no_batch)
    assert "which events" in refused(numbers, batch=batch)
    assert "batch is a Batch(size, wait)" in refused(many, batch=10)


def test_what_is_for_one_event_is_refused_around_several() -> None:
    class Around(Middleware):
        async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:
            return await call_next(event)

    async def plain(jobs: list[Job]) -> None: ...
    async def needs_event(jobs: list[Job], n: Annotated[int, Depends(of_event)]) -> None: ...
    async def needs_context(jobs: list[Job], n: Annotated[int, Depends(beside)]) -> None: ...

    batch = Batch(10, wait=1)
    assert "rate_limit counts" in refused(plain, batch=batch, rate_limit="1/s")
    assert "given the event" in refused(needs_event, batch=batch)
    assert "given the event" in refused(needs_context, batch=batch)
    router = Router(middleware=[Around()])
    router.on(batch=batch)(plain)
    with pytest.raises(ConfigurationError, match="plain: middleware with `consume` is around one event"):
        App("batches", broker="memory://").include(router)
    with pytest.raises(ConfigurationError, match="plain: middleware with `consume` is around one event"):
        App("batches", broker="memory://", middleware=[Around()]).on(batch=batch)(plain)
    App("batches", broker="memory://", middleware=[Middleware()]).on(batch=batch)(plain)


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_batch_handler_is_given_what_it_depends_on_once_for_the_call(kind: str) -> None:
    app, given = App("batches", broker="memory://"), []

    async def awaited(jobs: list[Job], db: Annotated[list[str], Depends(session)], ctx: BatchContext) -> None:
        given.append((len(jobs), db, len(ctx.envelopes)))

    def blocking(jobs: list[Job], db: Annotated[list[str], Depends(session)], ctx: BatchContext) -> None:
        given.append((len(jobs), db, len(ctx.envelopes)))

    app.on(batch=Batch(10, wait=0.05))(awaited if kind == "async" else blocking)
    async with app.worker() as worker:
        await app.publish_many(jobs(3))
        await asyncio.wait_for(worker.burst_done(), 5)

    assert given == [(3, ["batches", "closed"], 3)]


@pytest.mark.parametrize(("size", "wait"), [(0, 1), (1001, 1), (True, 1), (2.5, 1), (10, -1), (10, float("inf"))])
def test_a_batch_has_a_size_and_a_wait(size: Any, wait: float) -> None:
    with pytest.raises(ValueError, match=r"(size|wait) is"):
        Batch(size, wait)


def outcomes(app: App) -> Counter[str]:
    """How many deliveries were settled, by what they were settled as."""
    counts: Counter[str] = Counter()
    for (*_, outcome), count in app.metrics.snapshot()["streamtask_events_total"].items():
        counts[outcome] += int(count)
    return counts
