"""The group `transcripts`, through a worker: what is published stands in the record, whatever its way."""

from __future__ import annotations

from streamtask_contrib.events import ProcessingFailed, TranscriptionCompleted, TranslationCompleted
from streamtask_contrib.transcript import router


def test_the_handlers_are_of_one_group_and_take_every_event_as_often_as_it_comes() -> None:
    handlers = router().handlers

    assert {event for handler in handlers for event in handler.events} == {
        TranscriptionCompleted,
        TranslationCompleted,
        ProcessingFailed,
    }
    assert {(handler.group, handler.dedupe) for handler in handlers} == {("transcripts", False)}
