from __future__ import annotations

import pytest
from training.scoring import score, word_errors


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("one two three", "one two three", 0),
        ("one two three", "one three", 1),
        ("one two three", "one two two three", 1),
        ("one two three", "one four three", 1),
        ("one two three", "", 3),
        ("", "one", 1),
        ("left right", "right left", 2),
    ],
)
def test_errors_are_the_words_to_put_in_leave_out_or_change(said, heard, errors):
    assert word_errors(said, heard) == errors


def test_the_rate_is_of_all_words_and_not_of_lines():
    measured = score([("one two three four", "one two three four"), ("five", "six")])

    assert (measured.words, measured.errors, measured.lines, measured.right) == (5, 1, 2, 1)
    assert measured.rate == pytest.approx(0.2)
