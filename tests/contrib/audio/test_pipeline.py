"""Many chunks at a time through one model: who waits for whom, and what becomes of an error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from streamtask_contrib.audio import AudioSettings
from streamtask_contrib.audio.engine import HeardTurn, HeardWord, Utterance
from streamtask_contrib.audio.metrics import AudioMetrics
from streamtask_contrib.audio.pipeline import Pipeline
from streamtask_contrib.events import TranscriptionCompleted

from streamtask import App, BlobStores
from tests.chaos.workers import until
from tests.contrib.audio.sounds import say, silence, speaks, wav
from tests.contrib.audio.test_worker import chunk

#: A turn of a long file, and the one that somebody says meanwhile.
LONG, SHORT = "start the meeting", "zero one two three four five six seven"


def kind_of(utterance: Utterance) -> str:
    """Which of the two sentences it is: a fake hears nothing but the length."""
    return "short" if len(utterance.samples) > 2 * 16_000 else "long"


class Engine:
    """A model that hears how long a turn is, once the test lets it."""

    name, window = "fake", 30.0

    def __init__(self, languages: Sequence[str] = ("en",)) -> None:
        self.languages = frozenset(languages)
        self.batches: list[list[str]] = []
        self.asked: list[list[str | None]] = []
        self.may_run = threading.Semaphore(0)
        self.error: Exception | None = None

    def transcribe(self, utterances: Sequence[Utterance]) -> list[HeardTurn]:
        assert self.may_run.acquire(timeout=20)
        if self.error is not None:
            raise self.error
        self.batches.append([kind_of(each) for each in utterances])
        self.asked.append([each.language for each in utterances])
        return [
            HeardTurn(
                text=" yes",
                words=(HeardWord(0.0, 0.5, " yes", 0.9),),
                language=each.language or "fr",
                language_probability=0.7,
                average_log_probability=-0.1,
                no_speech_probability=0.0,
                compression_ratio=1.0,
                batch_size=len(utterances),
            )
            for each in utterances
        ]


@pytest.fixture
async def context() -> AsyncIterator[Any]:
    """What the pipeline asks of a handler's context."""

    async def keep(state: Any) -> None: ...

    async with App("test", broker="memory://", blobs=BlobStores(inline=True)) as app:
        yield SimpleNamespace(app=app, state=None, checkpoint=keep, progress=lambda fraction: None)


async def piped(engine: Engine, **settings: Any) -> Pipeline:
    given = AudioSettings(min_silence=0.4, batch_size=4, batch_wait=0.1, **settings)
    return Pipeline(given, engine, AudioMetrics(CollectorRegistry()))  # type: ignore[arg-type] # a fake


def many(sentence: str, times: int) -> bytes:
    return wav([part for _ in range(times) for part in (silence(0.3), say(sentence), silence(0.8))])


@speaks
async def test_a_short_chunk_does_not_wait_for_the_whole_of_long_ones(context: Any):
    engine = Engine()
    pipeline = await piped(engine)
    async with asyncio.TaskGroup() as group:
        files = [group.create_task(pipeline.transcribe(chunk(many(LONG, 14)), context)) for _ in range(3)]
        await until(lambda: pipeline._inference._running and pipeline._inference.queued, 10)
        live = group.create_task(pipeline.transcribe(chunk(wav(say(SHORT))), context))
        # Now it waits for the model, like the others.
        await until(lambda: "short" in [kind_of(each.job) for each in pipeline._inference._queue], 10)
        engine.may_run.release(1_000)
        await live
        before = sum(map(len, engine.batches))
    await pipeline.close()

    assert [len(each.result().segments) for each in files] == [14] * 3
    # Not behind the 42 turns of the three files.
    assert before <= 16


@speaks
async def test_a_file_by_itself_fills_its_batches(context: Any):
    engine = Engine()
    engine.may_run.release(1_000)
    pipeline = await piped(engine)

    result = await pipeline.transcribe(chunk(many(LONG, 8)), context)
    await pipeline.close()

    assert [len(batch) for batch in engine.batches] == [4, 4]
    assert result.latency.batch_size == 4


@speaks
async def test_the_longest_turn_says_which_language_it_is_and_the_others_follow(context: Any):
    engine = Engine(["en", "fr"])
    engine.may_run.release(1_000)
    pipeline = await piped(engine)

    result = await pipeline.transcribe(chunk(wav([say(LONG), silence(1), say(SHORT), silence(1), say(LONG)])), context)
    given = await pipeline.transcribe(chunk(wav(say(LONG)), language="eng"), context)
    await pipeline.close()

    assert engine.batches[0] == ["short"]
    assert engine.asked == [[None], ["fr"] * 3, ["en"]]
    assert (result.language, result.language_probability) == ("fr", 0.7)
    assert (given.language, given.language_probability) == ("en", 1.0)


@speaks
async def test_an_error_of_the_model_is_an_error_of_the_chunk_and_leaves_nothing_behind(context: Any):
    engine = Engine()
    engine.error = MemoryError("no room")
    engine.may_run.release(1_000)
    pipeline = await piped(engine)

    with pytest.raises(MemoryError):
        await pipeline.transcribe(chunk(many(LONG, 6)), context)

    assert pipeline._inference.queued == 0
    engine.error = None
    result = await pipeline.transcribe(chunk(many(LONG, 2)), context)
    assert isinstance(result, TranscriptionCompleted)
    await pipeline.close()


@speaks
async def test_a_handler_that_is_cancelled_takes_its_turns_back(context: Any):
    engine = Engine()
    pipeline = await piped(engine)
    running = [asyncio.create_task(pipeline.transcribe(chunk(many(LONG, 4)), context)) for _ in range(3)]
    await until(lambda: pipeline._inference._running and pipeline._inference.queued, 10)

    for task in running:
        task.cancel()
    await asyncio.wait(running)
    assert pipeline._inference.queued == 0
    engine.may_run.release(10)
    await pipeline.close()

    assert all(task.cancelled() for task in running)
    # What the model had in its hands when they went.
    assert sum(map(len, engine.batches)) <= 4
