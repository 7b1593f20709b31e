"""The group `transcripts`, through a worker: what is published stands in the record, whatever its way."""

from __future__ import annotations

from streamtask_contrib.events import (
    ProcessingFailed,
    Segment,
    TranscriptionCompleted,
    TranslatedSegment,
    TranslationCompleted,
    Word,
)
from streamtask_contrib.transcript import Sessions, router

from streamtask import App


def test_the_handlers_are_of_one_group_and_take_every_event_as_often_as_it_comes() -> None:
    handlers = router().handlers

    assert {event for handler in handlers for event in handler.events} == {
        TranscriptionCompleted,
        TranslationCompleted,
        ProcessingFailed,
    }
    assert {(handler.group, handler.dedupe) for handler in handlers} == {("transcripts", False)}


def result(sequence: int, text: str, **more) -> TranscriptionCompleted:
    at = 8.0 * sequence
    segment = Segment(start=at, end=at + 1, text=text, words=[Word(start=at, end=at + 1, text=f" {text}")])
    return TranscriptionCompleted(
        session_id="s", chunk_id=f"s:{sequence}", sequence=sequence, segments=[segment], language="en", **more
    )


def translation(sequence: int, text: str) -> TranslationCompleted:
    at = 8.0 * sequence
    return TranslationCompleted(
        session_id="s",
        chunk_id=f"s:{sequence}",
        sequence=sequence,
        source_language="en",
        target_language="fr",
        segments=[TranslatedSegment(start=at, end=at + 1, source_text="?", text=text)],
    )


FAILURE = ProcessingFailed(
    session_id="s", chunk_id="s:2", sequence=2, is_last=True, stage="transcription", reason="rejected", message="no"
)


async def test_what_is_published_in_any_order_partial_and_twice_is_one_transcript(broker: str) -> None:
    app = App("speech", broker=broker)
    app.include(router())
    async with app.worker() as worker:
        await app.publish_many(
            [
                FAILURE,
                result(1, "wor", is_partial=True),
                translation(1, "monde"),
                result(1, "world"),
                result(1, "wo", is_partial=True),
                result(0, "hello"),
                result(1, "world"),
                translation(0, "bonjour"),
            ]
        )
        await worker.burst_done()
        state = await Sessions(app).load("s")

    assert state is not None
    assert state.transcript().text == "hello world"
    assert state.transcript().failed == {2: "no"}
    assert state.transcript().is_complete
    assert state.translation("fr").text == "bonjour monde"


async def test_a_result_whose_segments_are_gone_is_a_dead_letter() -> None:
    app = App("speech", broker="memory://")
    app.include(router())
    async with app.worker() as worker:
        await app.publish(result(0, "a").model_copy(update={"segments": [], "segments_uri": "redis:///gone"}))
        await worker.burst_done()
        dead = await app.transport.dead_letters.page("audio-results", after="", limit=10)

    assert [letter.reason for letter in dead] == ["rejected"]
