"""The audio worker as users run it, with the model that ships."""

from __future__ import annotations

import pytest
from streamtask_contrib import events
from streamtask_contrib.audio import AudioSettings, router
from streamtask_contrib.events import AudioChunkReceived, TranscriptionCompleted

from streamtask import App, BlobStores
from tests.contrib.audio.sounds import CODECS, encoded, say, silence, speaks, wav
from tests.servers import RedisServer

#: One thread: the cores are shared with what runs beside the tests.
SETTINGS = AudioSettings(threads=1)
WORDS = "start the meeting three seven one"


async def results_of(
    *chunks: AudioChunkReceived, url: str = "memory://", settings: AudioSettings = SETTINGS
) -> list[events.Event]:
    """What the worker publishes of these chunks, in order."""
    app = App("test", broker=url, blobs=BlobStores(inline=True))
    app.include(router(settings))
    async with app.worker() as worker:
        await app.publish_many(chunks)
        await worker.burst_done()
        found = await app.transport.read("audio-results", after="0", count=1000, wait=0)
        envelopes = [app.broker.decode(each) for each in found]
        return [getattr(events, each.event_type).model_validate(each.payload) for each in envelopes]


def chunk(audio: bytes | None, **fields: object) -> AudioChunkReceived:
    """A chunk that carries its audio, unless `storage_uri` says where it is."""
    return AudioChunkReceived(**{"session_id": "s", "chunk_id": "c", "inline_audio": audio, "is_last": True} | fields)


@speaks
async def test_a_chunk_becomes_words_with_their_times_in_the_session():
    sound = wav([silence(0.5), say(WORDS), silence(0.7), say("next slide please"), silence(0.3)])

    [result] = await results_of(chunk(sound, start=100.0, sequence=7))

    assert isinstance(result, TranscriptionCompleted)
    assert result.text == f"{WORDS} next slide please"
    assert [segment.text for segment in result.segments] == [WORDS, "next slide please"]
    starts = [word.start for segment in result.segments for word in segment.words]
    assert starts == sorted(starts)
    assert 100.3 < starts[0] < 100.9
    assert result.segments[1].start == pytest.approx(100.5 + len(say(WORDS)) / 16_000 + 0.7, abs=0.4)
    assert result.end == pytest.approx(100.0 + 1.5 + len(say(WORDS)) / 16_000 + len(say("next slide please")) / 16_000)
    assert (result.language, result.language_probability, result.model) == ("en", 1.0, "whisper-commands-en")
    assert result.latency.batch_size == 2
    assert result.latency.total > result.latency.inference > 0


@speaks
@pytest.mark.parametrize("container", CODECS)
async def test_any_container_is_understood(container: str):
    [result] = await results_of(chunk(encoded(container, say(WORDS))))

    assert result.text == WORDS


@speaks
async def test_on_a_real_server(redis_server: RedisServer):
    async with App("test", broker=redis_server.url) as app:
        uri = await app.blobs.put(wav([say(WORDS)]), name="audio/1")

    [result] = await results_of(chunk(None, storage_uri=uri), url=redis_server.url)

    assert result.text == WORDS
