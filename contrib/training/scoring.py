"""How wrong a transcript is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """Words that were said, how many of them came out wrong, and how many lines came out right."""

    lines: int = 0
    right: int = 0
    words: int = 0
    errors: int = 0

    @property
    def rate(self) -> float:
        """The word error rate."""
        return self.errors / max(1, self.words)


def score(pairs: Iterable[tuple[str, str]]) -> Score:
    """Return the score of (what was said, what was heard)."""
    lines = right = words = errors = 0
    for said, heard in pairs:
        wrong = word_errors(said, heard)
        lines, right, words, errors = lines + 1, right + (wrong == 0), words + len(said.split()), errors + wrong
    return Score(lines, right, words, errors)


def word_errors(said: str, heard: str) -> int:
    """Return how many words must be put in, left out or changed to get from one to the other."""
    wanted, given = said.split(), heard.split()
    row = list(range(len(given) + 1))
    for count, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], count
        for place, other in enumerate(given, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (word != other))
    return row[-1]
