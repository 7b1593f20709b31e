"""A request has one result: each segment in its other language, at its time, by its speaker."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "streamtask_contrib.translation", reason="the extra `translation` is not installed", exc_type=ImportError
)

from pydantic import TypeAdapter
from streamtask_contrib.events import (
    ProcessingFailed,
    TextSegment,
    TranslatedSegment,
    TranslationCompleted,
    TranslationRequested,
)
from streamtask_contrib.translation import TranslationSettings, router
from streamtask_contrib.translation.engine import Sentence, Translated, TranslationEngine
from streamtask_contrib.translation.worker import failed

from streamtask import App, ConfigurationError, DeadEvent
from tests.conftest import ServerPool
from tests.contrib.translation.results import results
from tests.contrib.translation.tiny import opus
from tests.servers import available_servers

#: Lines that the model that ships knows, whichever training it has had.
LINES = {"three": "trois", "seven": "sept", "seven seven seven seven": "sept sept sept sept"}


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest, server_pool: ServerPool) -> Iterator[str]:
    """A broker to work with."""
    if request.param == "memory":
        yield "memory://"
        return
    server = server_pool.get(available_servers()[0])
    yield server.url
    server.flush()


@asynccontextmanager
async def working(url: str = "memory://", **settings: Any) -> AsyncIterator[App]:
    """An app with a worker of the group; `settled` waits for it."""
    app = App("test", broker=url)
    app.include(router(TranslationSettings(device="cpu", intra_threads=1, **settings)))
    async with app.worker() as worker:
        app.settled = worker.burst_done
        yield app


def asked(chunk: str = "c1", text: Sequence[str] = ("three", "seven"), **fields: Any) -> TranslationRequested:
    segments = [
        TextSegment(start=n + 0.25, end=n + 0.75, text=line, speaker=f"S{n % 2}") for n, line in enumerate(text)
    ]
    wanted = {"session_id": "s", "chunk_id": chunk, "source_language": "en", "target_language": "fr", "sequence": 7}
    return TranslationRequested(**wanted | {"segments": segments} | fields)


async def test_a_request_becomes_its_translation_with_times_and_speakers_kept(url: str) -> None:
    async with working(url) as app:
        await app.publish(asked(text=[*LINES, "", "three\nseven"]))
        await app.settled()
        [done] = await results(app, TranslationCompleted)

    assert [segment.text for segment in done.segments] == [*LINES.values(), "", "trois sept"]
    assert [segment.source_text for segment in done.segments] == [*LINES, "", "three\nseven"]
    assert [(each.start, each.end, each.speaker) for each in done.segments[:2]] == [
        (0.25, 0.75, "S0"),
        (1.25, 1.75, "S1"),
    ]
    assert done.text == " ".join([*LINES.values(), "trois sept"])
    assert (done.session_id, done.chunk_id, done.sequence, done.target_language) == ("s", "c1", 7, "fr")
    assert done.model == "opus-commands-en-fr-de"
    assert 0 < done.latency.inference <= done.latency.total < 60
    assert done.latency.audio == pytest.approx(2.5)
    assert done.latency.real_time_factor == pytest.approx(done.latency.total / 2.5)


async def test_the_same_request_five_times_has_one_result(url: str) -> None:
    async with working(url) as app:
        request = asked()
        await asyncio.gather(*(app.publish(request) for _ in range(4)))
        await app.settled()
        await app.publish(request)
        await app.publish(asked(target_language="de"))
        await app.publish(asked("c2"))
        await app.settled()
        done = await results(app, TranslationCompleted)

    assert sorted((each.chunk_id, each.target_language) for each in done) == [("c1", "de"), ("c1", "fr"), ("c2", "fr")]


async def test_requests_that_are_in_work_at_the_same_time_are_one_batch() -> None:
    async with working(batch_wait=0.5, batch_tokens=4096) as app:
        languages = ("fr", "de")
        await app.publish_many(
            [asked(f"c{n}", ["three"], target_language=languages[n % 2], sequence=n) for n in range(40)]
        )
        await app.settled()
        done = await results(app, TranslationCompleted)

    assert {each.chunk_id: each.text for each in done} == {f"c{n}": ("trois", "drei")[n % 2] for n in range(40)}
    assert max(each.latency.batch_size for each in done) > 20


async def test_a_long_request_does_not_hold_a_short_one_up_until_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, split, released = threading.Event(), threading.Event(), threading.Event()
    translate, sentences = TranslationEngine.translate, TranslationEngine.sentences

    def held(engine: TranslationEngine, batch: Sequence[Sentence]) -> list[Translated]:
        begun.set()
        assert released.wait(30)
        return translate(engine, batch)

    def watched(engine: TranslationEngine, text: str, source: str, target: str) -> list[Sentence]:
        found = sentences(engine, text, source, target)
        if text == "seven":
            split.set()
        return found

    monkeypatch.setattr(TranslationEngine, "translate", held)
    monkeypatch.setattr(TranslationEngine, "sentences", watched)
    released.set()
    async with working(model=opus(tmp_path / "opus-mt-en-fr"), batch_tokens=64) as app:
        begun.clear()
        released.clear()
        await app.publish(asked("long", ["one two three"] * 3000))
        assert await asyncio.to_thread(begun.wait, 30)
        await app.publish(asked("short", ["three", "seven"]))
        assert await asyncio.to_thread(split.wait, 30)
        released.set()
        await app.settled()
        done = await results(app, TranslationCompleted)

    assert [each.chunk_id for each in done] == ["short", "long"]
    assert done[1].text == " ".join(["un deux trois"] * 3000)


@pytest.mark.parametrize(("source", "target"), [("en", "en"), ("en-US", "EN"), ("ja", "ja"), ("fr", "fra_Latn")])
async def test_what_is_in_its_language_already_is_passed_on_as_it_is(source: str, target: str) -> None:
    async with working() as app:
        await app.publish(asked(text=[" As  it stands. "], source_language=source, target_language=target))
        await app.settled()
        [done] = await results(app, TranslationCompleted)

    assert done.segments[0].text == " As  it stands. "
    assert done.target_language == target
    assert done.model == ""
    assert done.latency.inference == 0


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        ({"target_language": "ja"}, "does not translate en to ja, only en to de, fr"),
        ({"source_language": "de"}, "does not translate de to fr"),
        ({"target_language": "klingon"}, "no language 'klingon'"),
        ({"source_language": ""}, "no language ''"),
    ],
)
async def test_what_can_never_be_translated_is_said_at_once(url: str, languages: dict[str, str], message: str) -> None:
    async with working(url) as app:
        await app.publish(asked(**languages))
        await app.settled()
        [failed] = await results(app, ProcessingFailed)
        done = await results(app, TranslationCompleted)

    assert done == []
    assert (failed.stage, failed.reason, failed.attempts) == ("translation", "rejected", 1)
    assert (failed.session_id, failed.chunk_id, failed.sequence) == ("s", "c1", 7)
    assert failed.target_language == languages.get("target_language", "fr")
    assert message in failed.message


async def test_a_partial_result_that_cannot_be_translated_is_no_failure_to_tell_of() -> None:
    async with working() as app:
        await app.publish(asked(target_language="ja", is_partial=True))
        await app.settled()

        assert await results(app, ProcessingFailed) == []


@pytest.mark.parametrize(
    ("reason", "error", "message"),
    [
        ("rejected", "Reject: no such pair", "no such pair"),
        ("max_attempts", "RuntimeError: out of memory", "given up after 3 attempts: RuntimeError: out of memory"),
        ("worker_lost", "WorkerLostError: killed by signal 9", r"died each time .* \(killed by signal 9\); send fewer"),
    ],
)
def test_a_failure_says_what_happened_and_what_to_do(reason: str, error: str, message: str) -> None:
    told = failed(asked(), DeadEvent(reason=reason, error=error, attempts=3))

    assert told is not None
    assert (told.reason, told.attempts) == (reason, 3)
    assert re.search(message, told.message)


async def test_a_model_that_fails_for_a_while_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[RuntimeError] = []
    translate = TranslationEngine.translate

    def broken(engine: TranslationEngine, batch: Sequence[Sentence]) -> list[Translated]:
        if failures:
            raise failures.pop()
        return translate(engine, batch)

    monkeypatch.setattr(TranslationEngine, "translate", broken)
    async with working() as app:
        failures += [RuntimeError("out of memory"), RuntimeError("out of memory")]
        await app.publish(asked())
        await app.settled()
        done, lost = await results(app, TranslationCompleted), await results(app, ProcessingFailed)

    assert failures == []
    assert [each.text for each in done] == ["trois sept"]
    assert lost == []


async def test_a_partial_result_that_nobody_waits_for_any_more_is_left_out() -> None:
    old = datetime.now(UTC) - timedelta(seconds=5)
    async with working() as app:
        await app.publish(asked(is_partial=True, text=["three"], requested_at=old))
        await app.publish(asked(is_partial=True, text=["seven"]))
        await app.publish(asked(text=["three"], requested_at=old))
        await app.settled()
        done = await results(app, TranslationCompleted)
        skipped = app.metrics.registry.get_sample_value("streamtask_translation_skipped_total")

    assert sorted((each.text, each.is_partial) for each in done) == [("sept", True), ("trois", False)]
    assert skipped == 1


async def test_each_partial_result_of_a_chunk_is_translated_and_its_final_one_too() -> None:
    async with working() as app:
        for text in ("three", "seven"):
            await app.publish(asked(text=[text], is_partial=True))
        await app.publish(asked(text=["three", "seven"]))
        await app.settled()
        done = await results(app, TranslationCompleted)

    assert sorted(each.text for each in done) == ["sept", "trois", "trois sept"]


async def test_segments_that_are_too_many_for_an_event_come_and_go_beside_it(url: str) -> None:
    many = [TextSegment(start=n, end=n + 1, text="three", speaker="S1") for n in range(100)]
    async with working(url, inline_bytes=1000) as app:
        uri = await app.blobs.put(TypeAdapter(list[TextSegment]).dump_json(many), name="said.json")
        await app.publish(asked(text=[], segments_uri=uri))
        await app.settled()
        [done] = await results(app, TranslationCompleted)
        segments = TypeAdapter(list[TranslatedSegment]).validate_json(await app.blobs.get(done.segments_uri))

    assert done.segments == []
    assert done.text == " ".join(["trois"] * 100)
    assert [(each.start, each.text, each.speaker) for each in segments] == [(n, "trois", "S1") for n in range(100)]


@pytest.mark.parametrize(
    ("content", "message"), [(b"[{}]", "holds no segments"), (b"\xff", "holds no segments"), (None, "there is no blob")]
)
async def test_segments_that_cannot_be_read_are_rejected(content: bytes | None, message: str) -> None:
    async with working() as app:
        uri = await app.blobs.put(content or b"", name="said.json")
        if content is None:
            await app.blobs.delete(uri)
        await app.publish(asked(segments_uri=uri))
        await app.settled()
        [failed] = await results(app, ProcessingFailed)

    assert message in failed.message


async def test_an_idle_worker_gives_the_model_back_and_loads_it_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamtask_contrib")
    async with working(idle_unload=0.1) as app:
        async with asyncio.timeout(10):
            while "translation.unloaded" not in caplog.messages:  # noqa: ASYNC110 - a log line wakes nobody
                await asyncio.sleep(0.02)
        await app.publish(asked(text=["three"]))
        await app.settled()
        [done] = await results(app, TranslationCompleted)

    assert done.text == "trois"


async def test_a_worker_counts_what_it_does_in_its_apps_registry_and_leaves_nothing_there() -> None:
    async with working() as app:
        await app.publish_many([asked("c1"), asked("c2", target_language="de")])
        await app.settled()
        rendered = app.metrics.render().decode()
    left = app.metrics.render().decode()

    for stage in ("queue", "inference", "total"):
        assert f'streamtask_translation_seconds_count{{stage="{stage}"}} 2.0' in rendered
    assert "streamtask_translation_sentences_total 4.0" in rendered
    assert "streamtask_translation" not in left


async def test_a_router_without_a_worker_says_what_is_missing() -> None:
    [handler] = router(TranslationSettings()).handlers
    with pytest.raises(ConfigurationError, match="runs in a worker, with its lifespan"):
        await handler.call(asked(), None)


async def test_a_worker_whose_model_is_none_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no model\.bin"):
        async with working(model=tmp_path):
            pass
