"""The group `translation`: `TranslationRequested` → `TranslationCompleted`, a segment for each segment.

A request that is published five times has one result; one that is given up becomes `ProcessingFailed` in the same
atomic step that makes its dead letter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from streamtask import App, ConfigurationError, Context, DeadEvent, Router
from streamtask_contrib.events import ProcessingFailed, TranslationCompleted, TranslationRequested
from streamtask_contrib.handling import told, waited_since
from streamtask_contrib.translation.engine import TranslationEngine
from streamtask_contrib.translation.metrics import TranslationMetrics
from streamtask_contrib.translation.pipeline import Pipeline
from streamtask_contrib.translation.settings import TranslationSettings

log = logging.getLogger(__name__)

#: The consumer group of all translation workers.
GROUP = "translation"


def router(settings: TranslationSettings) -> Router:
    """The handler of `TranslationRequested`, whose model is loaded in the worker's lifespan. For one app."""
    routes = Router()
    service = _Service(settings)

    @routes.worker_lifespan
    async def model(app: App) -> AsyncIterator[None]:
        async with service.running(app):
            yield

    @routes.on(
        TranslationRequested,
        group=GROUP,
        concurrency=settings.concurrency,
        dedupe=identity,
        on_dead=failed,
    )
    async def translate(request: TranslationRequested, ctx: Context) -> TranslationCompleted | None:
        return await service.handle(request, ctx)

    return routes


class _Service:
    """What the handler of one router has while its worker runs."""

    def __init__(self, settings: TranslationSettings) -> None:
        self._settings = settings
        self._pipeline: Pipeline | None = None
        self._metrics: TranslationMetrics | None = None

    @asynccontextmanager
    async def running(self, app: App) -> AsyncIterator[None]:
        """The model is in memory, and has proved that it works."""
        engine = TranslationEngine(self._settings)
        await asyncio.to_thread(engine.load)
        metrics = self._metrics = TranslationMetrics(app.metrics.registry)
        pipeline = self._pipeline = Pipeline(self._settings, engine, metrics)
        watcher = asyncio.create_task(self._unload_when_idle(engine))
        try:
            yield
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
            self._pipeline = self._metrics = None
            await pipeline.close()
            metrics.close()
            await asyncio.to_thread(engine.unload)

    async def handle(self, request: TranslationRequested, ctx: Context) -> TranslationCompleted | None:
        """The result of a request; None for a partial one that nobody waits for any more."""
        if self._pipeline is None or self._metrics is None:
            raise ConfigurationError("there is no model: the router of translation runs in a worker, with its lifespan")
        waited = waited_since(request.requested_at)
        if request.is_partial and waited > self._settings.partial_max_age:
            self._metrics.skipped()
            return None
        return await self._pipeline.translate(request, ctx, waited=waited)

    async def _unload_when_idle(self, engine: TranslationEngine) -> None:
        patience = self._settings.idle_unload
        while patience:
            await asyncio.sleep(max(patience / 4, patience - engine.idle()))
            if engine.is_loaded and engine.idle() >= patience:
                await asyncio.to_thread(engine.unload)
                log.info("translation.unloaded", extra={"model": engine.name})


def identity(request: TranslationRequested) -> str | None:
    """What makes two requests one. Partial results of a chunk share its id, and each of them is a result."""
    return None if request.is_partial else f"{request.chunk_id}\n{request.target_language}"


def failed(request: TranslationRequested, dead: DeadEvent) -> ProcessingFailed | None:
    """Say that a request was given up, in words for people. A partial's successor says it, if it has to be said."""
    if request.is_partial:
        return None
    return ProcessingFailed(
        session_id=request.session_id,
        chunk_id=request.chunk_id,
        sequence=request.sequence,
        stage="translation",
        target_language=request.target_language,
        reason=dead.reason,
        message=told(dead, work="text", remedy="send fewer segments at a time"),
        attempts=dead.attempts,
    )
