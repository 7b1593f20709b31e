from __future__ import annotations

import pytest
from streamtask_contrib.events import Word
from streamtask_contrib.transcript.seams import (
    doubled,
    is_beginning_of,
    is_end_of,
    keep_own_words,
    normalised,
)


def words(*said: tuple[float, float, str]) -> list[Word]:
    return [Word(start=start, end=end, text=text) for start, end, text in said]


def texts(kept: list[Word]) -> list[str]:
    return [word.text for word in kept]


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


@pytest.mark.parametrize("off_left", [-0.1, 0.0, 0.1])
@pytest.mark.parametrize("off_right", [-0.1, 0.0, 0.1])
def test_a_word_on_the_border_is_kept_by_one_of_the_two_at_least(off_left: float, off_right: float) -> None:
    left = keep_own_words(
        words((7.3 + off_left, 7.7 + off_left, "word")), start=0, end=8, overlap=1, is_first=True, is_last=False
    )
    right = keep_own_words(
        words((7.3 + off_right, 7.7 + off_right, "word")), start=7, end=15, overlap=1, is_first=False, is_last=False
    )

    assert left or right


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


@pytest.mark.parametrize(
    ("piece", "whole", "is_piece"),
    [
        ((9.7, 10.0, " meet"), (9.7, 10.2, " meeting"), True),
        ((9.7, 9.8, " meet"), (9.7, 10.2, " meeting"), False),  # it ends before its chunk does: nothing cut it
        ((9.9, 10.0, " meet"), (10.4, 10.9, " meeting"), False),  # at another time
        ((9.7, 10.0, " meeting"), (9.7, 10.2, " meeting"), False),  # not a piece, but all of it
        ((9.7, 10.0, " mat"), (9.7, 10.2, " meeting"), False),
    ],
)
def test_a_word_that_the_end_of_its_chunk_has_cut(
    piece: tuple[float, float, str], whole: tuple[float, float, str], is_piece: bool
) -> None:
    [cut, said] = words(piece, whole)

    assert is_beginning_of(cut, said, edge=10.0) is is_piece


@pytest.mark.parametrize(
    ("piece", "whole", "is_piece"),
    [
        ((9.5, 9.8, " ting"), (9.2, 9.8, " meeting"), True),
        ((9.7, 9.8, " ting"), (9.2, 9.8, " meeting"), False),
        ((9.5, 10.2, " ting"), (9.2, 9.8, " meeting"), False),
        ((9.5, 9.8, " meet"), (9.2, 9.8, " meeting"), False),
    ],
)
def test_a_word_that_the_beginning_of_its_chunk_has_cut(
    piece: tuple[float, float, str], whole: tuple[float, float, str], is_piece: bool
) -> None:
    [cut, said] = words(piece, whole)

    assert is_end_of(cut, said, edge=9.5) is is_piece


@pytest.mark.parametrize(
    ("one", "other"),
    [(" Hello,", "hello"), ("ÉTÉ", " été."), ("e\u0301te\u0301", "été"), ("Straße", "STRASSE"), ("dont", "don't")],
)
def test_spellings_of_one_word(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


def test_marks_without_letters_are_told_apart() -> None:
    assert normalised(" ?!") != normalised(" ...")
