"""Chains, groups and chords: what they come to, how far they are, and what is said of one that cannot be; in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from streamtask import (
    App,
    ConfigurationError,
    Context,
    FailedCall,
    Inspector,
    PublishError,
    Reject,
    Retry,
    Router,
    Task,
    TaskCancelledError,
    TaskFailedError,
    TransportError,
    chain,
    chord,
    group,
)
from streamtask.errors import NotFoundError
from streamtask.steps import call_id
from streamtask.testing import in_memory
from streamtask.transport.values import Outgoing
from tests.chaos.workers import until


@dataclass
class Shop:
    """An app with some tasks, and what they were called with."""

    app: App
    calls: list[tuple[Any, ...]]
    add: Task[..., int, ..., Any]
    total: Task[..., int, ..., Any]
    text: Task[..., str, ..., Any]
    fail: Task[..., int, ..., Any]
    tell: Task[..., None, ..., Any]
    told: list[FailedCall]

    async def come_to(self, workflow: Any) -> Any:
        return await (await workflow.send()).result(timeout=10)

    async def states(self, workflow: str) -> dict[str, str]:
        return {call.step: call.state for call in await Inspector(self.app).workflow(workflow)}

    async def until_states(self, workflow: str, wanted: dict[str, str]) -> None:
        async def reached() -> bool:
            return await self.states(workflow) == wanted

        await until(reached, 10)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    app = App("shop", broker="memory://")
    calls: list[tuple[Any, ...]] = []
    told: list[FailedCall] = []

    @app.task(name="add")
    async def add(x: int, y: int = 0) -> int:
        calls.append((x, y))
        return x + y

    @app.task(name="total")
    async def total(numbers: list[int], times: int = 1) -> int:
        calls.append((numbers, times))
        return sum(numbers) * times

    @app.task(name="text")
    async def text(value: Any, *rest: str, end: str = "") -> str:
        return f"{value}{rest}{end}"

    @app.task(name="fail", retry=Retry(1))
    async def fail(x: int) -> int:
        raise LookupError(f"no {x}")

    @app.task(name="tell")
    async def tell(failure: FailedCall) -> None:
        told.append(failure)

    async with app:
        yield Shop(app, calls, add, total, text, fail, tell, told)


# ── what they come to ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_step_of_a_chain_is_given_what_the_one_before_it_comes_to(shop: Shop) -> None:
    add = shop.add
    async with shop.app.worker():
        assert await shop.come_to(chain(add.s(1, 2), add.s(3))) == 6
        assert await shop.come_to(add.s(1, 2) | add.s(3) | add.s() | shop.text.s("b", end=".")) == "6('b',)."
        assert await shop.come_to(chain([add.s(1), add.si(10, 20), add.s(y=1)])) == 31
        assert await shop.come_to(add.s(1, 2)) == 3


async def test_the_value_is_the_first_argument_and_those_of_the_signature_stand_behind_it(shop: Shop) -> None:
    async with shop.app.worker():
        await shop.come_to(chain(shop.add.s(1), shop.add.s(5)))
        await shop.come_to(chain(shop.add.s(1), shop.add.s(x=5)))

    assert shop.calls == [(1, 0), (1, 5), (1, 0), (5, 1)]


async def test_a_group_comes_to_the_list_of_what_its_members_come_to_in_their_order(shop: Shop) -> None:
    add, slow = shop.add, asyncio.Event()

    @shop.app.task
    async def late(x: str) -> str:
        await slow.wait()
        return x

    async with shop.app.worker():
        handle = await group(late.s("a"), add.s(1, 1), add.s(2) | add.s(3)).send()
        asyncio.get_running_loop().call_later(0.1, slow.set)
        assert await handle.result(timeout=10) == ["a", 2, 5]
        assert await shop.come_to(group(add.s(n) for n in range(120))) == list(range(120))
        assert await shop.come_to(group([add.s(1)])) == [1]


async def test_the_body_of_a_chord_is_given_the_list(shop: Shop) -> None:
    add, total = shop.add, shop.total
    async with shop.app.worker():
        assert await shop.come_to(chord(group(add.s(n, n) for n in range(10)), total.s(2))) == 180
        assert await shop.come_to(chord([add.s(1), add.s(2)], total.s())) == 3
        assert await shop.come_to(group(add.s(1), add.s(2)) | total.s(times=3)) == 9
        assert await shop.come_to(chord([add.s(1)], add.si(7))) == 7


async def test_they_nest(shop: Shop) -> None:
    add, total = shop.add, shop.total
    async with shop.app.worker():
        assert await shop.come_to(chain(add.s(1), group(add.s(1), add.s(2)), total.s(), add.s(100))) == 105
        # A group behind a group: each of its members is given the list.
        assert await shop.come_to(group(add.s(1), add.s(2)) | group(total.s(), total.s(2))) == [3, 6]
        inner = chain(add.s(1), group(add.s(1), add.s(2) | add.s(3), group(add.s(4), add.si(5))), total.s())
        assert await shop.come_to(group(inner, inner | add.s(1), add.s(9))) == [18, 19, 9]
        assert await shop.come_to(chord(group(chord([add.s(1), add.s(2)], total.s()), add.s(3)), total.s())) == 6


async def test_what_a_value_is_survives_the_way_into_the_next_step(shop: Shop) -> None:
    @shop.app.task
    async def begin(year: int) -> date:
        return date(year, 1, 2)

    @shop.app.task
    async def days(since: date, until: date) -> int:
        return (until - since).days

    async with shop.app.worker():
        assert await shop.come_to(chain(begin.s(2024), days.s(date(2024, 1, 5)))) == 3
        assert await shop.come_to(group(begin.s(2024), begin.s(2025))) == [date(2024, 1, 2), date(2025, 1, 2)]


async def test_a_step_may_be_delayed_and_take_its_context_and_emit(shop: Shop) -> None:
    @shop.app.task
    async def with_context(ctx: Context, x: int) -> str:
        assert ctx.envelope.causation_id
        return f"{ctx.attempt}:{x}"

    async with shop.app.worker():
        handle = await chain(shop.add.s(1), with_context.s().options(delay=0.3)).send()
        await handle.result(timeout=10)
        assert await handle.result() == "1:1"


async def test_a_task_that_keeps_no_result_hands_its_value_on_all_the_same(shop: Shop) -> None:
    @shop.app.task(result_ttl=None)
    async def forgets(x: int) -> int:
        return x + 1

    async with shop.app.worker():
        assert await shop.come_to(chain(forgets.s(1), shop.add.s(1))) == 3
        assert await shop.come_to(group(forgets.s(1), forgets.s(2))) == [2, 3]
        handle = await chain(shop.add.s(1), forgets.s()).send()
        with pytest.raises(ConfigurationError, match="keeps no results"):
            await handle.result()


async def test_a_call_that_returns_a_value_and_keeps_no_result_is_done(shop: Shop) -> None:
    @shop.app.task(name="forgets", result_ttl=None)
    async def forgets() -> int:
        return 1

    async with shop.app.worker():
        await forgets.send()
        assert await shop.come_to(shop.add.s(1)) == 1
    assert shop.app.transport.dead_letters is not None
    assert await shop.app.transport.dead_letters.count("shop-tasks") == 0


async def test_threads_are_steps_too(shop: Shop) -> None:
    @shop.app.task
    def double(numbers: list[int]) -> list[int]:
        return [2 * n for n in numbers]

    async with shop.app.worker():
        assert await shop.come_to(chord([shop.add.s(1), shop.add.s(2)], double.s()) | double.s()) == [4, 8]


async def test_a_handle_is_made_again_from_its_id(shop: Shop) -> None:
    workflow = chord([shop.add.s(1), shop.add.s(2)], shop.total.s())
    async with shop.app.worker():
        handle = await workflow.send()
        assert await workflow.handle(handle.id).result(timeout=10) == await handle.result() == 3


# ── failing ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_waits_is_told_at_once_which_step_was_given_up(shop: Shop) -> None:
    add, fail = shop.add, shop.fail
    async with shop.app.worker():
        for workflow in (
            chain(add.s(7), fail.s(), add.s(1)),
            chain(add.s(7), fail.s()),
            group(add.s(1), fail.s(7)),
            chain(fail.s(7), group(add.s(1), add.s(2))),
            chord([add.s(1), add.s(7) | fail.s()], shop.total.s()) | add.s(1),
        ):
            with pytest.raises(TaskFailedError, match=r"fail failed \(max_attempts\): LookupError: no 7") as caught:
                await shop.come_to(workflow)
            assert caught.value.task == "fail"
            assert 'raise LookupError(f"no {x}")' in caught.value.__notes__[0]


async def test_callbacks_are_made_for_each_call_that_is_given_up_and_told_which(shop: Shop) -> None:
    add, fail, tell = shop.add, shop.fail, shop.tell
    async with shop.app.worker():
        handle = await chord([fail.s(1), add.s(2), fail.s(3)], shop.total.s()).on_error(tell.s()).send()
        await until(lambda: len(shop.told) == 2, 10)
        first = min(shop.told, key=lambda each: each["step"])
        assert first == {
            "workflow": handle.id,
            "step": "1.1",
            "task": "fail",
            "event_id": call_id(handle.id, "1.1"),
            "reason": "max_attempts",
            "error": "LookupError: no 1",
            "attempts": 1,
        }
        # One of a call alone, one that takes nothing, one that has arguments.
        seen = len(shop.calls)
        await chain(add.s(1), fail.s().on_error(add.si(8, 8)).on_error(shop.text.s("x"))).send()
        await until(lambda: (8, 8) in shop.calls[seen:], 10)
    assert len(shop.told) == 2


async def test_a_value_that_does_not_fit_the_next_step_is_its_failure(shop: Shop) -> None:
    async with shop.app.worker():
        with pytest.raises(TaskFailedError, match=r"add failed \(validation_error\): .*arguments\.x"):
            await shop.come_to(chain(shop.text.s("a"), shop.add.s(1)))


async def test_a_dead_letter_that_is_replayed_goes_on_with_its_workflow(shop: Shop) -> None:
    broken = [True]

    @shop.app.task
    async def mended(x: int) -> int:
        if broken:
            raise Reject("broken")
        return x

    async with shop.app.worker():
        handle = await chord([shop.add.s(1), mended.s(2)], shop.total.s()).send()
        with pytest.raises(TaskFailedError):
            await handle.result(timeout=10)
        assert await shop.states(handle.id) == {"1.1": "done", "1.2": "failed", "2": "waiting"}
        broken.clear()
        letters = Inspector(shop.app).dead_letters
        [letter] = await letters.page("shop-tasks", after="", limit=10)
        await letters.replay("shop-tasks", letter.dead_id)
        await shop.until_states(handle.id, {"1.1": "done", "1.2": "done", "2": "done"})
        assert await handle.result(timeout=10) == 3


async def test_the_values_of_a_group_that_are_gone_are_never_taken_for_all(shop: Shop) -> None:
    handle = await chord([shop.add.s(1)], shop.total.s().options(delay=0.5)).send(ttl=0.05)
    async with shop.app.worker():
        with pytest.raises(TaskFailedError, match=r"1 of the 1 values of the group .* are gone"):
            await handle.result(timeout=10)
    assert [call for call in shop.calls if isinstance(call[0], list)] == []


# ── cancelling ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_a_cancelled_workflow_nothing_more_is_begun_and_what_runs_is_ended(shop: Shop) -> None:
    running, ended = asyncio.Event(), asyncio.Event()

    @shop.app.task(name="endless")
    async def endless(x: int) -> int:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return x

    add = shop.add
    async with shop.app.worker():
        handle = await chord([add.s(1), endless.s(2) | add.s()], shop.total.s()).on_error(shop.tell.s()).send()
        await running.wait()
        await shop.until_states(handle.id, {"1.1": "done", "1.2.1": "sent", "1.2.2": "waiting", "2": "waiting"})
        assert await handle.cancel() is True
        with pytest.raises(TaskCancelledError):
            await handle.result(timeout=10)
        await asyncio.wait_for(ended.wait(), 10)
        await shop.until_states(handle.id, {"1.1": "done", "1.2.1": "cancelled", "1.2.2": "waiting", "2": "waiting"})
        assert await handle.cancel() is False
    assert shop.told == []
    assert shop.calls == [(1, 0)]


async def test_a_workflow_that_is_cancelled_before_a_worker_comes_is_never_begun(shop: Shop) -> None:
    first = await group(shop.add.s(1), shop.add.s(2)).send()
    other = await chain(shop.add.s(3), shop.add.s(4)).send()
    assert await first.cancel() is True
    async with shop.app.worker():
        assert await other.result(timeout=10) == 7
        await shop.until_states(first.id, {"1.1": "cancelled", "1.2": "cancelled"})
        with pytest.raises(TaskCancelledError):
            await first.result(timeout=10)
        assert await other.cancel() is False
    assert shop.calls == [(3, 0), (3, 4)]


async def test_who_waits_for_a_workflow_is_told_that_one_of_its_calls_was_cancelled(shop: Shop) -> None:
    workflow = chain(shop.add.s(1), shop.add.s(2), shop.add.s(3))
    handle = await workflow.send()
    assert await shop.add.handle(call_id(handle.id, "1")).cancel() is True
    async with shop.app.worker():
        with pytest.raises(TaskCancelledError):
            await handle.result(timeout=10)
        assert await shop.states(handle.id) == {"1": "cancelled", "2": "waiting", "3": "waiting"}


# ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_sent_is_looked_for_where_it_is_unknown_whether_it_was(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = shop.app.transport
    publish, begin = transport.publish, transport.workflows.begin
    troubles = [TransportError("away"), TransportError("lost"), None]
    published: list[bool] = []

    async def flaky_begin(*args: Any, **options: Any) -> None:
        await begin(*args, **options)
        if len(troubles) == 3:
            raise troubles.pop(0) or AssertionError

    async def flaky(items: list[Outgoing]) -> list[str | Exception]:
        results = await publish(items)
        published.extend(item.again for item in items)
        trouble = troubles.pop(0)
        if trouble is not None:
            raise trouble
        return results

    monkeypatch.setattr(transport, "publish", flaky)
    monkeypatch.setattr(transport.workflows, "begin", flaky_begin)
    monkeypatch.setattr("streamtask.publisher._PAUSES", (0.0, 0.0))
    handle = await group(shop.add.s(1), shop.add.s(2)).send()
    monkeypatch.undo()

    assert published == [False, False, True, True]
    assert shop.app.transport.inspection is not None
    assert (await shop.app.transport.inspection.stream("shop-tasks")).length == 2
    assert await shop.states(handle.id) == {"1.1": "sent", "1.2": "sent"}


async def test_a_broker_that_stays_away_is_told_of(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise TransportError("away")

    monkeypatch.setattr(shop.app.transport.workflows, "begin", away)
    monkeypatch.setattr("streamtask.publisher._PAUSES", (0.0,))
    with pytest.raises(PublishError, match="away"):
        await shop.add.s(1).send()


async def test_blocking_within_a_running_loop_names_the_async_form(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match=r"await workflow\.send\(\)"):
        shop.add.s(1).delay()
    with pytest.raises(ConfigurationError, match=r"await handle\.result\(\.\.\.\)"):
        shop.add.s(1).handle(call_id("0" * 32, "1")).get()


async def test_plain_calls_say_nothing_of_workflows(shop: Shop) -> None:
    [entry] = [await shop.app.publish(shop.add.call((1,), {}))]
    [stored] = await shop.app.transport.read("shop-tasks", after="0", count=10, wait=0)
    assert entry
    assert json.loads(stored.body or b"")["payload"] == {"arguments": {"x": 1}}


# ── how far they are ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_how_far_a_workflow_is_is_told_call_by_call(shop: Shop) -> None:
    gate = asyncio.Event()

    @shop.app.task(name="gated")
    async def gated(x: int) -> int:
        await gate.wait()
        return x

    add, total = shop.add, shop.total
    async with shop.app.worker():
        handle = await chain(add.s(1), group(add.s(2), gated.s() | add.s(1)), total.s(), add.s()).send()
        wanted = {"1": "done", "2.1": "done", "2.2.1": "sent", "2.2.2": "waiting", "3": "waiting", "4": "waiting"}
        await shop.until_states(handle.id, wanted)
        found = await Inspector(shop.app).workflow(handle.id)
        assert [(call.step, call.task) for call in found][2:5] == [("2.2.1", "gated"), ("2.2.2", "add"), ("3", "total")]
        assert found[0].event_id == call_id(handle.id, "1")
        gate.set()
        assert await handle.result(timeout=10) == 5
        assert set((await shop.states(handle.id)).values()) == {"done"}
    with pytest.raises(NotFoundError, match="there is no workflow 'no-id' in any stream"):
        await Inspector(shop.app).workflow("no-id")


# ── what cannot be ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_arguments_are_checked_before_anything_is_sent(shop: Shop) -> None:
    add, total = shop.add, shop.total
    for workflow, error, said in (
        (chain(add.s(1), add.s("x")), ValidationError, r"arguments\.y"),
        (chain(add.s("x"), add.s()), ValidationError, r"arguments\.x"),
        (chain(add.s(), add.s()), TypeError, r"step 1, add\.s\(\): missing a required argument: 'x'"),
        (chain(add.s(1), add.s(2, 3)), TypeError, r"step 2, add\.s\(2, 3\): too many .* takes none"),
        (chain(add.s(1), add.s(x=1, y=2)), TypeError, "no parameter is left"),
        (chain(add.s(1), add.si()), TypeError, r"step 2, add\.si\(\): missing"),
        (group(add.s(1), add.s(z=1)), TypeError, r"step 1\.2"),
        (chord([add.s(1)], total.s(times="x")), ValidationError, r"arguments\.times"),
        (add.s(1).on_error(add.s("x")), ValidationError, r"arguments\.y"),
        (add.s(1).on_error(add.s(1, 2)), TypeError, r"step on_error of 1, add\.s\(1, 2\)"),
    ):
        with pytest.raises(error, match=said):
            await workflow.send()
    assert shop.app.transport.inspection is not None
    assert (await shop.app.transport.inspection.stream("shop-tasks")).length == 0


async def test_what_makes_no_workflow_is_refused_where_it_is_put_together(shop: Shop) -> None:
    add = shop.add
    with pytest.raises(ConfigurationError, match="end it with a task that takes the list"):
        group(add.s(1), add.s(1) | group(add.s(1), add.s(2)))
    with pytest.raises(ConfigurationError, match="a group has at least one step"):
        group([])
    with pytest.raises(ConfigurationError, match="a chain has at least one step"):
        chain()
    with pytest.raises(ConfigurationError, match=r"chain takes signatures such as .*, not 3"):
        chain(add.s(1), 3)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match=r"group takes signatures such as .*, not 3"):
        group(3)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="on_error takes a signature"):
        add.s(1).on_error(chain(add.s(1), add.s(2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="delay is in seconds"):
        add.s(1).options(delay=-1)
    with pytest.raises(ConfigurationError, match="ttl is in seconds"):
        await add.s(1).send(ttl=0)


async def test_a_workflow_lives_in_one_stream_of_one_app(shop: Shop) -> None:
    @shop.app.task(name="elsewhere", stream="others")
    async def elsewhere(x: int) -> int:
        return x

    router = Router()

    @router.task(name="homeless")
    async def homeless(x: int) -> int:
        return x

    with pytest.raises(ConfigurationError, match=r"elsewhere \(stream 'others'\) and add \(stream 'shop-tasks'\)"):
        await chain(shop.add.s(1), elsewhere.s()).send()
    with pytest.raises(ConfigurationError, match="homeless is in no app yet"):
        await chain(homeless.s(1), shop.add.s()).send()
    App("other", broker="memory://").include(router)
    with pytest.raises(ConfigurationError, match="are of two apps"):
        await chain(homeless.s(1), shop.add.s()).send()


# ── in tests of others ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_test_drains_a_workflow_without_a_worker(shop: Shop) -> None:
    with in_memory(shop.app) as memory:
        handle = await chord([shop.add.s(1), shop.add.s(2).options(delay=60)], shop.total.s()).send()
        await memory.drain()
        assert await shop.states(handle.id) == {"1.1": "done", "1.2": "sent", "2": "waiting"}
        memory.clock.advance(60)
        await memory.drain()
        assert await handle.result(timeout=1) == 3
        arguments = [event.arguments for event in memory.published_of(shop.total.event)]  # type: ignore[attr-defined]
        assert arguments == [{"numbers": [1, 2]}]
