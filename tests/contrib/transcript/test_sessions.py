"""A session's record: results in any order and however often, and what a deletion leaves."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator

import pytest
from streamtask_contrib.events import (
    ProcessingFailed,
    Segment,
    TranscriptionCompleted,
    TranslatedSegment,
    TranslationCompleted,
    Word,
)
from streamtask_contrib.transcript import SessionFacts, Sessions

from streamtask import App, BlobMissingError


@pytest.fixture
async def app(broker: str) -> AsyncIterator[App]:
    async with App("speech", broker=broker) as app:
        yield app


@pytest.fixture
def sessions(app) -> Sessions:
    return Sessions(app, ttl=60.0)


def result(sequence: int, text: str, **more) -> TranscriptionCompleted:
    words = [
        Word(start=8 * sequence + n, end=8 * sequence + n + 0.5, text=f" {word}") for n, word in enumerate(text.split())
    ]
    segments = [Segment(start=words[0].start, end=words[-1].end, text=text, words=words)] if words else []
    facts = {"segments": segments, "text": text, "language": "en", "end": 8.0 * sequence + 8} | more
    return TranscriptionCompleted(session_id="s", chunk_id=f"s:{sequence}", sequence=sequence, **facts)


def translation(sequence: int, text: str, language: str = "fr", **more) -> TranslationCompleted:
    segments = [TranslatedSegment(start=8 * sequence, end=8 * sequence + 1, source_text="?", text=text)]
    facts = {"segments": segments, "source_language": "en", "target_language": language} | more
    return TranslationCompleted(session_id="s", chunk_id=f"s:{sequence}", sequence=sequence, **facts)


def failure(sequence: int, **more) -> ProcessingFailed:
    facts = {"stage": "transcription", "reason": "rejected", "message": "no audio"} | more
    return ProcessingFailed(session_id="s", chunk_id=f"s:{sequence}", sequence=sequence, **facts)


async def test_an_unknown_session_is_none(sessions) -> None:
    assert await sessions.load("nobody") is None


async def test_results_make_one_transcript_in_any_order_and_however_often(sessions) -> None:
    for event in (
        result(2, "c", is_last=True),
        result(0, "a"),
        result(1, "b"),
        result(0, "a"),
        result(2, "c", is_last=True),
    ):
        await sessions.add_result(event)

    state = await sessions.load("s")

    assert state.transcript().text == "a b c"
    assert state.transcript().is_complete
    assert len(state.results) == 3


async def test_what_is_stored_comes_back_whole(sessions) -> None:
    event = result(0, "guten Tag שלום", language="de", language_probability=0.9, note="cut at the limit of 4 h")
    await sessions.add_result(event)

    assert (await sessions.load("s")).results == (event,)


async def test_partials_are_never_stored(sessions) -> None:
    await sessions.add_result(result(0, "a", is_partial=True))
    await sessions.add_translation(translation(0, "un", is_partial=True))
    await sessions.add_failure(failure(0, is_partial=True))

    assert await sessions.load("s") is None


async def test_a_new_result_of_a_chunk_replaces_the_old(sessions) -> None:
    await sessions.add_result(result(0, "first"))
    await sessions.add_result(result(0, "second"))

    assert (await sessions.load("s")).transcript().text == "second"


async def test_translations_are_by_language(sessions) -> None:
    await sessions.add_result(result(0, "a"))
    await sessions.add_result(result(1, "b", is_last=True))
    for event in (translation(1, "deux"), translation(0, "un"), translation(0, "eins", "de"), translation(0, "un")):
        await sessions.add_translation(event)

    state = await sessions.load("s")

    assert (state.translation("fr").text, state.translation("fr").is_complete) == ("un deux", True)
    assert (state.translation("de").text, state.translation("de").missing) == ("eins", (1,))
    assert (state.translation("it").text, state.translation("it").missing) == ("", (0, 1))
    assert set(state.translations) == {"fr", "de"}


async def test_a_failed_chunk_is_known_and_each_stage_for_itself(sessions) -> None:
    await sessions.add_failure(failure(0, is_last=True))
    await sessions.add_failure(failure(0, stage="translation", target_language="fr", message="no model"))

    state = await sessions.load("s")

    assert state.transcript().failed == {0: "no audio"}
    assert {each.message for each in state.failures} == {"no audio", "no model"}


async def test_segments_that_were_too_many_for_an_event_are_in_the_record(app, sessions) -> None:
    whole, french = result(0, "one two three"), translation(0, "un deux trois")
    uris = []
    for event in (whole, french):
        segments = json.dumps([segment.model_dump() for segment in event.segments]).encode()
        uris.append(await app.blobs.put(segments, name=f"segments/{type(event).__name__}"))
    await sessions.add_result(whole.model_copy(update={"segments": [], "segments_uri": uris[0]}))
    await sessions.add_translation(french.model_copy(update={"segments": [], "segments_uri": uris[1]}))
    for uri in uris:
        await app.blobs.delete(uri)

    state = await sessions.load("s")

    assert state.transcript().text == "one two three"
    assert state.translation("fr").text == "un deux trois"


async def test_segments_that_are_gone_are_said_to_be(sessions) -> None:
    with pytest.raises(BlobMissingError):
        await sessions.add_result(result(0, "a", segments=[], segments_uri="redis:///gone"))


async def test_the_first_who_speaks_of_a_session_says_whose_it_is(sessions) -> None:
    mine = SessionFacts(user_id="alice", source_type="websocket", target_languages=["fr"])

    assert await sessions.open("s", mine) == mine
    assert await sessions.open("s", SessionFacts(user_id="mallory")) == mine
    await sessions.add_result(result(0, "a", user_id="mallory"))

    state = await sessions.load("s")
    assert state.facts == mine
    assert state.created_at == mine.created_at


async def test_a_session_that_nobody_opened_is_that_of_its_first_result(sessions) -> None:
    await sessions.add_result(result(0, "a", user_id="alice", source_type="bot"))

    facts = (await sessions.load("s")).facts
    assert (facts.user_id, facts.source_type) == ("alice", "bot")


async def test_a_deleted_session_is_gone_and_late_results_do_not_bring_it_back(app, sessions) -> None:
    await sessions.add_result(result(0, "secret"))
    await sessions.delete("s")
    assert await sessions.load("s") is None

    await sessions.add_result(result(1, "secret"))
    await sessions.add_translation(translation(0, "secret"))
    await sessions.add_failure(failure(2))

    assert await sessions.load("s") is None
    assert await sessions.open("s", SessionFacts()) is None
    assert list(await app.records.read("session:s")) == ["session"]


@pytest.mark.parametrize("session_id", ["{slot}", "line\nbreak", "שלום", "a/b c", "s" * 200])
async def test_a_session_may_be_called_anything(app, sessions, session_id: str) -> None:
    await sessions.add_result(result(0, "a").model_copy(update={"session_id": session_id}))

    assert (await sessions.load(session_id)).transcript().text == "a"
    assert await sessions.load(session_id + "x") is None


async def test_an_unknown_session_can_be_deleted(sessions) -> None:
    await sessions.delete("nobody")

    assert await sessions.load("nobody") is None


@pytest.mark.parametrize(
    "damaged", [b"", b"no zlib", zlib.compress(b"{}"), zlib.compress(b"\xff"), zlib.compress(b" " * (65 << 20))]
)
async def test_a_result_that_cannot_be_read_is_a_gap_and_the_rest_is_there(
    app, sessions, damaged: bytes, caplog
) -> None:
    for sequence, text in enumerate("abc"):
        await sessions.add_result(result(sequence, text, is_last=sequence == 2))
    await app.records.write("session:s", {"result:1": damaged}, ttl=60.0)

    transcript = (await sessions.load("s")).transcript()

    assert (transcript.text, transcript.missing) == ("a c", (1,))
    assert [(record.message, record.field) for record in caplog.records] == [("session.unreadable", "result:1")]


async def test_a_record_is_small(app, sessions) -> None:
    """Two kilobytes a minute of speech, at 150 words a minute."""
    words = [Word(start=n * 0.4, end=n * 0.4 + 0.3, text=f" word{n % 97}", probability=0.9871) for n in range(150)]
    event = result(0, "", segments=[Segment(start=0, end=60, text="".join(w.text for w in words), words=words)])
    await sessions.add_result(event)

    size = len((await app.records.read("session:s"))["result:0"])
    print(f"\nMEASURED bytes of a minute of speech: {size} of {len(event.model_dump_json())} as JSON")  # noqa: T201 - what it is for
    assert size < 4096


async def test_each_result_renews_the_record(app) -> None:
    await Sessions(app, ttl=0.5).open("s", SessionFacts())
    await Sessions(app, ttl=60.0).add_result(result(0, "a"))
    await asyncio.sleep(0.6)
    assert await Sessions(app).load("s") is not None

    await Sessions(app, ttl=0.5).add_result(result(1, "b"))
    await asyncio.sleep(0.6)
    assert await Sessions(app).load("s") is None
