"""From a meeting to its transcript: a bot's process, the worker with the model that ships, and a real Redis."""

from __future__ import annotations

import os
import shutil
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("faster_whisper", reason="the extra `audio` is not installed")

import streamtask_contrib
from streamtask_contrib.cli.processes import Workers
from streamtask_contrib.events import BotRequested
from streamtask_contrib.transcript import Sessions

from tests.chaos.conftest import Measured
from tests.chaos.workers import until
from tests.contrib.bot.attempts import Stage

MEETING = Path(streamtask_contrib.__file__).parent / "demo"
#: What is said in it, and by whom.
SAID = [
    ("Ada", "hello team"),
    ("Ben", "hello"),
    ("Ada", "please join the meeting"),
    ("Ben", "start record now"),
    ("Ada", "open the next slide"),
    ("Ben", "call three seven one"),
]


@pytest.mark.timeout(120)
async def test_the_words_of_a_meeting_stand_under_the_names_of_those_who_said_them(
    stage: Stage, measured: Measured
) -> None:
    for name in ("meeting-stereo.wav", "meeting.json"):
        shutil.copy(MEETING / name, stage.recordings)
    await stage.request("file:meeting-stereo.wav?speed=3", language="en")
    with Workers(stage.url, stage.folder) as workers:
        workers.start("streamtask_contrib.audio:app")
        attempt = await stage.start()
        assert await attempt.exit_code() == 0, attempt.said()
        sessions = Sessions(stage.app)

        async def is_complete() -> bool:
            state = await sessions.load("bot-session")
            return state is not None and state.transcript().is_complete

        await until(is_complete, 60)

    state = await sessions.load("bot-session")
    assert state is not None
    transcript = state.transcript()
    measured("chunks", len(await stage.chunks()))
    assert [(segment.speaker, segment.text) for segment in transcript.segments] == SAID
    assert transcript.speaker_map.method == "source"
    assert state.facts.source_type == "bot"
    assert [status.state for status in await stage.statuses()][-1] == "leaving"


@pytest.mark.timeout(180)
async def test_a_bot_that_is_killed_in_the_meeting_is_started_again_and_has_the_rest_of_the_words(
    stage: Stage, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the orchestrator as it is: it sees the death, and nobody else does anything."""
    for name in ("meeting-stereo.wav", "meeting.json"):
        shutil.copy(MEETING / name, stage.recordings)
    monkeypatch.setenv("STREAMTASK_BOT_RECORDINGS", str(stage.recordings))
    monkeypatch.setenv("STREAMTASK_BOT_LOGS", str(stage.folder / "logs"))
    with Workers(stage.url, stage.folder) as workers:
        workers.start("streamtask_contrib.audio:app")
        workers.start("streamtask_contrib.bot:app")
        begins = quote((datetime.now(UTC) + timedelta(seconds=8)).isoformat())
        await stage.app.publish(
            BotRequested(
                bot_id="bot",
                session_id="bot-session",
                driver="file",
                meeting_url=f"file:meeting-stereo.wav?begins={begins}",
                language="en",
            )
        )
        await stage.has_chunks(2)
        process = (await stage.bot()).process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        killed = time.monotonic()
        before = len(await stage.chunks())
        await stage.has_chunks(before + 1)
        measured("seconds from the kill to the next chunk", time.monotonic() - killed)
        await stage.state("stopped")
        sessions = Sessions(stage.app)

        async def is_complete() -> bool:
            state = await sessions.load("bot-session")
            return state is not None and state.transcript().is_complete

        await until(is_complete, 60)

    statuses = await stage.statuses()
    assert [status.sequence for status in statuses] == list(range(len(statuses)))
    assert (statuses[-1].reason, statuses[-1].attempt) == ("meeting_ended", 2)
    chunks = await stage.chunks()
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    state = await sessions.load("bot-session")
    assert state is not None
    heard = [(segment.speaker, segment.text) for segment in state.transcript().segments]
    whole = [line for line in heard if line in SAID]
    measured("lines of six that were heard whole", len(whole))
    # What was said while nobody listened is lost, with at most half a line to each side.
    assert whole == [line for line in SAID if line in whole]
    assert len(heard) - len(whole) <= 2
    assert len(whole) >= 3
    assert whole[-1] == SAID[-1]
