"""The audio worker as users run it, with the model that ships."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from streamtask_contrib import audio, events
from streamtask_contrib.audio import AudioSettings, router
from streamtask_contrib.events import (
    AudioChunkReceived,
    AudioConfig,
    ProcessingFailed,
    ProcessingFlags,
    TranscriptionCompleted,
    TranslationRequested,
)

from streamtask import App, BlobStores
from tests.chaos.workers import until
from tests.contrib.audio.sounds import CODECS, encoded, film, say, silence, speaks, turn, wav
from tests.servers import RedisServer

#: One thread: the cores are shared with what runs beside the tests.
SETTINGS = AudioSettings(threads=1)
WORDS = "start the meeting three seven one"


async def results_of(
    *chunks: AudioChunkReceived,
    url: str = "memory://",
    settings: AudioSettings = SETTINGS,
    blobs: BlobStores = BlobStores(inline=True),  # noqa: B008 - it is frozen
) -> list[Any]:
    """What the worker publishes of these chunks, in order."""
    app = App("test", broker=url, blobs=blobs)
    app.include(router(settings))
    async with app.worker() as worker:
        await app.publish_many(chunks)
        await worker.burst_done()
        return await published(app)


async def published(app: App) -> list[Any]:
    """What stands in the stream of results."""
    found = await app.transport.read("audio-results", after="0", count=10_000, wait=0)
    envelopes = [app.broker.decode(each) for each in found]
    return [getattr(events, each.event_type).model_validate(each.payload) for each in envelopes]


def chunk(audio: bytes | None, **fields: object) -> AudioChunkReceived:
    """A chunk that carries its audio, unless `storage_uri` says where it is."""
    return AudioChunkReceived(**{"session_id": "s", "chunk_id": "c", "inline_audio": audio, "is_last": True} | fields)


@speaks
async def test_a_chunk_becomes_words_with_their_times_in_the_session():
    pieces = [silence(0.5), say(WORDS), silence(0.7), say("next slide please"), silence(0.3)]
    begins = [sum(map(len, pieces[:n])) / 16_000 for n in range(len(pieces) + 1)]

    [result] = await results_of(chunk(wav(pieces), start=100.0, sequence=7))

    assert isinstance(result, TranscriptionCompleted)
    assert result.text == f"{WORDS} next slide please"
    assert [segment.text for segment in result.segments] == [WORDS, "next slide please"]
    words = [word for segment in result.segments for word in segment.words]
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert words[0].start == pytest.approx(100 + begins[1], abs=0.3)
    assert words[-1].end == pytest.approx(100 + begins[4], abs=0.7)
    assert result.segments[1].start == pytest.approx(100 + begins[3], abs=0.3)
    assert result.end == pytest.approx(100 + begins[5])
    assert (result.language, result.language_probability, result.model) == ("en", 1.0, "whisper-commands-en")
    assert (result.session_id, result.sequence, result.is_last) == ("s", 7, True)


@speaks
async def test_the_result_says_where_the_time_went():
    received = datetime.now(UTC) - timedelta(seconds=30)

    [result] = await results_of(chunk(wav([turn(WORDS), silence(1), turn(WORDS)]), received_at=received))

    latency = result.latency
    assert 30 < latency.queue < 60
    assert min(latency.decode, latency.vad, latency.inference) > 0
    assert latency.total >= latency.inference
    assert latency.audio == pytest.approx(result.end)
    assert latency.real_time_factor == pytest.approx(latency.total / latency.audio)
    assert latency.batch_size == 2


@speaks
@pytest.mark.parametrize("container", CODECS)
async def test_any_container_is_understood(container: str):
    [result] = await results_of(chunk(encoded(container, turn(WORDS))))

    assert result.text == WORDS


@speaks
async def test_on_a_real_server(redis_server: RedisServer):
    async with App("test", broker=redis_server.url) as app:
        uri = await app.blobs.put(wav(turn(WORDS)), name="audio/1")

    [result] = await results_of(chunk(None, storage_uri=uri), url=redis_server.url)

    assert result.text == WORDS


@speaks
@pytest.mark.parametrize("language", ["en", "EN", "en-US", "eng"])
async def test_a_language_may_be_given_in_any_of_its_codes(language: str):
    [result] = await results_of(chunk(wav(turn(WORDS)), language=language))

    assert (result.text, result.language, result.language_probability) == (WORDS, "en", 1.0)


# ── nothing to hear ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_ten_minutes_of_silence_are_no_failure():
    [result] = await results_of(chunk(encoded("flac", silence(600))))

    assert isinstance(result, TranscriptionCompleted)
    assert (result.text, result.segments, result.note) == ("", [], "no speech was found")
    assert result.end == pytest.approx(600)


async def test_what_is_not_to_be_transcribed_is_not():
    assert await results_of(chunk(b"whatever", processing_flags=ProcessingFlags(transcribe=False))) == []


FAILURES = {
    "nothing": (b"", {}, "it has 0 bytes"),
    "a text called .wav": (b"dear transcriber\n" * 100, {}, "no audio file"),
    "a film without sound": (film(), {}, "holds video"),
    "no store": (None, {"storage_uri": "https://example.org/a.wav"}, "refused"),
    "a blob that is gone": (None, {"storage_uri": "redis:///audio/gone"}, "gone"),
    "nowhere": (None, {"storage_uri": ""}, "refused"),
    "a language that the model does not know": (wav(silence(1)), {"language": "fr"}, "'fr' is none that"),
}


@pytest.mark.parametrize("what", FAILURES)
async def test_what_can_never_be_transcribed_fails_once_in_words_for_people(what: str):
    audio, fields, words = FAILURES[what]

    [failure] = await results_of(chunk(audio, **fields))

    assert isinstance(failure, ProcessingFailed)
    assert (failure.stage, failure.reason, failure.attempts) == ("transcription", "rejected", 1)
    assert (failure.session_id, failure.chunk_id, failure.is_last) == ("s", "c", True)
    assert words in failure.message
    assert "Error" not in failure.message


async def test_audio_inside_of_an_event_is_for_development():
    [failure] = await results_of(chunk(wav(silence(1))), blobs=BlobStores())

    assert "STREAMTASK_BLOBS_INLINE" in failure.message


# ── once, in time, in order ───────────────────────────────────────────────────────────────────────────────────────


@speaks
async def test_the_same_chunk_five_times_has_one_result(redis_server: RedisServer):
    results = await results_of(
        *[chunk(wav(turn(WORDS)))] * 5, url=redis_server.url, settings=AudioSettings(threads=1, concurrency=5)
    )

    assert [result.text for result in results] == [WORDS]


@speaks
async def test_a_partial_is_shown_and_does_not_take_the_place_of_the_whole():
    sound = wav([turn(WORDS), silence(1), turn("hello team")])
    beginning = wav(turn(WORDS))

    results = await results_of(chunk(beginning, is_partial=True, is_last=False), chunk(sound))

    assert sorted((result.is_partial, result.text) for result in results) == [
        (False, f"{WORDS} hello team"),
        (True, WORDS),
    ]


async def test_a_partial_that_comes_too_late_is_skipped():
    late = datetime.now(UTC) - timedelta(seconds=4)

    assert await results_of(chunk(b"not even looked at", is_partial=True, received_at=late)) == []


async def test_a_partial_that_fails_says_nothing():
    assert await results_of(chunk(b"no audio", is_partial=True)) == []


@speaks
async def test_the_words_of_the_neighbours_are_left_to_them():
    # "start the meeting" lies in the second that this chunk shares with the one before it.
    sound = wav([say("start the meeting"), silence(1.5), say("next slide please"), silence(2.0)])
    overlap = AudioConfig(overlap=2 * len(say("start the meeting")) / 16_000 + 0.5)

    [result] = await results_of(chunk(sound, sequence=3, start=50.0, is_last=True, audio_config=overlap))

    assert result.text == "next slide please"
    assert result.overlap == overlap.overlap


# ── what comes of it ──────────────────────────────────────────────────────────────────────────────────────────────


@speaks
async def test_translations_are_asked_for_in_each_other_language():
    flags = ProcessingFlags(translate=True, target_languages=["fr", "en-GB", "deu", "fr", "tlh"])

    result, *requests = await results_of(chunk(wav(turn(WORDS)), processing_flags=flags))

    assert [request.target_language for request in requests] == ["fr", "de", "tlh"]
    for request in requests:
        assert isinstance(request, TranslationRequested)
        assert request.source_language == "en"
        assert [segment.text for segment in request.segments] == [WORDS]
        assert request.segments[0].start == result.segments[0].start


async def test_silence_is_not_translated():
    flags = ProcessingFlags(translate=True, target_languages=["fr"])

    assert len(await results_of(chunk(wav(silence(1)), processing_flags=flags))) == 1


@speaks
async def test_segments_that_are_too_many_for_an_event_are_stored_beside_it(redis_server: RedisServer):
    flags = ProcessingFlags(translate=True, target_languages=["fr"])
    app = App("test", broker=redis_server.url, blobs=BlobStores(inline=True))
    app.include(router(AudioSettings(threads=1, max_event_bytes=1_000)))
    async with app.worker() as worker:
        await app.publish(chunk(wav([turn(WORDS), silence(0.7)] * 2), processing_flags=flags))
        await worker.burst_done()
        result, request = await published(app)
        stored = json.loads(await app.blobs.get(result.segments_uri))

    assert result.segments == []
    assert result.text == f"{WORDS} {WORDS}"
    assert [segment["text"] for segment in stored] == [WORDS, WORDS]
    assert request.segments_uri == result.segments_uri


# ── the worker ────────────────────────────────────────────────────────────────────────────────────────────────────


@speaks
async def test_turns_of_many_sessions_share_inferences():
    chunks = [chunk(wav(turn(WORDS)), session_id=f"s{n}", chunk_id=f"c{n}") for n in range(24)]

    results = await results_of(*chunks, settings=AudioSettings(threads=1, concurrency=24, batch_wait=0.1))

    assert [result.text for result in results] == [WORDS] * 24
    assert max(result.latency.batch_size for result in results) == 8


@speaks
async def test_it_measures(redis_server: RedisServer):
    app = App("test", broker=redis_server.url, blobs=BlobStores(inline=True))
    app.include(router(SETTINGS))
    async with app.worker() as worker:
        assert app.metrics.registry.get_sample_value("streamtask_audio_model_loaded") == 1
        await app.publish_many([chunk(wav(turn(WORDS)), chunk_id=str(n)) for n in range(3)])
        await worker.burst_done()
    figures = {
        (sample.name, *sample.labels.values()): sample.value
        for family in app.metrics.registry.collect()
        for sample in family.samples
    }

    assert figures["streamtask_audio_seconds_count", "total"] == 3
    assert figures["streamtask_audio_processed_seconds_total",] == pytest.approx(3 * len(turn(WORDS)) / 16_000, abs=0.1)
    assert figures["streamtask_audio_batch_size_sum",] == 3
    assert figures["streamtask_audio_real_time_factor_count",] == 3
    assert figures["streamtask_audio_model_loaded",] == 0


@speaks
async def test_a_model_that_is_idle_is_unloaded_and_comes_back():
    app = App("test", broker="memory://", blobs=BlobStores(inline=True))
    app.include(router(AudioSettings(threads=1, idle_unload=0.4)))
    loaded = lambda: app.metrics.registry.get_sample_value("streamtask_audio_model_loaded")  # noqa: E731
    async with app.worker() as worker:
        await until(lambda: not loaded(), 20)
        await app.publish(chunk(wav(turn(WORDS))))
        await worker.burst_done()
        [result] = await published(app)

    assert result.text == WORDS


async def test_the_app_of_the_command_line_is_made_when_it_is_asked_for():
    assert audio.app is audio.app
    assert {handler.group for handler in audio.app.handlers} == {"audio-pipeline", "transcripts"}
    with pytest.raises(AttributeError):
        audio.nothing  # noqa: B018 - asking is the test
