from __future__ import annotations

import pytest
from streamtask_contrib.events import Word
from streamtask_contrib.transcript.seams import (
    doubled,
    edge_words,
    fit,
    keep_own_words,
    normalised,
)


def words(*said: tuple[float, float, str]) -> list[Word]:
    return [Word(start=start, end=end, text=text) for start, end, text in said]


def texts(kept: list[Word]) -> list[str]:
    return [word.text for word in kept]


def test_a_word_whose_middle_is_the_border_belongs_to_one_of_the_two() -> None:
    [word] = words((7.3, 7.7, "word"))

    left = keep_own_words([word], start=0.0, end=8.0, overlap=1.0, is_first=True, is_last=False)
    right = keep_own_words([word], start=7.0, end=15.0, overlap=1.0, is_first=False, is_last=False)

    assert len(left) + len(right) == 1


def test_a_word_belongs_to_the_chunk_that_its_middle_lies_in() -> None:
    heard = words((7.0, 7.6, "before"), (7.8, 8.4, "own"), (14.6, 15.0, "own"), (15.3, 16.0, "behind"))

    kept = keep_own_words(heard, start=7.0, end=16.0, overlap=1.0, is_first=False, is_last=False)

    assert texts(kept) == ["own", "own"]


@pytest.mark.parametrize(
    ("is_first", "is_last", "kept"),
    [(True, False, ["before", "own"]), (False, True, ["own", "behind"]), (True, True, ["before", "own", "behind"])],
)
def test_a_session_is_open_at_its_ends(is_first: bool, is_last: bool, kept: list[str]) -> None:
    heard = words((7.0, 7.4, "before"), (10.0, 10.5, "own"), (15.6, 16.0, "behind"))

    own = keep_own_words(heard, start=7.0, end=16.0, overlap=1.0, is_first=is_first, is_last=is_last)

    assert texts(own) == kept


def test_what_was_cut_in_a_silence_keeps_all_of_its_words_wherever_the_model_puts_them() -> None:
    heard = words((6.9, 7.0, "early"), (15.9, 16.3, "late"))

    assert keep_own_words(heard, start=7.0, end=16.0, overlap=0.0, is_first=False, is_last=False) == heard


NO_NO = words((9.4, 9.6, " no"), (9.8, 10.0, " no"))


@pytest.mark.parametrize(
    ("left", "right", "count"),
    [
        ("nothing in common", words((8.0, 8.3, " a")), 0),
        ("same word, same time", words((8.15, 8.4, " go")), 1),
        ("other case and punctuation", words((8.1, 8.4, " Go,")), 1),
        ("same word, half a second later", words((8.5, 8.8, " go")), 0),
        ("two words", words((7.4, 7.8, " to"), (8.1, 8.3, " go")), 2),
        ("only the first of two words", words((8.1, 8.3, " go"), (8.5, 8.9, " on")), 1),
        ("another word in between", words((7.9, 8.0, " oh"), (8.1, 8.3, " go")), 0),
    ],
)
def test_a_word_that_both_sides_have_is_found(left: str, right: list[Word], count: int) -> None:
    assert doubled(words((7.5, 7.8, " to"), (8.0, 8.3, " go")), right) == count, left


def test_a_word_that_is_said_twice_is_no_double() -> None:
    assert doubled(NO_NO[:1], NO_NO[1:]) == 0
    assert doubled(NO_NO, NO_NO) == 2
    assert doubled(NO_NO, NO_NO[1:]) == 1


def test_of_several_ways_to_match_the_one_whose_times_fit_best() -> None:
    quick = words(*[(n / 4, n / 4 + 0.2, " no") for n in range(5)])

    assert [doubled(quick, quick[n:]) for n in range(5)] == [5, 4, 3, 2, 1]
    assert [doubled(quick[:3], quick[n:]) for n in range(3)] == [3, 2, 1]


def test_nothing_is_doubled_where_one_side_is_silent() -> None:
    assert doubled([], NO_NO) == 0
    assert doubled(NO_NO, []) == 0


def fitted(left: list[Word], right: list[Word]) -> str:
    """Of chunks that share the sound from 9 to 11."""
    until, since = fit(left, right, start=9.0, end=11.0)
    return "".join(word.text for word in left[:until] + right[since:]).strip()


A, B, C, D = words((9.0, 9.2, " a"), (9.5, 9.7, " b"), (10.2, 10.4, " c"), (10.8, 11.0, " d"))


def moved(*moving: Word, by: float) -> list[Word]:
    return [word.model_copy(update={"start": word.start + by, "end": word.end + by}) for word in moving]


@pytest.mark.parametrize(
    ("left", "right", "whole"),
    [
        ([A, B, C, D], [A, B, C, D], "a b c d"),
        ([A, B], [C, D], "a b c d"),
        ([A, B, C], [B, C, D], "a b c d"),
        ([A, B, *words((10.1, 10.2, " x"))], [B, C, D], "a b c d"),  # x is a piece of c
        ([A, B, C], [*words((9.8, 9.9, " x")), C, D], "a b c d"),  # x is a piece of b
        ([A, B, *words((9.8, 9.9, " x"))], [B, C, D], "a b c d"),  # heard too early, on the left side of the border
        ([A, B, *words((10.1, 10.2, " x"))], [C, D], "a b c d"),  # nothing in common: the border decides
        (words((9.25, 9.45, " x")), [*words((9.0, 9.2, " x"), (9.65, 9.85, " x")), D], "x d"),  # the first x is cut
        ([A, B], [C, *moved(B, by=1.2)], "a b c b"),  # not the same word
        (words((10.0, 10.2, " x"), (10.4, 10.6, " x")), words((10.4, 10.6, " x")), "x x"),  # its second is the same
        ([A, B], [*words((9.0, 9.3, " b")), C, D], "a b c d"),  # a piece, but no other word is heard by both
        ([A, *moved(B, by=-0.2)], [*moved(B, by=0.2), C], "a b c"),
        ([A, *moved(C, by=0.1)], [*moved(C, by=-0.3), D], "a c d"),
        ([], [B, C], "c"),
        ([B, C], [], "b"),
        ([], [], ""),
    ],
)
def test_two_readings_fit_at_a_word_that_both_have(left: list[Word], right: list[Word], whole: str) -> None:
    assert fitted(left, right) == whole


@pytest.mark.parametrize("off_left", [-0.1, 0.1])
@pytest.mark.parametrize("off_right", [-0.1, 0.1])
@pytest.mark.parametrize("at", [9.6, 9.8, 10.0])
def test_a_word_that_is_said_twice_quickly_is_there_twice(off_left: float, off_right: float, at: float) -> None:
    said = words((at - 0.1, at + 0.1, " no"), (at + 0.32, at + 0.52, " no"))

    assert fitted(moved(*said, by=off_left), moved(*said, by=off_right)) == "no no"


def test_words_near_the_borders_are_kept_apart() -> None:
    heard = words(
        (2.0, 2.4, "far"), (7.0, 7.6, "before"), (7.8, 8.4, "own"), (14.6, 15.0, "own"), (15.3, 16.0, "behind")
    )

    part = {"start": 7.0, "end": 16.0, "overlap": 1.0}
    assert texts(edge_words(heard, is_first=False, is_last=False, **part)) == ["before", "behind"]
    assert texts(edge_words(heard, is_first=True, is_last=True, **part)) == []
    assert edge_words(heard, start=7.0, end=16.0, overlap=0.0, is_first=False, is_last=False) == []
    # Not all of a long overlap.
    long = {"start": 0.0, "end": 30.0, "overlap": 18.0}
    assert texts(edge_words(heard, is_first=False, is_last=False, **long)) == ["before", "own"]


@pytest.mark.parametrize(
    ("one", "other"),
    [(" Hello,", "hello"), ("ÉTÉ", " été."), ("e\u0301te\u0301", "été"), ("Straße", "STRASSE"), ("dont", "don't")],
)
def test_spellings_of_one_word(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


def test_marks_without_letters_are_told_apart() -> None:
    assert normalised(" ?!") != normalised(" ...")
