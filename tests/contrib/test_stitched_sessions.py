"""A recording in chunks, out of order, late and twice, has the words that it has in one piece."""

from __future__ import annotations

import difflib
import itertools
import random

import numpy as np
import pytest

pytest.importorskip("faster_whisper", reason="needs the extra: pip install '.[audio]'")

from streamtask_contrib import audio
from streamtask_contrib.events import AudioChunkReceived, AudioConfig
from streamtask_contrib.transcript import Sessions, Transcript
from streamtask_contrib.transcript import router as transcripts

from streamtask import App
from tests.chaos.conftest import one_server
from tests.chaos.workers import until
from tests.contrib.audio.sounds import RATE, say, silence, speaks, wav
from tests.servers import RedisServer

pytestmark = one_server

SEED = 1
#: A voice that the model that ships was not trained on.
VOICE = "en-us+m8"
PHRASES = ("start the meeting", "next slide please", "thank you team", "please join the meeting", "hello team")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: Seconds of a chunk, and that it shares with each neighbour.
LENGTH, OVERLAP = 8.0, 1.0


def recording(chance: random.Random) -> tuple[np.ndarray, list[str]]:
    """Three quarters of a minute of sentences with short pauses, and their words."""
    parts, words = [silence(0.4)], list[str]()
    while sum(map(len, parts)) < 45 * RATE:
        # None twice in a row: over a seam, that cannot be told from one word that both sides have heard.
        digits = " ".join(chance.sample(DIGITS, k=chance.randint(2, 5)))
        line = chance.choice((chance.choice(PHRASES), digits))
        words += line.split()
        parts += [say(line, voice=VOICE), silence(chance.uniform(0.4, 1.0))]
    return np.concatenate(parts), words


async def chunks(app: App, sound: np.ndarray) -> list[AudioChunkReceived]:
    """The recording cut without regard to what is said in it."""
    total = len(sound) / RATE
    starts = list(itertools.takewhile(lambda at: at + OVERLAP < total, itertools.count(0.0, LENGTH - OVERLAP)))
    return [
        AudioChunkReceived(
            session_id="chunks",
            chunk_id=f"chunks:{number}",
            sequence=number,
            start=start,
            is_last=start == starts[-1],
            audio_config=AudioConfig(overlap=OVERLAP),
            storage_uri=await app.blobs.put(
                wav(sound[int(start * RATE) : int((start + LENGTH) * RATE)]), name=f"chunks/{number}"
            ),
        )
        for number, start in enumerate(starts)
    ]


async def transcript(app: App, session_id: str) -> Transcript:
    """Of a session, when all of it is there."""
    sessions, found = Sessions(app), list[Transcript]()

    async def is_complete() -> bool:
        state = await sessions.load(session_id)
        found[:] = [state.transcript()] if state else []
        return bool(found) and found[0].is_complete

    await until(is_complete, within=90.0, every=0.2)
    return found[0]


@speaks
@pytest.mark.timeout(240)
async def test_chunks_that_come_shuffled_late_and_twice_say_what_the_whole_says(redis_server: RedisServer) -> None:
    chance = random.Random(SEED)
    sound, words = recording(chance)
    app = App("speech", broker=redis_server.url)
    app.include(audio.router(audio.AudioSettings(threads=1)))
    app.include(transcripts())

    async with app.worker():
        uri = await app.blobs.put(wav(sound), name="whole")
        await app.publish(AudioChunkReceived(session_id="whole", chunk_id="whole", storage_uri=uri, is_last=True))
        cut = await chunks(app, sound)
        arriving = [*cut, *chance.sample(cut, k=3)]
        chance.shuffle(arriving)
        for number, chunk in enumerate(arriving):
            await app.publish(chunk, delay=chance.uniform(0.1, 1.0) if number % 3 == 0 else None)
        whole, stitched = await transcript(app, "whole"), await transcript(app, "chunks")

    seams, wrong = len(cut) - 1, _edits(words, whole.text.split())
    print(f"\nMEASURED stitching, seed {SEED}: {len(words)} words, {seams} seams, {wrong} misheard in the whole")  # noqa: T201
    assert wrong <= len(words) * 0.05
    assert stitched.text == whole.text
    assert stitched.end == pytest.approx(whole.end, abs=0.1)
    assert (stitched.missing, stitched.failed) == ((), {})


def _edits(one: list[str], other: list[str]) -> int:
    """Words that were put in, left out or replaced."""
    opcodes = difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    return sum(max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in opcodes if kind != "equal")
