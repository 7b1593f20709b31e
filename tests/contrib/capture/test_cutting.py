"""Cutting: every sample belongs to exactly one piece, whatever comes in whatever portions."""

from __future__ import annotations

import itertools
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamtask_contrib.capture.cutting import Cuts, Cutter, Format, Piece

from tests.contrib.pcm import RATE, quiet, tone

FORM = Format(rate=RATE)
#: What is cut in the properties: (seconds, loud), in twentieths of a second.
STRETCHES = st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=12)
LONG = tone(20), quiet(20)


def audio_of(stretches: list[tuple[int, bool]]) -> bytes:
    return b"".join(LONG[not loud][: twentieths * RATE // 20 * 2] for twentieths, loud in stretches)


def cut(audio: bytes, cuts: Cuts, portions: list[int]) -> list[Piece]:
    """All pieces, fed in portions of these sizes again and again."""
    cutter, pieces, place, turn = Cutter(FORM, cuts), list[Piece](), 0, 0
    while place < len(audio):
        size = portions[turn % len(portions)]
        pieces += cutter.feed(audio[place : place + size])
        place, turn = place + size, turn + 1
    return [*pieces, cutter.finish()]


def owned(pieces: list[Piece]) -> list[tuple[float, float]]:
    """From where to where each piece's own time is: all of it, less half of the overlap to each side."""
    spans = []
    for number, piece in enumerate(pieces):
        half = piece.overlap / 2
        first = piece.start + (half if number else 0)
        last = piece.start + piece.duration - (half if number < len(pieces) - 1 else 0)
        spans.append((first, last))
    return spans


def assert_heard(stretches: list[tuple[int, bool]], spans: list[tuple[float, float]]) -> None:
    """Every loud stretch has an owner."""
    position = 0.0
    for twentieths, loud in stretches:
        middle = position + twentieths / 40
        position += twentieths / 20
        if loud and twentieths > 2:
            assert any(start <= middle <= end for start, end in spans), f"{middle} s is lost"


@settings(max_examples=60)
@given(STRETCHES, st.lists(st.integers(1, 40_000), min_size=1, max_size=4), st.booleans())
def test_each_moment_is_owned_once_and_what_is_loud_by_somebody(
    stretches: list[tuple[int, bool]], portions: list[int], keeps: bool
) -> None:
    audio = audio_of(stretches)
    pieces = cut(audio, Cuts(at_most=2.0, keeps_silence=keeps), portions)
    spans = owned(pieces)
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert start >= end - 1e-6, "a moment has two owners"
        if keeps:
            assert start == pytest.approx(end, abs=1e-6), "a moment has no owner"
    assert_heard(stretches, spans)
    assert all(piece.duration <= 2.0 + 1.0 + 0.1 for piece in pieces)


@settings(max_examples=40)
@given(STRETCHES, st.lists(st.integers(1, 9_000), min_size=1, max_size=4))
def test_how_it_is_portioned_changes_nothing(stretches: list[tuple[int, bool]], portions: list[int]) -> None:
    audio = audio_of(stretches)
    assert cut(audio, Cuts(at_most=2.0), portions) == cut(audio, Cuts(at_most=2.0), [len(audio)])


@settings(max_examples=40)
@given(STRETCHES)
def test_a_piece_has_the_sound_of_its_time(stretches: list[tuple[int, bool]]) -> None:
    audio = audio_of(stretches)
    for piece in cut(audio, Cuts(at_most=2.0), [3200]):
        first = round(piece.start * RATE) * 2
        there = audio[first : first + len(piece.pcm)]
        # Behind the end, and in place of what was too quiet to be kept, is silence.
        heard = memoryview(piece.pcm[: len(there)]).cast("h")
        assert all(a in (0, b) or abs(a) < 100 for a, b in zip(heard, memoryview(there).cast("h"), strict=True))


@settings(max_examples=40)
@given(STRETCHES, st.integers(0, 40))
def test_a_cutter_that_begins_at_a_seam_goes_on_as_the_first_would_have(
    stretches: list[tuple[int, bool]], number: int
) -> None:
    """What it knows of the room is lost; who owns what is not."""
    audio = audio_of(stretches)
    cuts = Cuts(at_most=2.0)
    first = Cutter(FORM, cuts)
    pieces = list(first.feed(audio))[: number % 4 + 1]
    if not pieces:
        return
    seam = pieces[-1].seam
    second = Cutter(FORM, cuts, after=seam)
    rest = [*second.feed(audio[round(seam.audio_from * RATE) * 2 :]), second.finish()]
    if seam.audio_from < seam.at:
        assert rest[0].overlap / 2 == pytest.approx(seam.at - seam.audio_from)
        assert rest[0].start == pytest.approx(seam.audio_from)
    spans = owned([*pieces, *rest])
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert start >= end - 1e-6
    assert_heard(stretches, spans)


def test_speech_is_cut_where_it_is_quietest() -> None:
    audio = tone(1.6) + quiet(0.1) + tone(3)
    first = next(Cutter(FORM, Cuts(at_most=2.5)).feed(audio))
    assert first.seam.at == pytest.approx(1.65, abs=0.06)
    assert first.overlap == 1.0
    assert first.seam.audio_from == pytest.approx(first.seam.at - 0.5)


def test_a_click_begins_no_utterance() -> None:
    cutter = Cutter(FORM, Cuts(at_most=8))
    assert list(cutter.feed(quiet(1) + tone(0.04) + quiet(1))) == []
    assert not cutter.is_open


def test_the_noise_of_a_room_is_learned() -> None:
    noise = quiet(20, loudness=0.006)
    cutter = Cutter(FORM, Cuts(at_most=8))
    list(cutter.feed(noise))
    assert not cutter.is_open, "the noise is taken for speech for ever"
    list(cutter.feed(tone(1)))
    assert cutter.is_open, "speech is not heard in the noise"


def test_a_flush_gives_what_has_come_and_nothing_twice() -> None:
    cutter = Cutter(FORM, Cuts(at_most=8))
    assert list(cutter.feed(tone(1.005))) == []
    piece = cutter.flush()
    assert piece is not None
    assert (piece.start, piece.duration) == (0, pytest.approx(1.005))
    assert cutter.flush() is None
    assert cutter.finish().start == pytest.approx(1.005)


@pytest.mark.parametrize("speaks", [0, 1])
def test_who_speaks_on_one_of_two_channels_is_heard(speaks: int) -> None:
    channels = [memoryview(quiet(2)).cast("h")] * 2
    channels[speaks] = memoryview(tone(2)).cast("h")
    interleaved = array("h", itertools.chain.from_iterable(zip(*channels, strict=True))).tobytes()
    cutter = Cutter(Format(rate=RATE, channels=2), Cuts(at_most=8))
    list(cutter.feed(interleaved))
    assert cutter.is_open
    piece = cutter.finish()
    assert (piece.start, piece.duration) == (0, 2)
    assert piece.pcm == interleaved
