"""Fault mode: each trial finds a handler that is not safe in its way, and passes one that is."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest

from streamtask import (
    App,
    Backoff,
    Batch,
    BatchContext,
    ConfigurationError,
    ConsumeNext,
    Context,
    Depends,
    Event,
    Middleware,
    Reject,
    Retry,
)
from streamtask.testing import DeadLettersError
from streamtask.testing.faults import Faults, Recorder, Report, check


class Placed(Event, stream="f-orders", key="order_id"):
    order_id: str


class Seen(Event, stream="f-seen"):
    """Without a key."""

    order_id: str


class Shipped(Event, stream="f-shipping"):
    order_id: str


class Bank:
    """The outside."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    async def charge(self, order_id: str, *, idempotency_key: str | None = None) -> None:
        await asyncio.sleep(0)

    def charge_blocking(self, order_id: str, *, idempotency_key: str | None = None) -> None: ...


rows: list[str] = []


async def transaction() -> AsyncIterator[list[str]]:
    added: list[str] = []
    yield added
    rows.extend(each for each in added if each not in rows)


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def effects(bank: Bank) -> Iterator[Recorder]:
    with Recorder() as effects:
        effects.wrap(bank, "charge")
        effects.wrap(bank, "charge_blocking")
        yield effects


def app_with(function: Callable[..., Any], **options: Any) -> App:
    app = App("f-shop", broker="redis://nowhere.invalid:1")
    app.on(**options)(function)
    return app


def unsafe(report: Report) -> list[str]:
    return [trial.name for trial in report.unsafe]


PLACED = Placed(order_id="1")
DIED_AT_THE_END = "died after its effects, before the commit"
OTHER = ", while another worker handled the event"


async def test_an_effect_with_the_events_id_as_its_key_is_safe(bank: Bank, effects: Recorder) -> None:
    async def ship(order: Placed, ctx: Context) -> Shipped:
        await bank.charge(order.order_id, idempotency_key=ctx.envelope.event_id)
        bank.charge_blocking(order.order_id, idempotency_key=f"{ctx.envelope.event_id}:2")
        return Shipped(order_id=order.order_id)

    report = await check(app_with(ship), PLACED, effects=effects)

    report.assert_safe()
    kinds = {trial.name.split()[0] for trial in report.trials}
    assert {"published", "died", "failed", "was", "charge('1',"} <= kinds
    assert len(report.trials) > 12
    assert report.expected[-1] == "Shipped × 1"


@pytest.mark.parametrize("key", [None, "random"])
async def test_an_effect_without_a_key_or_with_a_new_one_each_time_is_found(
    bank: Bank, effects: Recorder, key: str | None
) -> None:
    async def ship(order: Placed) -> None:
        await bank.charge(order.order_id, idempotency_key=key and uuid.uuid4().hex)

    report = await check(app_with(ship), PLACED, effects=effects)

    assert [re.sub(r"key=[^)]*|:\d+", "", name) for name in unsafe(report)] == [
        "died right after charge('1', idempotency_)",
        DIED_AT_THE_END,
        "charge('1', idempotency_) was done, and its reply was lost",
        "failed at its very end",
        "was paused while it waited at test_faults.py `await asyncio.sleep(0)`" + OTHER,
        "was paused right after charge('1', idempotency_)" + OTHER,
        "was paused after its effects, before the commit" + OTHER,
    ]
    # The event has a key: what is published twice is handled once.
    assert "published twice" not in unsafe(report)
    with pytest.raises(AssertionError, match="happened 2 times, expected 1") as raised:
        report.assert_safe()
    assert "-> an effect that a repeat does again" in str(raised.value)


async def test_what_a_plain_function_does_again_is_found(bank: Bank, effects: Recorder) -> None:
    def ship(order: Placed) -> None:
        bank.charge_blocking(order.order_id)

    report = await check(app_with(ship), PLACED, effects=effects)

    assert DIED_AT_THE_END in unsafe(report)
    assert "died right after charge_blocking('1')" in unsafe(report)
    assert any(name.startswith("was paused") for name in unsafe(report))


async def test_an_event_without_a_key_that_is_published_twice_is_handled_twice() -> None:
    async def ship(order: Seen) -> Shipped:
        return Shipped(order_id=order.order_id)

    report = await check(app_with(ship), Seen(order_id="1"))

    assert unsafe(report) == ["published twice"]
    assert "Shipped was published 2 times, expected 1" in str(report)
    assert "give the event a `key=`, or the handler `dedupe=`" in str(report)
    (await check(app_with(ship, dedupe="order_id"), Seen(order_id="1"))).assert_safe()


async def test_an_effect_that_is_noted_before_it_is_done_is_lost_by_a_death_between(
    bank: Bank, effects: Recorder
) -> None:
    async def ship(order: Placed, ctx: Context) -> None:
        if order.order_id not in bank.rows:
            bank.rows[order.order_id] = "charged"
            await bank.charge(order.order_id, idempotency_key=ctx.envelope.event_id)

    report = await check(app_with(ship), PLACED, effects=effects, observe=lambda: bank.rows, reset=bank.rows.clear)

    lost = [trial for trial in report.unsafe if "happened never, expected 1" in str(trial.findings)]
    assert any(
        trial.name.startswith("died before test_faults.py:") and "await bank.charge" in trial.name for trial in lost
    )
    assert any(trial.name.startswith("died while it waited") for trial in lost)
    assert DIED_AT_THE_END not in unsafe(report)


async def test_a_look_before_the_deed_is_found_by_an_owner_that_is_late(bank: Bank) -> None:
    charges: list[str] = []

    async def ship(order: Placed) -> None:
        if order.order_id not in charges:
            await asyncio.sleep(0)
            charges.append(order.order_id)

    report = await check(app_with(ship), PLACED, observe=lambda: charges, reset=charges.clear)

    [name] = unsafe(report)
    assert name.startswith("was paused while it waited at test_faults.py:")
    assert "observe() gave ['1', '1'], expected ['1']" in str(report)


async def test_a_look_before_the_deed_in_a_thread_is_found_too() -> None:
    charges: list[str] = []

    def ship(order: Placed) -> None:
        if order.order_id not in charges:
            charges.append(order.order_id)

    report = await check(app_with(ship), PLACED, observe=lambda: charges, reset=charges.clear)

    [name] = unsafe(report)
    assert name.startswith("was paused before test_faults.py:")
    assert "`charges.append(order.order_id)`" in name


async def test_what_is_published_by_the_app_and_not_emitted_is_found() -> None:
    async def ship(order: Placed, ctx: Context) -> None:
        await ctx.app.publish(Shipped(order_id=order.order_id))

    report = await check(app_with(ship), PLACED)

    assert DIED_AT_THE_END in unsafe(report)
    assert "return the event, or `ctx.emit` it" in str(report)


async def test_events_that_are_emitted_later_count_as_well() -> None:
    async def ship(order: Placed, ctx: Context) -> None:
        ctx.emit(Shipped(order_id=order.order_id), delay=3600)

    report = await check(app_with(ship), PLACED)

    report.assert_safe()
    assert report.expected == ["Shipped × 1"]


async def test_a_retry_does_not_let_time_pass_for_others(bank: Bank, effects: Recorder) -> None:
    async def ship(order: Placed) -> None: ...

    app = app_with(ship, retry=Retry(backoff=Backoff(base=100, jitter=False)))

    @app.on(Shipped)
    async def charge(shipped: Shipped) -> None:
        await bank.charge(shipped.order_id)

    @app.on(Placed, group="slow")
    async def plan(order: Placed, ctx: Context) -> None:
        ctx.emit(Shipped(order_id=order.order_id), delay=60)

    report = await check(app, PLACED, effects=effects, handler=ship)

    report.assert_safe()
    assert report.expected == ["Shipped × 1"]


async def test_what_the_handlers_of_emitted_events_do_counts_as_well(bank: Bank, effects: Recorder) -> None:
    async def ship(order: Placed) -> Shipped:
        return Shipped(order_id=order.order_id)

    app = app_with(ship)

    @app.on(Shipped)
    async def charge(shipped: Shipped) -> None:
        await bank.charge(shipped.order_id)

    report = await check(app, PLACED, effects=effects)

    report.assert_safe()
    assert "charge('1') × 1" in report.expected


async def test_a_task_that_gives_another_result_the_second_time_is_found() -> None:
    app = App("f-tasks", broker="redis://nowhere.invalid:1")
    drawn = iter(range(1000))

    @app.task()
    async def draw() -> int:
        return next(drawn)

    @app.task()
    async def add(x: int, y: int) -> int:
        return x + y

    (await check(app, add.call((2, 3), {}))).assert_safe()
    # What differs by itself is not compared; that there is one is.
    (await check(app, draw.call((), {}))).assert_safe()


async def test_a_result_that_depends_on_what_an_attempt_has_left_is_found() -> None:
    app = App("f-tasks", broker="redis://nowhere.invalid:1")
    taken: list[int] = []

    @app.task()
    async def take() -> int:
        taken.append(1)
        return len(taken)

    report = await check(app, take.call((), {}), observe=lambda: len(taken) > 0, reset=taken.clear)

    assert DIED_AT_THE_END in unsafe(report)
    assert "the result is" in str(report)


async def test_a_retry_that_gives_up_at_the_first_failure_is_not_failed() -> None:
    async def ship(order: Placed) -> None: ...

    report = await check(app_with(ship, retry=Retry(max_attempts=1)), PLACED)

    assert not any("fail" in trial.name for trial in report.trials)
    assert report.untried[0].startswith("failures:")


async def test_a_handler_that_gives_up_after_a_lost_reply_is_found(bank: Bank, effects: Recorder) -> None:
    async def ship(order: Placed, ctx: Context) -> None:
        try:
            await bank.charge(order.order_id, idempotency_key=ctx.envelope.event_id)
        except ConnectionError as error:
            raise Reject("the bank is away") from error

    report = await check(app_with(ship), PLACED, effects=effects)

    [name] = unsafe(report)
    assert name.endswith("was done, and its reply was lost")
    assert "it became a dead letter (rejected" in str(report)


async def test_a_lock_that_a_paused_handler_holds_is_no_finding() -> None:
    lock = asyncio.Lock()

    async def ship(order: Placed) -> None:
        async with lock:
            await asyncio.sleep(0)

    report = await check(app_with(ship), PLACED, patience=1, scenarios=["death", "pause"])

    report.assert_safe()
    assert [text.partition(":")[0] for text in report.untried] == ["deaths without `finally` blocks", "pauses"]
    assert not lock.locked()


async def test_a_lock_that_a_death_leaves_held_is_named() -> None:
    lock = asyncio.Lock()

    async def ship(order: Placed) -> None:
        await lock.acquire()
        lock.release()

    with pytest.raises(
        TimeoutError, match=r"ship died before test_faults\.py:\d+ `lock.release\(\)`, and its next run"
    ):
        await check(app_with(ship), PLACED, patience=1)


async def test_what_a_transaction_around_the_handler_takes_back_is_safe() -> None:
    class Quiet(Middleware):
        async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:
            try:
                return await call_next(event)
            except ConnectionError:
                raise RuntimeError from None

    async def ship(order: Placed, added: Annotated[list[str], Depends(transaction)]) -> None:
        added.append(order.order_id)
        await asyncio.sleep(0)

    app = App("f-shop", broker="redis://nowhere.invalid:1", middleware=[Quiet()])
    app.on()(ship)

    report = await check(app, PLACED, observe=lambda: rows, reset=rows.clear)

    report.assert_safe()
    assert report.expected == ["['1']"]


async def test_a_death_takes_the_tasks_that_the_handler_has_begun_with_it() -> None:
    done: list[int] = []

    async def later() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        done.append(1)

    async def ship(order: Placed) -> None:
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
        await task

    report = await check(
        app_with(ship), PLACED, observe=lambda: len(done), reset=done.clear, scenarios=["death"], limit=3
    )

    waits = [trial for trial in report.trials if trial.name.startswith("died while it waited")]
    assert len(waits) == 2
    assert all(trial.is_safe for trial in waits)


async def test_what_a_dead_handler_would_have_done_in_the_end_is_not_done() -> None:
    tidied: list[int] = []

    async def ship(order: Placed) -> None:
        with contextlib.suppress(Exception):
            try:
                await asyncio.sleep(0)
            finally:
                tidied.append(1)

    report = await check(app_with(ship), PLACED, observe=lambda: len(tidied), reset=tidied.clear, scenarios=["death"])

    [waited] = [trial for trial in report.trials if trial.name.startswith("died while it waited")]
    assert waited.is_safe


async def test_each_handler_of_the_event_is_tried_and_named(bank: Bank, effects: Recorder) -> None:
    async def ship(order: Placed) -> None: ...

    async def bill(order: Placed) -> None:
        await bank.charge(order.order_id)

    app = app_with(ship)
    app.on(group="billing")(bill)

    report = await check(app, PLACED, effects=effects, scenarios=["death"])
    only = await check(app, PLACED, effects=effects, scenarios=["death"], handler=ship)

    assert {name.split()[0] for name in unsafe(report)} == {"bill"}
    assert any(trial.name.startswith("ship died") for trial in report.trials)
    only.assert_safe()


async def test_a_batch_handler_is_tried_as_well(bank: Bank, effects: Recorder) -> None:
    async def ship(orders: list[Placed]) -> list[Shipped]:
        for order in orders:
            await bank.charge(order.order_id)
        return [Shipped(order_id=order.order_id) for order in orders]

    async def ship_safely(orders: list[Placed], ctx: BatchContext) -> list[Shipped]:
        for order, envelope in zip(orders, ctx.envelopes, strict=True):
            await bank.charge(order.order_id, idempotency_key=envelope.event_id)
        return [Shipped(order_id=order.order_id) for order in orders]

    report = await check(app_with(ship, batch=Batch(10, 1)), PLACED, effects=effects)
    safe = await check(app_with(ship_safely, batch=Batch(10, 1)), PLACED, effects=effects)

    assert DIED_AT_THE_END in unsafe(report)
    assert "failed at its very end" in unsafe(report)
    assert f"was paused right after charge('1'){OTHER}" in unsafe(report)
    assert "Shipped was published" not in str(report)
    safe.assert_safe()


async def test_of_many_places_some_from_beginning_to_end_are_tried() -> None:
    async def ship(order: Placed) -> None:
        for _ in range(40):
            await asyncio.sleep(0)

    report = await check(app_with(ship), PLACED, scenarios=["death"], limit=4)

    assert len([trial for trial in report.trials if "waited" in trial.name]) == 4
    assert len([trial for trial in report.trials if "before test_faults" in trial.name]) == 4


async def test_a_handler_of_the_process_pool_is_run_here() -> None:
    threads: list[bool] = []

    def ship(order: Placed) -> None:
        threads.append(threading.current_thread() is threading.main_thread())

    app = app_with(ship)
    [handler] = app.handlers
    report = await check(app, PLACED, observe=lambda: threads[:1], reset=threads.clear)

    report.assert_safe()
    assert handler.pool == "thread"


async def test_what_cannot_be_tried_is_said() -> None:
    async def ship(order: Placed) -> None:
        raise Reject("always")

    app = app_with(ship)
    with pytest.raises(ConfigurationError, match="observe needs reset"):
        await check(app, PLACED, observe=list)
    with pytest.raises(ConfigurationError, match="has no handler of Shipped"):
        await check(app, Shipped(order_id="1"))
    with pytest.raises(ConfigurationError, match="scenarios are twice, death, failure, pause; got power"):
        await check(app, PLACED, scenarios=["power"])  # type: ignore[list-item]
    with pytest.raises(DeadLettersError, match="always"):
        await check(app, PLACED)


async def test_an_outside_that_differs_by_itself_is_refused() -> None:
    async def ship(order: Placed) -> None: ...

    with pytest.raises(ValueError, match="two values for two undisturbed runs"):
        await check(app_with(ship), PLACED, observe=lambda: uuid.uuid4().hex, reset=lambda: None)


async def test_the_same_check_says_the_same_each_time(bank: Bank, effects: Recorder) -> None:
    async def ship(order: Placed) -> Shipped:
        await bank.charge(order.order_id)
        return Shipped(order_id=order.order_id)

    app = app_with(ship)

    assert str(await check(app, PLACED, effects=effects)) == str(await check(app, PLACED, effects=effects))


def test_without_a_coroutine_the_blocking_twin_does_the_same(bank: Bank) -> None:
    async def ship(order: Placed) -> None:
        await bank.charge(order.order_id)

    with Faults(app_with(ship)) as faults:
        recorder = faults.recorder()
        recorder.wrap(bank, "charge")
        report = faults.sync(PLACED, effects=recorder, scenarios=["death"])
    assert DIED_AT_THE_END in unsafe(report)
    assert vars(bank) == {"rows": {}}
