"""A meeting in the real Chromium becomes words under the right names, with the workers as users start them."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import streamtask_contrib

pytest.importorskip("playwright", reason="the extra `bot` is not installed")
pytest.importorskip("faster_whisper", reason="the extra `audio` is not installed")

from streamtask_contrib.bot.processes import FOLDER

from tests.chaos.conftest import StartWorker
from tests.chaos.workers import emitted, until
from tests.contrib.bot.drivers.listening import RATE, as_wav, channels, measured
from tests.contrib.bot.drivers.processes import alive_in, alive_of_group
from tests.contrib.bot.drivers.site import Site
from tests.contrib.bot.meetings import REAL, Meetings

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed"),
]

#: Seconds that all of it may take on a busy machine; and that a bot has to be gone within.
PATIENCE = 120.0
_WRITTEN_WITHIN = 60.0
_GONE_WITHIN = 10.0
AUDIO = "from streamtask_contrib.audio import app\n"
#: Who of the recording is who of the pages.
NAMES = {"Ada": "Alice", "Ben": "Bob"}


def said() -> dict[str, str]:
    """What each says in the recording that comes with the package, which is the beginning of a meeting."""
    seconds = len(channels()[0]) / RATE
    turns = json.loads((Path(streamtask_contrib.__file__).parent / "demo" / "meeting.json").read_text())
    lines = defaultdict(list)
    for turn in turns:
        if turn["end"] < seconds:
            lines[NAMES[turn["speaker"]]].append(turn["text"])
    return {name: " ".join(texts) for name, texts in lines.items()}


async def heard(meetings: Meetings) -> dict[str, str]:
    """What the workers have made of it so far."""
    results = [each for each in await emitted(meetings.url, "audio-results") if not each.get("is_partial")]
    lines = defaultdict(list)
    for result in sorted(results, key=lambda each: each["sequence"]):
        for segment in result["segments"]:
            lines[segment["speaker"]].append(segment["text"].strip())
    return {name: " ".join(texts) for name, texts in lines.items()}


@pytest.mark.parametrize("page", ["elements.html", "webrtc.html"])
async def test_two_who_speak_are_written_down_and_a_stop_leaves_nothing(
    meetings: Meetings, start_worker: StartWorker, page: str
) -> None:
    alice, bob = channels()
    with Site({"/alice.wav": as_wav(alice), "/bob.wav": as_wav(bob)}) as site:
        await meetings.worker(REAL)
        audio = await start_worker(meetings.url, AUDIO)
        began = time.monotonic()
        await meetings.request("b1", meeting_url=f"{site.url}/{page}", language="en")
        await meetings.reach("capturing", "b1", within=PATIENCE)
        captured = time.monotonic() - began
        await _until_written(meetings)
        written = time.monotonic() - began
        bot = await meetings.bot("b1")
        assert sorted(bot.participants) == ["Alice", "Bob"]
        folder = Path(psutil.Process(bot.process.pid).environ()[FOLDER])
        browser = alive_in(folder)
        assert any("--type=renderer" in process for process in browser)

        asked = time.monotonic()
        await meetings.stop("b1")
        await meetings.reach("stopped", "b1", within=PATIENCE)
        stopped = time.monotonic() - asked
        measured(
            page=page,
            capturing_s=round(captured, 1),
            written_s=round(written, 1),
            stopped_s=round(stopped, 1),
            processes=len(browser),
        )
        assert stopped < _GONE_WITHIN
        assert alive_in(folder) == alive_of_group(bot.process.pid) == []
        assert not await asyncio.to_thread(folder.exists)
        assert (await meetings.bot("b1")).reason == "asked"
        assert (await meetings.states("b1"))[-3:] == ["capturing", "leaving", "stopped"]
        assert await heard(meetings) == said()
        await audio.close()


async def _until_written(meetings: Meetings) -> None:
    async def is_written() -> bool:
        return await heard(meetings) == said()

    with suppress(AssertionError):  # which would not say what was written instead
        await until(is_written, within=_WRITTEN_WITHIN, every=0.5)
    assert await heard(meetings) == said()
