"""Audio workers as processes that are killed: every chunk has one result, and hours of work are not done again."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any

import pytest
from streamtask_contrib.events import AudioChunkReceived

from streamtask import App
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import Emitted, emitted, nothing_pending, until
from tests.contrib.audio.sounds import say, speaks, wav
from tests.servers import RedisServer

SOURCE = """
from streamtask_contrib.audio import AudioSettings, router

app.include(router(AudioSettings(threads=1)))
"""
SENTENCES = ("start the meeting", "next slide please", "hello team", "no thank you", "three seven one")


async def stored(app: App, sound: bytes, n: int, **fields: Any) -> AudioChunkReceived:
    """A chunk whose audio is in a blob."""
    uri = await app.blobs.put(sound, name=f"audio/{n}")
    return AudioChunkReceived(session_id=f"s{n % 7}", chunk_id=f"c{n}", sequence=n // 7, storage_uri=uri, **fields)


@speaks
@one_server
@pytest.mark.timeout(300)
async def test_a_worker_killed_in_the_middle_of_200_chunks_has_each_transcribed_once(
    private_redis: RedisServer, start_worker: StartWorker, chance: random.Random, measured: Measured
):
    expected = {f"c{n}": chance.choice(SENTENCES) for n in range(200)}
    async with App("test", broker=private_redis.url) as app:
        chunks = [
            await stored(app, wav([silence(0.3), say(text), silence(0.5)]), n)
            for n, text in enumerate(expected.values())
        ]
        await app.publish_many(chunks)
    worker = await start_worker(private_redis.url, SOURCE)
    async with Emitted(private_redis.url, "audio-results") as results:

        async def has(count: int) -> bool:
            return len(await results.all()) >= count

        for count in (20, 80, 140):
            await until(partial(has, count), 120)
            await worker.kill_child()
        await until(partial(has, 200), 120)
    await nothing_pending(private_redis.url, "audio-ingest", "audio-pipeline")

    results = await emitted(private_redis.url, "audio-results")
    measured("results of 200 chunks", len(results))
    measured("largest batch", max(result["latency"]["batch_size"] for result in results))
    assert Counter(result["chunk_id"] for result in results) == dict.fromkeys(expected, 1)
    assert {result["chunk_id"]: result["text"] for result in results} == expected
