"""`streamtask worker -A streamtask_contrib.translation:app`, killed in the middle: one result for each request."""

from __future__ import annotations

import time
from collections import Counter

import pytest

pytest.importorskip(
    "streamtask_contrib.translation", reason="the extra `translation` is not installed", exc_type=ImportError
)

from streamtask_contrib.events import ProcessingFailed, TextSegment, TranslationCompleted, TranslationRequested

from streamtask import App
from tests.chaos.conftest import Measured, StartWorker
from tests.chaos.workers import LONG, dead_letters, nothing_pending, until
from tests.contrib.translation.results import results
from tests.servers import RedisServer

#: One processor core and small batches: so that a kill finds work that has begun and work that has not.
_SLOW = {
    "STREAMTASK_TRANSLATION_INTRA_THREADS": "1",
    "STREAMTASK_TRANSLATION_BATCH_TOKENS": "64",
    "STREAMTASK_TRANSLATION_CONCURRENCY": "8",
}
_TRANSLATION = "streamtask_contrib.translation:app"


async def test_a_killed_worker_costs_no_request_and_doubles_no_result(
    redis_server: RedisServer, start_worker: StartWorker, measured: Measured
) -> None:
    n = 2000 if LONG else 200
    worker = await start_worker(redis_server.url, "", app=_TRANSLATION, environment=_SLOW)
    async with App("test", broker=redis_server.url) as app:

        async def done() -> list[TranslationCompleted]:
            return await results(app, TranslationCompleted)

        async def has_begun() -> bool:
            return len(await done()) >= 10

        async def is_over(chunks: int) -> bool:
            return len({each.chunk_id for each in await done()}) == chunks

        began = time.monotonic()
        await app.publish_many([request(number) for number in range(n)])
        await until(has_begun, 30)
        await worker.kill_child()
        before = len(await done())
        await until(lambda: is_over(n), 120)
        took = time.monotonic() - began
        # Once more, and one that is new behind them: when that is done, all of these have been handed out.
        await app.publish_many([request(number) for number in range(n + 1)])
        await until(lambda: is_over(n + 1), 60)
        await nothing_pending(redis_server.url, "audio-results", "translation")
        completed, failed = await done(), await results(app, ProcessingFailed)

    measured("requests done when killed", before)
    measured("seconds for all, the kill included", took)
    assert before < n
    assert Counter(each.chunk_id for each in completed) == Counter(f"c{number}" for number in range(n + 1))
    assert len(worker.logs("child.ready")) == 2
    assert failed == []
    assert await dead_letters(redis_server.url, "audio-results") == []
    for each in completed:
        assert [segment.start for segment in each.segments] == [float(place) for place in range(12)]
        assert [segment.text for segment in each.segments] == ["trois", "sept"] * 6


def request(number: int) -> TranslationRequested:
    lines = ["three", "seven"] * 6
    return TranslationRequested(
        session_id="s",
        chunk_id=f"c{number}",
        sequence=number,
        source_language="en",
        target_language="fr",
        segments=[TextSegment(start=place, end=place + 1, text=line) for place, line in enumerate(lines)],
    )
