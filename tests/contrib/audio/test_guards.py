"""What a model says when nobody said it, and what it says when somebody did: each guard with cases of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from streamtask_contrib.audio import guards

from tests.contrib.audio.sounds import silence, tone


@dataclass(frozen=True)
class Said:
    """What a model says, good words unless a case says otherwise."""

    text: str = " start the meeting"
    average_log_probability: float = -0.2
    no_speech_probability: float = 0.01
    compression_ratio: float = 1.0


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Said(), ""),
        (Said(text="  "), "empty"),
        (Said(no_speech_probability=0.9, average_log_probability=-1.5), "silence"),
        # Each alone is no proof: a model often doubts that there was speech and has the words right.
        (Said(no_speech_probability=0.9), ""),
        (Said(average_log_probability=-1.5), ""),
        (Said(compression_ratio=2.5), "repetition"),
        (Said(compression_ratio=2.3), ""),
        (Said(text=" Thanks for watching!"), "known phrase"),
        (Said(text=" Sous-titres réalisés par la communauté d'Amara.org"), "known phrase"),
        # Exact matches only: what begins like one may be said.
        (Said(text=" Thanks for watching the demo, any questions?"), ""),
        (Said(text=" Thank you."), ""),
    ],
)
def test_words_are_dropped_for_a_reason_only(said: Said, reason: str):
    assert guards.why_dropped(said) == reason


@pytest.mark.parametrize(
    ("said", "dubious"),
    [
        (Said(), False),
        (Said(average_log_probability=-1.1), True),
        (Said(compression_ratio=3.0), True),
        # Silence is no reason to search again.
        (Said(average_log_probability=-1.1, no_speech_probability=0.9), False),
    ],
)
def test_words_are_searched_again_where_the_model_itself_doubts(said: Said, dubious: bool):
    assert guards.is_dubious(said) == dubious


@pytest.mark.parametrize(
    ("samples", "audible"),
    [
        (silence(1), False),
        (tone(1), True),
        (tone(1) / 100, True),
        (tone(1) / 1000, False),
        (np.random.default_rng(0).normal(0, 0.0005, 16_000).astype(np.float32), False),
    ],
)
def test_what_nobody_can_hear_is_not_transcribed(samples: np.ndarray, audible: bool):
    assert guards.is_audible(samples) == audible


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("start the meeting", "start the meeting"),
        ("no no no no", "no no no no"),
        ("seven seven seven one", "seven seven seven one"),
        ("thank you thank you thank you", "thank you thank you thank you"),
        ("yes yes yes yes yes yes yes", "yes"),
        ("hello and then and then and then and then goodbye", "hello and then goodbye"),
        ("the next slide the next slide the next slide please", "the next slide please"),
        ("one two three four five " * 3 + "six", "one two three four five six"),
        ("one two three four five " * 2 + "six", "one two three four five one two three four five six"),
        # Case and punctuation do not make it another word.
        ("Save it. save it, Save it! save it", "Save it."),
        ("... ... ... ... ... ...", "... ... ... ... ... ..."),
    ],
)
def test_a_loop_is_said_once_and_what_people_repeat_stays(text: str, kept: str):
    words = text.split()

    assert [words[place] for place in guards.without_loops(words)] == kept.split()
