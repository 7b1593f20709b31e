"""Audio workers as processes that are killed: every chunk has one result, and hours of work are not done again."""

from __future__ import annotations

import asyncio
import random
import resource
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from streamtask_contrib.events import AudioChunkReceived, TranscriptionCompleted
from streamtask_contrib.transcript import stitch

from streamtask import App
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Emitted, Ledger, emitted, nothing_pending, publish, until
from tests.contrib.audio.sounds import RATE, say, silence, speaks, wav
from tests.servers import RedisServer

SOURCE = """
from streamtask_contrib.audio import AudioSettings, router

app.include(router(AudioSettings(threads=1)))
"""
FILES = """
from streamtask import BlobStores
from streamtask_contrib.audio import AudioSettings, router

app = App("chaos", blobs=BlobStores(folder=os.environ["AUDIO_FOLDER"], max_bytes=1 << 30))
app.include(router(AudioSettings(threads=1)))
"""
#: Notes where each attempt begins and every checkpoint; and waits after the one that the test wants to kill it behind.
WATCHED = """
from streamtask import BlobStores
from streamtask_contrib.audio import AudioSettings, pipeline, progress, router

app = App("chaos", blobs=BlobStores(folder=os.environ["AUDIO_FOLDER"], max_bytes=1 << 30))
app.include(router(AudioSettings(threads=1, checkpoint_every=8)))


class Watched(progress.Progress):
    kept = 0

    @classmethod
    async def of(cls, chunk_id, records, state):
        made = await super().of(chunk_id, records, state)
        note("begins", chunk_id, position=made.at.position / 16000, segments=len(made.segments()), parts=made.at.parts)
        return made

    async def checkpoint(self):
        state = await super().checkpoint()
        note("checkpoint", "", position=self.at.position / 16000, parts=self.at.parts)
        self.kept += 1
        if self.kept > 4:
            await gate("killed")
        return state


pipeline.Progress = Watched
progress._PART_BYTES = 2_000
"""
#: Chunks of which a worker is killed in the middle, three times.
CHUNKS = 200 if LONG else 80
SENTENCES = ("start the meeting", "next slide please", "hello team", "no thank you", "three seven one")


async def stored(app: App, sound: bytes, n: int, **fields: Any) -> AudioChunkReceived:
    """A chunk whose audio is in a blob."""
    uri = await app.blobs.put(sound, name=f"audio/{n}")
    return AudioChunkReceived(session_id=f"s{n % 7}", chunk_id=f"c{n}", sequence=n // 7, storage_uri=uri, **fields)


@speaks
@one_server
@pytest.mark.timeout(300)
async def test_a_worker_killed_in_the_middle_of_many_chunks_has_each_transcribed_once(
    private_redis: RedisServer, start_worker: StartWorker, chance: random.Random, measured: Measured
):
    expected = {f"c{n}": chance.choice(SENTENCES) for n in range(CHUNKS)}
    async with App("test", broker=private_redis.url) as app:
        chunks = [
            await stored(app, wav([silence(0.3), say(text), silence(0.5)]), n, start=n // 7 * 10.0)
            for n, text in enumerate(expected.values())
        ]
        await app.publish_many(chunks)
    worker = await start_worker(private_redis.url, SOURCE)
    async with Emitted(private_redis.url, "audio-results") as results:

        async def has(count: int) -> bool:
            return len(await results.all()) >= count

        for count in (CHUNKS // 10, CHUNKS * 4 // 10, CHUNKS * 7 // 10):
            await until(partial(has, count), 200)
            await worker.kill_child()
        await until(partial(has, CHUNKS), 200)
    await nothing_pending(private_redis.url, "audio-ingest", "audio-pipeline")

    results = await emitted(private_redis.url, "audio-results")
    measured(f"results of {CHUNKS} chunks", len(results))
    measured("largest batch", max(result["latency"]["batch_size"] for result in results))
    assert Counter(result["chunk_id"] for result in results) == dict.fromkeys(expected, 1)
    assert {result["chunk_id"]: result["text"] for result in results} == expected
    for session in range(7):
        said = [TranscriptionCompleted.model_validate(each) for each in results if each["session_id"] == f"s{session}"]
        assert stitch(said).text == " ".join(expected[f"c{n}"] for n in range(session, CHUNKS, 7))


@speaks
@one_server
@pytest.mark.timeout(300)
async def test_a_long_file_goes_on_where_its_worker_was_killed(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, tmp_path: Path, chance: random.Random
):
    sentences = [chance.choice(SENTENCES) for _ in range(60)]
    sound = wav([part for text in sentences for part in (silence(5), say(text), silence(chance.uniform(1, 5)))])
    (tmp_path / "long.wav").write_bytes(sound)
    chunk = AudioChunkReceived(session_id="s", chunk_id="c", storage_uri=f"file://{tmp_path}/long.wav", is_last=True)
    worker = await start_worker(private_redis.url, WATCHED, environment={"AUDIO_FOLDER": str(tmp_path)}, processes=1)
    await publish(private_redis.url, [chunk])
    await until(lambda: len(ledger.lines("checkpoint")) == 5, 120)

    await worker.kill_child()
    ledger.open_gate("killed")
    await nothing_pending(private_redis.url, "audio-ingest", "audio-pipeline", within=120)

    [first, second] = ledger.lines("begins")
    kept = ledger.lines("checkpoint")[3]
    # The fifth had not reached the server.
    assert (first.more["position"], first.more["segments"]) == (0, 0)
    assert second.more["position"] == kept.more["position"] > 100
    assert second.more["parts"] == kept.more["parts"] > 0
    [result] = await emitted(private_redis.url, "audio-results")
    assert [segment["text"] for segment in result["segments"]] == sentences
    starts = [segment["start"] for segment in result["segments"]]
    assert starts == sorted(starts)


@speaks
@one_server
@pytest.mark.timeout(600 if LONG else 300)
async def test_hours_with_a_few_words_need_little_memory(
    private_redis: RedisServer, start_worker: StartWorker, tmp_path: Path, measured: Measured
):
    hours = 3 if LONG else 1
    words = {60 + 700 * n: SENTENCES[n % len(SENTENCES)] for n in range(hours * 5)}
    write_flac(tmp_path / "long.flac", hours * 3600, {at: say(text) for at, text in words.items()})
    measured("MB of the file", (tmp_path / "long.flac").stat().st_size / 1e6)
    worker = await start_worker(private_redis.url, FILES, environment={"AUDIO_FOLDER": str(tmp_path)})
    [pid] = await worker.child_pids()
    before = most = memory(pid)
    uri = f"file://{tmp_path}/long.flac"

    await publish(private_redis.url, [AudioChunkReceived(session_id="s", chunk_id="c", storage_uri=uri)])
    async with Emitted(private_redis.url, "audio-results") as results:
        while not await results.all():
            most = max(most, memory(pid))
            await asyncio.sleep(0.1)
        [result] = await results.all()

    measured("hours", hours)
    measured("MiB more than at rest", most - before)
    measured("seconds", result["latency"]["total"])
    assert [segment["text"] for segment in result["segments"]] == list(words.values())
    assert [segment["start"] for segment in result["segments"]] == pytest.approx(list(words), abs=0.3)
    # Decoded, an hour has 230 MB as the model takes it.
    assert most - before < 120


def memory(pid: int) -> float:
    """MiB that a process has in memory now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def write_flac(path: Path, seconds: int, sounds: dict[int, np.ndarray]) -> None:
    """A file of silence, with sounds at some seconds; never in memory as a whole."""
    with av.open(str(path), "w", format="flac") as written:
        stream = written.add_stream("flac", rate=RATE, layout="mono")
        for at in range(0, seconds, 20):
            piece = np.zeros(20 * RATE, np.int16)
            for begin, sound in sounds.items():
                if at <= begin < at + 20:
                    place = (begin - at) * RATE
                    piece[place : place + len(sound)] = sound * 32767
            for part in np.split(piece, 20 * RATE // 4_000):
                frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), "s16", "mono")
                frame.sample_rate = RATE
                written.mux(stream.encode(frame))
        written.mux(stream.encode(None))
