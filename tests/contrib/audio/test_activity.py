"""Samples → turns: where somebody speaks, whatever the borders of blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from streamtask_contrib.audio.activity import SpeechProbability, Turn, TurnFinder, TurnOptions, vad

from tests.contrib.audio.sounds import RATE, say, silence, speaks

OPTIONS = TurnOptions(threshold=0.5, min_silence=0.4, padding=0.2, longest=8.0)
SENTENCES = ("start the meeting", "hello team", "no thank you", "yes", "next slide please")


def turns(sound: np.ndarray, sizes: list[int], *, at: int = 0, options: TurnOptions = OPTIONS) -> list[Turn]:
    """The turns of a sound that is handed over in blocks of these sizes, again and again."""
    finder, found = TurnFinder(options, at=at), []
    while at < len(sound):
        size = sizes[len(found) % len(sizes)]
        found += finder.feed(sound[at : at + size])
        at += size
    return [*found, *finder.finish()]


def places(found: list[Turn]) -> list[tuple[int, int]]:
    return [(turn.start, turn.end) for turn in found]


def speech(rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """Sentences with pauses of any length, and when each begins."""
    parts, begins, at = [silence(0.4)], [], 0.4
    for sentence in SENTENCES * 3:
        begins.append(at)
        parts += [say(sentence), silence(float(rng.uniform(0.8, 2.5)))]
        at += (len(parts[-2]) + len(parts[-1])) / RATE
    return np.concatenate(parts), begins


@speaks
def test_each_sentence_is_a_turn_that_begins_where_it_begins():
    sound, begins = speech(np.random.default_rng(2))

    found = turns(sound, [len(sound)])

    assert [turn.start / RATE for turn in found] == pytest.approx(begins, abs=0.25)
    for turn in found:
        assert np.array_equal(turn.samples, sound[turn.start : turn.end])


@speaks
@pytest.mark.parametrize("sizes", [[480_000], [511], [1], [4_000, 77_777, 512]], ids=str)
def test_borders_of_blocks_make_no_difference(sizes: list[int]):
    sound, _ = speech(np.random.default_rng(3))
    if sizes == [1]:
        sound = sound[: 6 * RATE]

    assert places(turns(sound, sizes)) == places(turns(sound, [len(sound)]))


@speaks
def test_probabilities_are_those_of_the_whole():
    sound, _ = speech(np.random.default_rng(4))
    sound = sound[: len(sound) // 512 * 512]
    probability = SpeechProbability()

    pieces = [probability(sound[at : at + 37 * 512]) for at in range(0, len(sound), 37 * 512)]

    assert np.array_equal(np.concatenate(pieces), vad.get_vad_model()(sound).reshape(-1))


@speaks
def test_who_begins_at_resume_at_finds_what_is_not_found_yet():
    sound, _ = speech(np.random.default_rng(5))
    whole = places(turns(sound, [len(sound)]))

    for cut in range(RATE, len(sound), 3 * RATE + 1234):
        finder = TurnFinder(OPTIONS)
        before = list(finder.feed(sound[:cut]))
        after = turns(sound, [480_000], at=finder.resume_at)

        assert len(before) + len(after) == len(whole)
        # The model has forgotten what it heard before; that moves an edge by some windows, and loses no turn.
        assert np.abs(np.array(places([*before, *after])) - np.array(whole)).max() < 0.25 * RATE


@speaks
def test_a_turn_that_is_too_long_is_cut_where_it_is_quiet():
    words = [np.trim_zeros(say(word).round(2)) for word in ("three", "seven", "one", "zero", "nine")] * 6
    gap = silence(0.15)
    sound = np.concatenate([silence(0.5), *[part for word in words for part in (word, gap)], silence(1.0)])

    found = turns(sound, [480_000])

    assert len(found) > 1
    assert all(len(turn.samples) <= 8 * RATE for turn in found)
    assert all(before.end == after.start for before, after in itertools.pairwise(found))
    for turn in found[:-1]:
        assert np.abs(sound[turn.end - 160 : turn.end + 160]).max() < 0.05


@speaks
@pytest.mark.parametrize("seconds", [1, 30, 200])
def test_a_long_silence_makes_nobody_deaf(seconds: int):
    for sentence in SENTENCES:
        sound = np.concatenate([silence(seconds), say(sentence), silence(1)])

        [turn] = turns(sound, [480_000])

        assert turn.start / RATE == pytest.approx(seconds, abs=0.24)


@pytest.mark.parametrize(
    "sound",
    [silence(60), np.random.default_rng(6).normal(0, 0.05, 20 * RATE).astype(np.float32), silence(0.01)],
    ids=["silence", "noise", "ten milliseconds"],
)
def test_where_nobody_speaks_there_is_no_turn(sound: np.ndarray):
    assert turns(sound, [480_000]) == []


@speaks
def test_silence_is_not_kept():
    finder = TurnFinder(OPTIONS)

    for _ in range(10):
        assert list(finder.feed(silence(30))) == []

    assert len(finder._held) < RATE
