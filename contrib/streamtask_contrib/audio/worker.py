"""The audio worker: the group `audio-pipeline`, from `AudioChunkReceived` to `TranscriptionCompleted`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streamtask import App, Backoff, ConfigurationError, Context, DeadEvent, Event, Retry, Router
from streamtask_contrib.audio.engine import WhisperEngine
from streamtask_contrib.audio.metrics import AudioMetrics
from streamtask_contrib.audio.pipeline import Pipeline
from streamtask_contrib.audio.settings import AudioSettings
from streamtask_contrib.events import (
    AudioChunkReceived,
    ProcessingFailed,
    TextSegment,
    TranscriptionCompleted,
    TranslationRequested,
)
from streamtask_contrib.handling import told, waited_since
from streamtask_contrib.languages import known

#: The consumer group of all audio workers.
GROUP = "audio-pipeline"


def router(settings: AudioSettings) -> Router:
    """The handlers of the audio worker. Its model is loaded in the worker's lifespan."""
    routes = Router()
    service = _Service(settings)

    @routes.worker_lifespan
    async def model(app: App) -> AsyncIterator[None]:
        async with service.running(app):
            yield

    @routes.on(
        AudioChunkReceived,
        group=GROUP,
        concurrency=settings.concurrency,
        retry=Retry(5, backoff=Backoff(base=2, cap=60)),
        timeout=settings.time_limit,
        dedupe=_identity,
        on_dead=failed,
    )
    async def transcribe(chunk: AudioChunkReceived, ctx: Context) -> list[Event]:
        return await service.handle(chunk, ctx)

    return routes


class _Service:
    """What the handlers of one router share while their worker runs."""

    def __init__(self, settings: AudioSettings) -> None:
        self._settings = settings
        self._pipeline: Pipeline | None = None
        self._metrics: AudioMetrics | None = None

    @asynccontextmanager
    async def running(self, app: App) -> AsyncIterator[None]:
        """The model is in memory, and has proved that it works."""
        self._metrics = self._metrics or AudioMetrics(app.metrics.registry)
        engine = WhisperEngine(self._settings)
        await asyncio.to_thread(engine.load)
        self._metrics.model_loaded.set(1)
        pipeline = Pipeline(self._settings, engine, self._metrics)
        watcher = asyncio.create_task(self._unload_when_idle(engine))
        try:
            await pipeline.load()
            self._pipeline = pipeline
            yield
        finally:
            self._pipeline = None
            watcher.cancel()
            await asyncio.wait([watcher])
            await pipeline.close()
            engine.unload()
            self._metrics.model_loaded.set(0)

    async def handle(self, chunk: AudioChunkReceived, ctx: Context) -> list[Event]:
        """The result of a chunk, and what is wanted of it next."""
        if self._pipeline is None or self._metrics is None:
            raise ConfigurationError("the audio worker has no model: its router runs in a worker, with its lifespan")
        if not chunk.processing_flags.transcribe:
            return []
        if chunk.is_partial and waited_since(chunk.received_at) > self._settings.partial_max_age:
            self._metrics.skipped.inc()
            return []
        result = await self._pipeline.transcribe(chunk, ctx)
        return [result, *_translations(chunk, result)]

    async def _unload_when_idle(self, engine: WhisperEngine) -> None:
        idle = self._settings.idle_unload
        while idle:
            await asyncio.sleep(idle / 4)
            if await asyncio.to_thread(engine.unload_if_idle, idle) and self._metrics is not None:
                self._metrics.model_loaded.set(0)


def _identity(chunk: AudioChunkReceived) -> str:
    """What is done once: a chunk; and each of its partials, which share its id."""
    return f"{chunk.chunk_id} up to {chunk.received_at.isoformat()}" if chunk.is_partial else chunk.chunk_id


def failed(chunk: AudioChunkReceived, dead: DeadEvent) -> ProcessingFailed | None:
    """Say that a chunk was given up, in words for people. A partial's successor says it, if it has to be said."""
    if chunk.is_partial:
        return None
    return ProcessingFailed(
        session_id=chunk.session_id,
        chunk_id=chunk.chunk_id,
        sequence=chunk.sequence,
        is_last=chunk.is_last,
        stage="transcription",
        reason=dead.reason,
        message=told(dead, work="audio", remedy="send it in smaller pieces"),
        attempts=dead.attempts,
    )


def _translations(chunk: AudioChunkReceived, result: TranscriptionCompleted) -> list[TranslationRequested]:
    """A request for each language that is wanted and is not the one that is spoken."""
    if not chunk.processing_flags.translate or not (result.segments or result.segments_uri):
        return []
    segments = [
        TextSegment(start=each.start, end=each.end, text=each.text, speaker=each.speaker) for each in result.segments
    ]
    return [
        TranslationRequested(
            session_id=result.session_id,
            chunk_id=result.chunk_id,
            sequence=result.sequence,
            is_partial=result.is_partial,
            source_language=result.language,
            target_language=target,
            segments=segments,
            segments_uri=result.segments_uri,
        )
        for target in dict.fromkeys(map(_plain, chunk.processing_flags.target_languages))
        if target != result.language
    ]


def _plain(language: str) -> str:
    """The catalog's code of a language. One that is in no table is passed on: who translates says what is wrong."""
    try:
        return known(language)
    except ValueError:
        return language
