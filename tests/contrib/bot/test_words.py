"""From a meeting to its transcript: a bot's process, the worker with the model that ships, and a real Redis."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("faster_whisper", reason="the extra `audio` is not installed")

import streamtask_contrib
from streamtask_contrib.cli.processes import Workers
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
