"""One request from segments to translated segments: reading them, batching their sentences, and fitting the result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from streamtask import Context, Reject
from streamtask_contrib.batching import Batcher
from streamtask_contrib.events import (
    Latency,
    TextSegment,
    TranslatedSegment,
    TranslationCompleted,
    TranslationRequested,
)
from streamtask_contrib.handling import fitted
from streamtask_contrib.languages import known
from streamtask_contrib.translation.engine import Sentence, Translated, TranslationEngine, joined
from streamtask_contrib.translation.metrics import TranslationMetrics
from streamtask_contrib.translation.settings import TranslationSettings

#: Sentences of one request that wait for a batch at a time: others need not wait for the whole of a long one.
_AT_ONCE = 64

_SEGMENTS = TypeAdapter(list[TextSegment])


@dataclass(frozen=True, slots=True)
class _Work:
    """What came of a request's texts, and what it took."""

    texts: list[str]
    sentences: int = 0
    #: Waiting for batches and running them.
    seconds: float = 0.0
    batch_size: int = 0


class Pipeline:
    """Translates requests, many at a time. Made where the model is loaded, closed when no request is handled."""

    def __init__(self, settings: TranslationSettings, engine: TranslationEngine, metrics: TranslationMetrics) -> None:
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._batcher: Batcher[Sentence, Translated] = Batcher(
            engine.translate,
            weigh=lambda sentence: len(sentence.tokens),
            limit=settings.batch_tokens,
            wait=settings.batch_wait,
            threads=settings.inter_threads,
        )

    async def close(self) -> None:
        """End the threads."""
        await self._batcher.close()

    async def translate(self, request: TranslationRequested, ctx: Context, *, waited: float) -> TranslationCompleted:
        """The result of a request that has waited so many seconds.

        Raises:
            Reject: it can never be translated.
        """
        began = time.monotonic()
        source, target = _code(request.source_language), _code(request.target_language)
        said = await _said(request, ctx)
        texts = [segment.text for segment in said]
        work = _Work(texts) if source == target else await self._work(texts, source, target)
        latency = _latency(time.monotonic() - began, waited, work, said)
        self._metrics.completed(latency, work.sentences)
        completed = TranslationCompleted(
            session_id=request.session_id,
            chunk_id=request.chunk_id,
            sequence=request.sequence,
            is_partial=request.is_partial,
            source_language=request.source_language,
            target_language=request.target_language,
            text=joined(work.texts, target),
            segments=[
                TranslatedSegment(
                    start=each.start, end=each.end, speaker=each.speaker, source_text=each.text, text=translation
                )
                for each, translation in zip(said, work.texts, strict=True)
            ],
            latency=latency,
            model="" if source == target else self._engine.name,
        )
        # The same name at every attempt, and another one for each request: a late partial result replaces nothing.
        name = f"translation-{ctx.envelope.event_id}.json"
        return await fitted(completed, ctx, name=name, limit=self._settings.inline_bytes)

    async def _work(self, texts: Sequence[str], source: str, target: str) -> _Work:
        """Each text in its other language, in batches with the sentences of other requests."""
        began = time.monotonic()
        split = await asyncio.to_thread(lambda: [self._engine.sentences(text, source, target) for text in texts])
        sentences = [sentence for of_text in split for sentence in of_text]
        translated: list[Translated] = []
        for start in range(0, len(sentences), _AT_ONCE):
            translated += await _all(map(self._batcher.submit, sentences[start : start + _AT_ONCE]))
        results = iter(translated)
        return _Work(
            texts=[joined([next(results).text for _ in of_text], target) for of_text in split],
            sentences=len(sentences),
            seconds=time.monotonic() - began,
            batch_size=max((each.batch_size for each in translated), default=0),
        )


async def _all(results: Iterable[Awaitable[Translated]]) -> list[Translated]:
    """All of them, or an error of one of them; then, too, none is under way any more."""
    done = await asyncio.gather(*results, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return [result for result in done if isinstance(result, Translated)]


def _code(language: str) -> str:
    try:
        return known(language)
    except ValueError as error:
        raise Reject(str(error)) from error


async def _said(request: TranslationRequested, ctx: Context) -> list[TextSegment]:
    """The segments of a request, wherever they are."""
    if not request.segments_uri:
        return request.segments
    try:
        return _SEGMENTS.validate_json(await ctx.app.blobs.get(request.segments_uri))
    except ValidationError as error:
        raise Reject(
            f"{request.segments_uri} holds no segments ({error.error_count()} problems), so nothing was translated; "
            "publish the request again with the URI of a JSON array of segments"
        ) from error


def _latency(total: float, waited: float, work: _Work, said: Sequence[TextSegment]) -> Latency:
    audio = sum(max(0.0, each.end - each.start) for each in said)
    return Latency(
        queue=waited,
        inference=work.seconds,
        total=total,
        audio=audio,
        real_time_factor=total / audio if audio else 0.0,
        batch_size=work.batch_size,
    )
