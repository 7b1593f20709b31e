"""The watcher, looking at a broker: one at a time, what it tells of bots, and what it makes up for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.events import AnomalyDetected, BotRecoveryRequested, BotRequested, BotState
from streamtask_contrib.monitoring import seeing
from streamtask_contrib.monitoring.board import Board
from streamtask_contrib.monitoring.settings import MonitoringSettings
from streamtask_contrib.monitoring.watching import LEASE, Watcher

from streamtask import App, Event, PublishError
from tests.chaos.workers import until
from tests.contrib.listening import listening

FAST = {"interval": 0.1, "stalled": 0.5, "lease_ttl": 1.0}


@asynccontextmanager
async def watching(app: App, **settings: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(Watcher(app, MonitoringSettings(**FAST | settings)).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def hearing(app: App, told: list[AnomalyDetected]) -> AbstractAsyncContextManager[None]:
    """Put down what is told of anomalies."""
    return listening(app, "monitoring", lambda stored: told.append(AnomalyDetected.model_validate(stored.payload)))


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


async def in_call(app: App, bot_id: str, attempt: int, *, participants: tuple[str, ...] = ("Anna",)) -> None:
    """A bot that has been in a call for an hour."""
    bots = Bots(app)
    request = BotRequested(bot_id=bot_id, session_id=bot_id, meeting_url="https://meet.example.org/a")
    if await bots.load(bot_id) is None:
        await bots.request(request)
    states: tuple[BotState, ...] = ("starting", "joining", "in_call")
    for state in states:

        def advanced(bot: Bot, to: BotState = state) -> Bot | None:
            started = bot.with_(attempt=attempt)
            return started.advanced(to, at=ago(3600), participants=participants if to == "in_call" else None)

        assert await bots.change(bot_id, advanced)


async def beats(app: App, bot_id: str, *, audio: datetime | None, at: datetime | None = None) -> None:
    facts = {
        "holder": b"x",
        "at": (at or ago(0)).isoformat().encode(),
        "last_audio": audio.isoformat().encode() if audio else b"",
    }
    await app.records.write(f"bot-lease-{bot_id}", facts, ttl=60)


async def test_a_bot_that_hears_nobody_is_to_be_recovered_once_for_each_of_its_processes() -> None:
    asked: list[BotRecoveryRequested] = []
    told: list[AnomalyDetected] = []
    async with App("monitoring", broker="memory://") as app:
        for bot_id in ("deaf", "dead", "well", "lonely"):
            people = () if bot_id == "lonely" else ("Anna",)
            await in_call(app, bot_id, 1, participants=people)
        await beats(app, "deaf", audio=ago(900))
        await beats(app, "dead", audio=ago(900), at=ago(900))
        await beats(app, "well", audio=ago(3))
        await beats(app, "lonely", audio=None)
        async with (
            listening(
                app,
                "bot-control",
                lambda stored: (
                    stored.event_type == "BotRecoveryRequested"
                    and asked.append(BotRecoveryRequested.model_validate(stored.payload))
                ),
            ),
            hearing(app, told),
        ):
            async with watching(app):
                await until(lambda: len(asked) >= 2 and len(told) >= 2, 10)
            # Another watcher asks for no more.
            async with watching(app):
                await until(lambda: len(asked) >= 2, 10)
                await asyncio.sleep(0.5)
                assert {(one.request_id, one.reason) for one in asked} == {
                    ("deaf:1", "no_audio"),
                    ("dead:1", "no_beat"),
                }
                assert len(asked) == 2
                # Its next process is no better.
                await in_call(app, "deaf", 2)
                await until(lambda: len(asked) == 3, 10)
        assert asked[-1].request_id == "deaf:2"
        assert "has heard nobody" in asked[-1].evidence
        assert sorted((one.kind, one.subject, one.state) for one in told) == [
            ("bot", "dead", "detected"),
            ("bot", "deaf", "detected"),
        ]
        assert {one.subject for one in await Board(app.records).anomalies()} == {"deaf", "dead"}


async def test_only_one_looks_and_the_next_takes_over_at_once_when_it_ends_in_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with App("monitoring", broker="memory://") as app:
        async with watching(app, lease_ttl=30.0):
            await until(lambda: caplog.messages.count("monitoring.watching") == 1, 10)
            holder = (await app.records.read(LEASE))["holder"]
            async with watching(app, lease_ttl=30.0):
                await asyncio.sleep(0.5)
                assert caplog.messages.count("monitoring.watching") == 1
                assert (await app.records.read(LEASE))["holder"] == holder
        assert "holder" not in await app.records.read(LEASE)
        async with watching(app, lease_ttl=30.0):
            await until(lambda: caplog.messages.count("monitoring.watching") == 2, 5)


@pytest.mark.parametrize("is_stored", [True, False])
async def test_what_could_not_be_told_is_told_when_it_can_be_once(
    monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    told: list[AnomalyDetected] = []
    async with App("monitoring", broker="memory://") as app:
        await in_call(app, "deaf", 1)
        await beats(app, "deaf", audio=ago(900))
        whole = app.publish
        failing = iter([True, True, True])

        async def publish(event: Event, **options: Any) -> str:
            if isinstance(event, AnomalyDetected) and next(failing, False):
                # Stored, or not: nobody knows.
                if is_stored:
                    await whole(event, **options)
                raise PublishError("away", event_id="x")
            return await whole(event, **options)

        monkeypatch.setattr(app, "publish", publish)
        async with hearing(app, told):
            async with watching(app):
                await until(lambda: next(failing, None) is None and told, 10)
                await asyncio.sleep(0.5)
            assert [one.state for one in told] == ["detected"]
            assert len(await Board(app.records).anomalies()) == 1


async def test_a_look_that_fails_is_told_and_looking_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with App("monitoring", broker="memory://") as app:
        # What a stranger has written does not end it, either.
        await app.records.write("monitoring-moments", {"moments": b'{"at": "x"}'}, ttl=60)
        await app.records.write("monitoring-usual", {"x": b"[]"}, ttl=60)
        await in_call(app, "deaf", 1)
        await beats(app, "deaf", audio=ago(900))
        whole, failing = seeing.look, iter([RuntimeError("a bug"), TimeoutError()])

        async def look(*given: Any) -> Any:
            if (error := next(failing, None)) is not None:
                raise error
            return await whole(*given)

        monkeypatch.setattr(seeing, "look", look)
        async with watching(app):

            async def is_open() -> bool:
                return bool(await Board(app.records).anomalies())

            await until(is_open, 10)
    assert caplog.text.count("monitoring.failed") == 1
    assert caplog.text.count("monitoring.too_slow") == 1
    assert caplog.text.count("monitoring.unreadable") >= 2
