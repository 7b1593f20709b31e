"""Bots elsewhere, bots that were never written down or cannot be started: orchestrators in this process, at places."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from streamtask_contrib.bot import orchestrator as module
from streamtask_contrib.bot.orchestrator import Orchestrator
from streamtask_contrib.bot.processes import Processes
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.states import Bot, ProcessIdentity
from streamtask_contrib.events import BotRequested, BotState
from streamtask_contrib.leases import Lease

from streamtask import App
from tests.chaos.workers import until
from tests.processes import lives

#: What is started for a bot here: it says nothing, and ends when it is told to.
SLEEPS = ("/bin/sleep", "1000")


class World:
    """A broker, and orchestrators at places."""

    def __init__(self, app: App, folder: Path) -> None:
        self.app = app
        self.bots = Bots(app)
        self.settings = BotSettings(
            logs=folder / "logs", orchestrator_ttl=1, lease_ttl=3, start_timeout=60, terminate_after=1, kill_after=2
        )
        self.closed: list[str] = []
        self._stack = AsyncExitStack()

    async def orchestrator(self, at: str = "", *, program: tuple[str, ...] = SLEEPS, **settings: Any) -> Orchestrator:
        """One that works at this place; "": where this process is."""

        async def close_session(app: App, request: BotRequested, settings: BotSettings) -> None:
            self.closed.append(request.bot_id)

        class There(Processes):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                self.here = at or self.here

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "Processes", There)
            made = Orchestrator(
                self.app, self.settings.model_copy(update=settings), close_session=close_session, program=program
            )
            return await self._stack.enter_async_context(made)

    async def leave(self) -> None:
        """End every orchestrator in order."""
        await self._stack.aclose()

    async def stands(self, state: BotState, *, owner: str = "dead", **fields: Any) -> Bot:
        """A bot as somebody has left it."""
        await self.bots.request(BotRequested(bot_id="b", session_id="s", meeting_url="http://127.0.0.1:9/"))
        await self.bots.change("b", lambda bot: bot.with_(attempt=1).advanced("starting", at=datetime.now(UTC)))
        if state != "starting":
            await self.bots.change("b", lambda bot: bot.advanced("joining", at=datetime.now(UTC)))
            await self.bots.change("b", lambda bot: bot.advanced(state, at=datetime.now(UTC)))
        made = await self.bots.change("b", lambda bot: bot.with_(owner=owner, **fields))
        assert made is not None
        return made

    async def bot(self) -> Bot:
        found = await self.bots.load("b")
        assert found is not None
        return found

    async def comes_to(self, what: Callable[[Bot], object], within: float = 15.0) -> Bot:
        """Wait until this is so of the bot."""

        async def is_so() -> bool:
            return bool(what(await self.bot()))

        await until(is_so, within)
        return await self.bot()


@pytest.fixture
async def world(broker: str, tmp_path: Path) -> AsyncIterator[World]:
    async with App("test", broker=broker) as app:
        made = World(app, tmp_path)
        try:
            yield made
        finally:
            await made.leave()
            for process in psutil.Process().children(recursive=True):
                if process.cmdline() == list(SLEEPS):
                    process.kill()
                    process.wait()


def elsewhere(**fields: Any) -> ProcessIdentity:
    # With our own number: who takes it for a process of this place would see it alive, and end us.
    return ProcessIdentity(place="there", pid=os.getpid(), started=1.0, **fields)


async def test_a_bot_that_lives_elsewhere_is_left_alone_until_its_lease_has_run_out(world: World) -> None:
    await world.stands("capturing", process=elsewhere())
    lease = Lease(world.app.records, "bot-lease-b", "b:1:x", ttl=4)
    assert await lease.take()
    await world.orchestrator()
    bot = await world.comes_to(lambda bot: bot.owner != "dead")
    assert bot.attempt == 1
    while await lease.holder() is not None:
        assert (await world.bot()).attempt == 1
        await asyncio.sleep(0.05)

    bot = await world.comes_to(lambda bot: bot.process is not None and bot.attempt == 2)
    assert bot.process is not None
    assert bot.process.place != "there"
    assert (bot.state, bot.reason) == ("starting", "process_lost")


async def test_a_bot_that_is_still_starting_elsewhere_is_given_its_time(world: World) -> None:
    await world.stands("starting", process=elsewhere(), attempt_at=datetime.now(UTC))
    await world.orchestrator(start_timeout=4)
    bot = await world.comes_to(lambda bot: bot.owner != "dead")
    begun = bot.attempt_at
    assert begun is not None
    bot = await world.comes_to(lambda bot: bot.attempt == 2)
    assert bot.attempt_at is not None
    assert bot.attempt_at - begun > timedelta(seconds=4)


async def test_a_bot_elsewhere_that_is_asked_to_leave_has_left_when_its_lease_is_free(world: World) -> None:
    await world.stands("capturing", process=elsewhere())
    lease = Lease(world.app.records, "bot-lease-b", "b:1:x", ttl=60)
    await lease.take()
    await world.orchestrator()
    await world.bots.stop("b", "asked")
    await world.comes_to(lambda bot: bot.owner != "dead")
    await asyncio.sleep(world.settings.kill_after + 1)
    assert (await world.bot()).state == "capturing"
    await lease.release()
    bot = await world.comes_to(lambda bot: bot.is_final)
    assert (bot.state, bot.reason, bot.sub_code) == ("stopped", "asked", "killed")
    assert world.closed == ["b"]


async def test_who_is_at_the_place_of_a_bot_takes_it_from_one_who_is_not(world: World) -> None:
    await world.stands("capturing", process=elsewhere())
    lease = Lease(world.app.records, "bot-lease-b", "b:1:x", ttl=60)
    await lease.take()
    await world.orchestrator()
    first = await world.comes_to(lambda bot: bot.owner != "dead")
    await world.orchestrator("there")
    second = await world.comes_to(lambda bot: bot.owner != first.owner)
    # There is no such process: it is seen at once, there.
    assert second.attempt == 2 or (await world.comes_to(lambda bot: bot.attempt == 2))


async def test_no_more_is_taken_over_from_elsewhere_than_there_is_room_for(world: World) -> None:
    await world.bots.request(BotRequested(bot_id="mine", session_id="s2", meeting_url="http://127.0.0.1:9/"))
    await world.orchestrator(max_bots=1)

    async def is_full() -> bool:
        mine = await world.bots.load("mine")
        return mine is not None and mine.process is not None

    await until(is_full, 10)
    await world.stands("capturing", process=elsewhere())
    await asyncio.sleep(3)
    assert (await world.bot()).owner == "dead"
    # What has only to be ended takes no room.
    await world.bots.stop("b", "asked")
    assert (await world.comes_to(lambda bot: bot.is_final)).reason == "asked"


async def test_a_process_that_was_started_and_not_written_down_is_found_and_kept(world: World) -> None:
    process = Processes(world.settings, world.app.address, program=SLEEPS).start("b", 1)
    await world.stands("starting", process=None)
    await world.orchestrator()
    bot = await world.comes_to(lambda bot: bot.process is not None)
    assert (bot.process, bot.attempt) == (process, 1)
    assert lives(process.pid)


async def test_a_start_that_was_decided_and_not_made_is_made_by_the_next(world: World) -> None:
    await world.stands("starting", process=None)
    await world.orchestrator()
    bot = await world.comes_to(lambda bot: bot.process is not None)
    assert (bot.attempt, bot.reason) == (2, "process_lost")


async def test_a_program_that_cannot_be_started_fails_the_bot_after_its_attempts(world: World) -> None:
    await world.bots.request(BotRequested(bot_id="b", session_id="s", meeting_url="http://127.0.0.1:9/"))
    await world.orchestrator(program=("/no/such/program",), max_attempts=2)
    bot = await world.comes_to(lambda bot: bot.is_final)
    assert (bot.state, bot.reason, bot.attempt) == ("failed", "process_lost", 2)


async def test_the_lease_of_a_dead_process_is_let_go_and_that_of_another_is_not(world: World) -> None:
    await world.stands("capturing", process=None)
    lease = Lease(world.app.records, "bot-lease-b", "b:1:x", ttl=60)
    await lease.take()
    await world.orchestrator()
    bot = await world.comes_to(lambda bot: bot.process is not None and bot.attempt == 2)
    assert await lease.holder() is None
    newer = Lease(world.app.records, "bot-lease-b", "b:3:x", ttl=60)
    await newer.take()
    assert bot.process is not None
    os.kill(bot.process.pid, signal.SIGKILL)
    await world.comes_to(lambda bot: bot.process is not None and bot.attempt == 3)
    assert await newer.holder() == "b:3:x"


async def test_trouble_with_one_bot_is_not_that_of_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tidy = Processes.tidy

    def fails(self: Processes, bot: Bot) -> None:
        if bot.bot_id == "b":
            raise RuntimeError("as it happens")
        tidy(self, bot)

    monkeypatch.setattr(Processes, "tidy", fails)
    await world.stands("capturing", process=None)
    await world.bots.stop("b", "asked")
    await world.bots.request(BotRequested(bot_id="c", session_id="s", meeting_url="http://127.0.0.1:9/"))
    await world.orchestrator()

    async def is_there() -> bool:
        other = await world.bots.load("c")
        return other is not None and other.process is not None

    await until(is_there, 10)
    await until(lambda: "bot.unattended" in caplog.messages, 10)
    monkeypatch.undo()
    await world.comes_to(lambda bot: bot.is_final)
