"""What the bot worker makes of events, of a broker that is away, and of events that are given up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.worker import _Service, refused, router, unheeded
from streamtask_contrib.events import BotRequested, BotStatusUpdate, BotStopRequested

from streamtask import App, DeadEvent, PublishError, RetryLater, TransportError
from tests.chaos.workers import emitted, until

REQUEST = BotRequested(bot_id="b", session_id="s", meeting_url="http://127.0.0.1:9/")


async def nothing(*_: Any) -> None:
    pass


@pytest.fixture
async def app(broker: str, tmp_path: Path) -> AsyncIterator[App]:
    """A worker of this process that has no room for a bot."""
    app = App("test", broker=broker)
    app.include(router(BotSettings(logs=tmp_path / "logs", max_load=1e-9), close_session=nothing))
    async with app.worker():
        yield app


async def test_wishes_are_written_down_as_they_come(app: App) -> None:
    bots = Bots(app)
    await app.publish(REQUEST)
    await until(lambda: bots.load("b"), 10)
    await app.publish(BotStopRequested(bot_id="b", reason="asked"))

    async def is_stopped() -> bool:
        bot = await bots.load("b")
        return bot is not None and bot.state == "stopped" and not bot.unpublished

    await until(is_stopped, 10)


async def test_a_bot_that_cannot_be_requested_is_said_to_have_failed(
    app: App, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(*_: Any) -> None:
        raise ValueError("as it happens")

    monkeypatch.setattr(Bots, "request", refuses)
    monkeypatch.setattr("streamtask.retry.Backoff.delay", lambda *_: 0.0)
    await app.publish(REQUEST)

    async def is_told() -> bool:
        return any(each.get("state") == "failed" for each in await emitted(broker, "bot-control"))

    await until(is_told, 20)


def test_what_is_given_up_says_so(caplog: pytest.LogCaptureFixture) -> None:
    dead = DeadEvent(reason="max_attempts", error="ValueError: as it happens", attempts=8)
    told = refused(REQUEST, dead)
    assert isinstance(told, BotStatusUpdate)
    assert (told.bot_id, told.session_id, told.state, told.sub_code) == ("b", "s", "failed", "max_attempts")
    unheeded(BotStopRequested(bot_id="b"), dead)
    assert caplog.messages == ["bot.stop_unheeded"]


async def test_a_broker_that_is_away_is_no_failure_of_the_event() -> None:
    async def wish(error: Exception) -> None:
        raise error

    service = _Service(BotSettings(), (), nothing)
    with pytest.raises(RetryLater):
        await service.write_down(wish(TransportError("away")))
    # It stands; its status is published by whoever looks after the bot.
    await service.write_down(wish(PublishError("?", event_id="1")))


def test_what_is_written_down_of_bots_is_read_where_no_bot_could_run() -> None:
    code = """
import sys
for name in ("psutil", "pydantic_settings", "playwright"):
    sys.modules[name] = None
import streamtask_contrib.bot.registry
try:
    from streamtask_contrib.bot import app
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "psutil, pydantic_settings is not installed" in done.stdout
    assert "'.[bot]'" in done.stdout
