"""What was heard of turns → segments in the session's time."""

from __future__ import annotations

import numpy as np
import pytest
from streamtask_contrib.audio.activity import Turn
from streamtask_contrib.audio.engine import HeardTurn, HeardWord
from streamtask_contrib.audio.segments import as_segments, joined, own
from streamtask_contrib.events import AudioChunkReceived, AudioConfig

from tests.contrib.audio.sounds import RATE


def heard(*words: tuple[float, float, str]) -> HeardTurn:
    return HeardTurn(
        text="".join(f" {text}" for _, _, text in words),
        words=tuple(HeardWord(start, end, f" {text}", 0.9) for start, end, text in words),
        language="en",
        language_probability=1.0,
        average_log_probability=-0.2,
        no_speech_probability=0.0,
        compression_ratio=1.0,
        batch_size=1,
    )


TURN = Turn(3 * RATE, np.zeros(2 * RATE, np.float32))


def chunk(**fields: object) -> AudioChunkReceived:
    return AudioChunkReceived(**{"session_id": "s", "chunk_id": "c", "start": 10.0} | fields)


def test_times_are_of_the_session_and_within_the_turn():
    [segment] = as_segments(heard((0.1, 0.5, "start"), (0.5, 2.6, "now")), TURN, chunk())

    assert [(word.start, word.end) for word in segment.words] == [(13.1, 13.5), (13.5, 15.0)]
    assert (segment.start, segment.end, segment.text) == (13.1, 15.0, "start now")
    assert segment.average_log_probability == -0.2


def test_a_pause_divides_a_turn():
    said = as_segments(heard((0, 0.3, "yes"), (0.4, 0.6, "please"), (1.5, 1.8, "no")), TURN, chunk())

    assert [(segment.start, segment.end, segment.text) for segment in said] == [
        (13.0, 13.6, "yes please"),
        (14.5, 14.8, "no"),
    ]


def test_a_loop_is_said_once():
    words = [(at / 10, at / 10 + 0.1, "stop") for at in range(9)]

    assert joined(as_segments(heard(*words), TURN, chunk())) == "stop"


def test_no_words_are_no_segment():
    assert as_segments(heard(), TURN, chunk()) == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"sequence": 1}, "two"),
        ({"sequence": 0}, "one two"),
        ({"sequence": 1, "is_last": True}, "two three"),
        ({"sequence": 0, "is_last": True}, "one two three"),
    ],
)
def test_a_chunk_keeps_the_words_of_its_own_part(fields: dict[str, object], text: str):
    turn = Turn(0, np.zeros(10 * RATE, np.float32))
    mine = chunk(audio_config=AudioConfig(overlap=2.0), **fields)
    said = heard((0.1, 0.5, "one"), (1.2, 9.0, "two"), (9.4, 9.8, "three"))

    segments = own(as_segments(said, turn, mine), mine, 20.0)

    assert joined(segments) == text
    assert segments[0].start == segments[0].words[0].start
    assert segments[-1].end == segments[-1].words[-1].end
