"""Bots' processes as an orchestrator starts them, on a real Redis; the test plays the orchestrator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import wave
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_settings", reason="the extra `bot` is not installed")

from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.capture.register import Entry, Register
from streamtask_contrib.events import AudioChunkReceived, BotRequested, BotStatusUpdate

from streamtask import App
from tests.chaos.workers import Emitted, until
from tests.contrib.bot import odd_drivers

RATE = 16_000
#: Seconds that anything may take on a busy machine.
PATIENCE = 60.0


class Attempt:
    """One process of a bot."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self, within: float = PATIENCE) -> int:
        """Wait for its end."""
        try:
            await until(lambda: self.process.poll() is not None, within)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None
        return self.process.returncode

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of one event."""
        lines = [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


class Stage:
    """A broker, a folder of recordings, and what becomes of bots there."""

    def __init__(self, app: App, url: str, folder: Path, *, control: Emitted, audio: Emitted) -> None:
        self.app = app
        self._control = control
        self._audio = audio
        self.bots = Bots(app)
        self.url = url
        self.folder = folder
        self.recordings = folder / "recordings"
        self.recordings.mkdir()
        self.site = folder / "site"
        odd_drivers.install(self.site)
        self.started: list[Attempt] = []

    async def request(self, meeting_url: str, *, bot_id: str = "bot", **wanted: Any) -> BotRequested:
        """Want a bot."""
        fields = {"driver": "file", "session_id": f"{bot_id}-session"} | wanted
        request = BotRequested(bot_id=bot_id, meeting_url=meeting_url, **fields)
        await self.bots.request(request)
        return request

    async def start(self, bot_id: str = "bot", **environment: str) -> Attempt:
        """Start the bot's next process, as the orchestrator does."""
        bot = await self.bots.change(bot_id, _next_attempt)
        assert bot is not None
        return self.process(bot_id, bot.attempt, **environment)

    def process(self, bot_id: str, attempt: int, **environment: str) -> Attempt:
        """A process, whether it is wanted or not. `environment`: settings without their prefix."""
        number = len(self.started)
        scratch = self.folder / f"scratch-{number}"
        scratch.mkdir()
        # Who does not wait for a lease to run out lives through a machine that stands still for a moment.
        settings = {"RECORDINGS": str(self.recordings), "LEASE_TTL": "15"} | {
            "ID": bot_id,
            "ATTEMPT": str(attempt),
            "BROKER": self.url,
            "FOLDER": str(scratch),
        }
        variables = {f"STREAMTASK_BOT_{name}": value for name, value in (settings | environment).items()}
        path = [str(self.site), str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        log = self.folder / f"bot-{number}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "streamtask_contrib.bot.process"],
                env=os.environ | variables,
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.started.append(Attempt(process, log))
        return self.started[-1]

    async def bot(self, bot_id: str = "bot") -> Bot:
        found = await self.bots.load(bot_id)
        assert found is not None
        return found

    async def state(self, state: str, bot_id: str = "bot", within: float = PATIENCE) -> None:
        """Wait until the bot is in this state."""

        async def is_in() -> bool:
            return (await self.bot(bot_id)).state == state

        try:
            await until(is_in, within, every=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.started[-1].said()}") from None

    async def statuses(self, bot_id: str = "bot") -> list[BotStatusUpdate]:
        """All that were published, in the order of the stream."""
        updates = [each for each in await self._control.all() if "state" in each and each["bot_id"] == bot_id]
        return [BotStatusUpdate.model_validate(each) for each in updates]

    async def chunks(self, session_id: str = "bot-session") -> list[AudioChunkReceived]:
        """All that were published, in the order of the stream."""
        found = [each for each in await self._audio.all() if each["session_id"] == session_id]
        return [AudioChunkReceived.model_validate(each) for each in found]

    async def has_chunks(self, count: int, session_id: str = "bot-session", *, within: float = PATIENCE) -> None:
        """Wait until so many are published."""

        async def are_there() -> bool:
            return len(await self.chunks(session_id)) >= count

        await until(are_there, within, every=0.05)

    async def written(self, session_id: str = "bot-session") -> list[Entry]:
        """The chunks that are written down."""
        return await Register(self.app, session_id, ttl=600).chunks()

    def record(self, name: str, *channels: Sequence[bytes]) -> str:
        """A recording of these channels; its name."""
        record(self.recordings / name, *channels)
        return name

    async def close(self) -> None:
        for attempt in self.started:
            if attempt.process.poll() is None:
                attempt.process.kill()
            attempt.process.wait()


def record(path: Path, *channels: Sequence[bytes]) -> None:
    """Write a recording of these channels."""
    tracks = [array("h", b"".join(parts)) for parts in channels]
    longest = max(map(len, tracks))
    frames = array("h", bytes(2 * longest * len(tracks)))
    for number, track in enumerate(tracks):
        frames[number : len(track) * len(tracks) : len(tracks)] = track
    with wave.open(str(path), "wb") as file:
        file.setparams((len(tracks), 2, RATE, 0, "NONE", ""))
        file.writeframes(frames.tobytes())


@asynccontextmanager
async def staged(url: str, folder: Path) -> AsyncIterator[Stage]:
    """A stage that leaves nothing running."""
    async with (
        App("test", broker=url) as app,
        Emitted(url, "bot-control") as control,
        Emitted(url, "audio-ingest") as audio,
    ):
        stage = Stage(app, url, folder, control=control, audio=audio)
        try:
            yield stage
        finally:
            await stage.close()


def _next_attempt(bot: Bot) -> Bot | None:
    again = bot.with_(attempt=bot.attempt + 1, ending=None)
    return again.advanced("starting", at=datetime.now(UTC), reason="requested" if bot.attempt == 0 else "process_lost")
