"""Handlers that are called without a slot come to the same as those that have one; and which are called so."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from streamtask import App, Batch, ConsumeNext, Context, Event, Middleware, Reject, Retry, RetryLater
from streamtask.handler import Handler, make_handler
from streamtask.inspector import DeadLetterFilter, Inspector
from streamtask.worker.inline import Inline
from tests.chaos.workers import until


class Case(Event, stream="cases"):
    n: int
    kind: str


class Told(Event, stream="told"):
    n: int


class Keyed(Event, stream="keyed", key="n"):
    n: int


class PassedOn(Middleware):
    """Does nothing, and is around all handlers: they need a slot."""

    async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:
        return await call_next(event)


LOGGER = "streamtask.handler"
variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


async def nothing(case: Case, ctx: Context) -> None:
    """Returns None."""


async def one(case: Case, ctx: Context) -> Told:
    return Told(n=case.n)


async def several(case: Case, ctx: Context) -> list[Told]:
    ctx.emit(Told(n=case.n + 2))
    return [Told(n=case.n), Told(n=case.n + 1)]


async def none_of_several(case: Case, ctx: Context) -> list[Told]:
    return []


async def emits(case: Case, ctx: Context) -> None:
    ctx.emit(Told(n=case.n))


async def emits_and_fails(case: Case, ctx: Context) -> None:
    ctx.emit(Told(n=case.n))
    raise ValueError("after all")


async def waits(case: Case, ctx: Context) -> Told:
    await asyncio.sleep(0.001)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
    return Told(n=case.n)


async def waits_and_fails(case: Case, ctx: Context) -> None:
    await asyncio.sleep(0.001)
    raise LookupError("waited for nothing")


async def is_too_late(case: Case, ctx: Context) -> None:
    async with asyncio.timeout(0.001):
        await asyncio.sleep(60)


async def fails(case: Case, ctx: Context) -> None:
    raise ValueError("no")


async def rejects(case: Case, ctx: Context) -> None:
    raise Reject("never")


async def later(case: Case, ctx: Context) -> Told:
    if ctx.attempt == 1 and not noted[case.n]:
        noted[case.n] = 1
        raise RetryLater(delay=0.01)
    return Told(n=case.n)


async def at_the_second_try(case: Case, ctx: Context) -> Told:
    if ctx.attempt == 1:
        raise OSError("away")
    return Told(n=case.n)


async def returns_no_event(case: Case, ctx: Context) -> Any:
    return 17


async def exits(case: Case, ctx: Context) -> None:
    raise SystemExit(3)


async def raises_a_cancellation(case: Case, ctx: Context) -> None:
    raise asyncio.CancelledError


async def cancels_itself_and_returns(case: Case, ctx: Context) -> Told:
    _own_task().cancel()
    return Told(n=case.n)


async def cancels_itself_and_raises(case: Case, ctx: Context) -> None:
    _own_task().cancel()
    raise ValueError("cancelled")


async def cancels_itself_and_waits(case: Case, ctx: Context) -> None:
    _own_task().cancel()
    await asyncio.sleep(60)


async def lets_a_cancellation_through(case: Case, ctx: Context) -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


async def sets_a_variable(case: Case, ctx: Context) -> Told:
    was = variable.get()
    variable.set(1)
    return Told(n=was)


async def sets_a_variable_and_waits(case: Case, ctx: Context) -> Told:
    was = variable.get()
    variable.set(1)
    await asyncio.sleep(0)
    return Told(n=was + variable.get())


async def logs(case: Case, ctx: Context) -> None:
    ctx.log.info("begins")
    await asyncio.sleep(0)
    ctx.log.info("ends")


#: What each comes to: how often it is settled as what.
KINDS: dict[Callable[[Case, Context], Awaitable[Any]], dict[str, int]] = {
    nothing: {"done": 3},
    one: {"done": 3},
    several: {"done": 3},
    none_of_several: {"done": 3},
    emits: {"done": 3},
    emits_and_fails: {"retry": 3, "dead": 3},
    waits: {"done": 3},
    waits_and_fails: {"retry": 3, "dead": 3},
    is_too_late: {"retry": 3, "dead": 3},
    fails: {"retry": 3, "dead": 3},
    rejects: {"rejected": 3},
    later: {"retry_later": 3, "done": 3},
    at_the_second_try: {"retry": 3, "done": 3},
    returns_no_event: {"dead": 3},
    exits: {"retry": 3, "dead": 3},
    raises_a_cancellation: {"retry": 3, "dead": 3},
    cancels_itself_and_returns: {"done": 3},
    cancels_itself_and_raises: {"retry": 3, "dead": 3},
    cancels_itself_and_waits: {"retry": 3, "dead": 3},
    lets_a_cancellation_through: {"retry": 3, "dead": 3},
    sets_a_variable: {"done": 3},
    sets_a_variable_and_waits: {"done": 3},
    logs: {"done": 3},
}
WAITING = {
    waits,
    waits_and_fails,
    is_too_late,
    cancels_itself_and_waits,
    lets_a_cancellation_through,
    sets_a_variable_and_waits,
    logs,
}
noted: Counter[int] = Counter()


def _own_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def what_becomes_of(
    kind: Callable[[Case, Context], Awaitable[Any]], caplog: pytest.LogCaptureFixture, *middleware: Middleware
) -> dict[str, Any]:
    """Three events for a handler, with middleware or without: outcomes, dead letters, what it emits, its lines."""
    noted.clear()
    caplog.clear()
    app = App("inline", broker="memory://", middleware=middleware)

    @app.on(Case, retry=Retry(2, backoff=0.01))
    async def handle(case: Case, ctx: Context) -> Any:
        return await kind(case, ctx)

    async with app:
        for n in range(3):
            await app.publish(Case(n=n, kind=kind.__name__), event_id=f"case-{n}")
        wanted = sum(KINDS[kind].values())
        async with app.worker():
            await until(lambda: app.metrics.total("streamtask_events_total", stream="cases") >= wanted, 10)
            await asyncio.sleep(0)
        emitted = await app.transport.read("told", after="0", count=100, wait=0)
        told = [app.broker.decode(delivery) for delivery in emitted]
        letters = (await Inspector(app).dead(DeadLetterFilter(stream="cases"), limit=10)).rows
        counts = app.metrics.snapshot()["streamtask_events_total"]
    return {
        "outcomes": {labels[3]: n for labels, n in counts.items() if labels[0] == "cases"},
        "dead": sorted((each.event_id, each.reason, each.error, each.attempts) for each in letters),
        "users": {kind.__name__ in each.traceback for each in letters} if letters else set(),
        "told": sorted((each.event_id, each.payload["n"], each.causation_id) for each in told),
        "lines": [(line.message, getattr(line, "event_id", "")) for line in caplog.records if line.name == LOGGER],
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_what_a_handler_comes_to_is_the_same_with_a_slot_and_without(
    kind: Callable[[Case, Context], Awaitable[Any]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    called: list[int] = []
    outcome = Inline._outcome

    def counted(self: Inline, *args: Any) -> Any:
        called.append(1)
        return outcome(self, *args)

    monkeypatch.setattr(Inline, "_outcome", counted)
    in_slots = await what_becomes_of(kind, caplog, PassedOn())
    assert not called
    inline = await what_becomes_of(kind, caplog)

    # The first delivery of each, and no other; once it has waited, it has a slot from its beginning.
    assert len(called) == (1 if kind in WAITING else 3)
    assert inline["outcomes"] == KINDS[kind]
    assert inline == in_slots


async def test_a_handler_has_a_slot_from_its_beginning_as_long_as_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App("inline", broker="memory://")
    waiting = {3, 4, 5, 8}
    inline: list[int] = []
    outcome = Inline._outcome

    def seen(self: Inline, run: Any, began: float) -> Any:
        inline.append(run.envelope.payload["n"])
        return outcome(self, run, began)

    @app.on(Case)
    async def handle(case: Case) -> None:
        if case.n in waiting:
            await asyncio.sleep(0)

    monkeypatch.setattr(Inline, "_outcome", seen)
    async with app, app.worker(concurrency=1):
        for n in range(11):
            await app.publish(Case(n=n, kind=""))
            await until(lambda n=n: app.metrics.total("streamtask_events_total") == n + 1, 10)
    assert inline == [0, 1, 2, 3, 7, 8, 10]


async def test_a_handler_that_blocks_the_loop_without_a_slot_is_seen_by_other_threads() -> None:
    app = App("inline", broker="memory://")
    seen: list[float] = []

    @app.on(Case)
    async def handle(_: Case) -> None:
        looking = threading.Thread(target=lambda: seen.append(app.metrics.total("streamtask_in_flight")))
        looking.start()
        looking.join()

    async with app:
        await app.publish(Case(n=1, kind=""))
        async with app.worker():
            await until(lambda: app.metrics.total("streamtask_events_total") == 1, 10)
        assert seen == [1.0]


async def test_one_that_never_waits_leaves_the_loop_to_others_every_few_milliseconds() -> None:
    app = App("inline", broker="memory://")
    longest, ended = 0.0, 0

    @app.on(Case)
    async def handle(_: Case) -> None:
        nonlocal ended
        ended += 1
        time.sleep(0.0005)  # noqa: ASYNC251 - works without waiting, as parsing does

    async def turns() -> None:
        nonlocal longest
        while ended < 300:
            began = ended
            await asyncio.sleep(0)
            longest = max(longest, ended - began)

    async with app:
        await app.publish_many([Case(n=n, kind="") for n in range(300)])
        async with app.worker(concurrency=300):
            await turns()
    assert 0 < longest < 50


def handler(function: Callable[..., Any], event: type[Event] = Case, **options: Any) -> Handler:
    return make_handler(function, (event,), **options)


def test_what_has_anything_around_it_needs_a_slot() -> None:
    async def plain(event: Case) -> None: ...

    async def with_context(event: Case, ctx: Context) -> None: ...

    async def keyed(event: Keyed) -> None: ...

    async def many(events: list[Case]) -> None: ...

    def blocking(event: Case) -> None: ...

    assert handler(plain).is_inline
    assert handler(with_context).is_inline
    assert handler(keyed, Keyed, dedupe=False).is_inline
    assert not handler(keyed, Keyed).is_inline
    assert not handler(plain, dedupe="n").is_inline
    assert not handler(plain, timeout=1).is_inline
    assert not handler(plain, concurrency=1).is_inline
    assert not handler(plain, rate_limit="1/s").is_inline
    assert not handler(many, batch=Batch(2, 0.1)).is_inline
    assert not handler(blocking).is_inline
    assert not handler(plain).within([PassedOn()]).is_inline
    assert not handler(plain, dump=lambda _: b"").is_inline
