"""What a bot's process says: in order, once, whatever fails on the way, and only while the bot is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

pytest.importorskip("pydantic_settings", reason="the extra `bot` is not installed")

from streamtask_contrib.bot import reporting
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.reporting import ReplacedError, Reporter, insisted
from streamtask_contrib.bot.states import Ending

from streamtask import App, EventRefusedError, PublishError
from tests.contrib.bot.attempts import Stage


@asynccontextmanager
async def reporting_to(bots: Bots) -> AsyncIterator[Reporter]:
    """A reporter of the bot's first attempt, at work."""
    reporter = Reporter(bots, "bot", attempt=1, state="starting")
    working = asyncio.create_task(reporter.run())
    try:
        yield reporter
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


async def started(stage: Stage) -> None:
    await stage.request("odd:")
    await stage.bots.change("bot", lambda bot: bot.with_(attempt=1).advanced("starting", at=bot.created_at))


async def told(stage: Stage) -> list[tuple[str, list[str]]]:
    """What was published behind the start."""
    statuses = await stage.statuses()
    assert [status.sequence for status in statuses] == list(range(len(statuses)))
    return [(status.state, status.participants) for status in statuses[2:]]


async def test_states_and_people_are_told_in_order(stage: Stage) -> None:
    await started(stage)
    async with reporting_to(stage.bots) as reporter:
        await asyncio.wait_for(reporter.written(), 5)
        reporter.tell("joining")
        reporter.tell("in_call", reason="let_in")
        reporter.tell("in_call")
        await reporter.written()
        reporter.tell_participants(["Anna"])
        await reporter.written()
        reporter.tell_participants(["Anna", "Ben"])
        reporter.tell("capturing")
        await reporter.written()
    assert await told(stage) == [
        ("joining", []),
        ("in_call", []),
        ("in_call", ["Anna"]),
        ("capturing", ["Anna", "Ben"]),
    ]


async def test_what_is_told_while_another_is_written_is_written_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People come while a change is under way, and then a state."""
    await started(stage)
    change = Bots.change

    async def slow(self: Bots, *args: object) -> object:
        answer = await change(self, *args)  # type: ignore[arg-type]  # passed on as they are
        if not reporter.told:
            reporter.told = True
            reporter.tell("joining")
            reporter.tell("in_call")
        return answer

    monkeypatch.setattr(Bots, "change", slow)
    async with reporting_to(stage.bots) as made:
        reporter = made
        reporter.told = False  # type: ignore[attr-defined]  # the test's own
        reporter.tell_participants(["Anna"])
        await asyncio.wait_for(reporter.written(), 5)
    assert await told(stage) == [("starting", ["Anna"]), ("joining", ["Anna"]), ("in_call", ["Anna"])]


async def test_a_status_that_could_not_be_published_is_published_by_the_next_try(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "_AGAIN", 0.01)
    await started(stage)
    publish, failures = App.publish, iter([True, False, True])

    async def failing(self: App, *args: object, **options: object) -> str:
        if next(failures, False):
            raise PublishError("away", event_id="x")
        return await publish(self, *args, **options)  # type: ignore[arg-type]  # passed on as they are

    monkeypatch.setattr(App, "publish", failing)
    async with reporting_to(stage.bots) as reporter:
        reporter.tell("joining")
        await asyncio.wait_for(reporter.written(), 5)
        assert await told(stage) == [("joining", [])]
        reporter.tell("in_call")
        await asyncio.wait_for(reporter.written(), 5)
    assert await told(stage) == [("joining", []), ("in_call", [])]


async def test_one_that_has_been_replaced_changes_nothing(stage: Stage) -> None:
    await started(stage)
    await stage.bots.change("bot", lambda bot: bot.with_(attempt=2))
    reporter = Reporter(stage.bots, "bot", attempt=1, state="starting")
    reporter.tell("joining")
    with pytest.raises(ReplacedError):
        await asyncio.wait_for(reporter.run(), 5)
    with pytest.raises(ReplacedError):
        await reporter.write_ending(Ending(state="stopped", reason="requested"))
    bot = await stage.bot()
    assert (bot.state, bot.ending) == ("starting", None)


async def test_what_can_never_be_published_is_not_insisted_on() -> None:
    async def refused() -> None:
        raise EventRefusedError("too large", event_id="x")

    with pytest.raises(EventRefusedError):
        await asyncio.wait_for(insisted(refused), 5)
