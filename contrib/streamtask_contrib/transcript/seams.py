"""Seams: neighbouring chunks share some sound, and both have heard the words in it.

Each chunk alone keeps the words of its own part (`keep_own_words`); what both have kept all the same is found by text
and time (`doubled`), as is a word of which one of them heard a piece only (`is_beginning_of`, `is_end_of`). Pure, and
without knowledge of sessions.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Protocol

from streamtask_contrib.events import Word

#: A model hears a word up to so many seconds too early or too late; two chunks need not err in the same direction.
JITTER = 0.1
#: Seconds between the middles of two readings of one word, at most. Two words that follow each other are further apart.
SAME_WORD = 0.3
#: A word that comes so close to the edge of its chunk, in seconds, may have been cut by it.
_EDGE = 0.1


class Timed(Protocol):
    """Text with its time: a word, a segment."""

    @property
    def start(self) -> float:
        """Seconds of the session."""
        ...

    @property
    def end(self) -> float:
        """Seconds of the session."""
        ...

    @property
    def text(self) -> str:
        """As it is written."""
        ...


def keep_own_words(
    words: Sequence[Word], *, start: float, end: float, overlap: float, is_first: bool, is_last: bool
) -> list[Word]:
    """The words that are a chunk's own: their middle lies in it, less half of the overlap at either side.

    `start` and `end` are those of the chunk. The first and the last chunk of a session are open at their outer side. A
    word closer to the border than the clocks of two models agree is kept by both chunks: kept twice it is found by
    `doubled`, but what neither keeps is lost.
    """
    if not overlap:
        return list(words)
    inset = max(overlap / 2 - JITTER, 0.0)
    first = -math.inf if is_first else start + inset
    last = math.inf if is_last else end - inset
    return [word for word in words if first <= middle(word) <= last]


def doubled(left: Sequence[Timed], right: Sequence[Timed]) -> int:
    """How many of the first of `right` are the last of `left`, heard again: same text at the same time.

    Where several answers fit ("no, no, no"), the one whose times fit best.
    """
    best, least = 0, math.inf
    for count in range(1, min(len(left), len(right)) + 1):
        tail = left[-count:]
        if middle(right[0]) - middle(tail[0]) > SAME_WORD:
            break
        pairs = list(zip(tail, right, strict=False))
        distance = sum(abs(middle(one) - middle(other)) for one, other in pairs) / count
        if distance < least and all(_is_same(one, other) for one, other in pairs):
            best, least = count, distance
    return best


def is_beginning_of(piece: Timed, whole: Timed, *, edge: float) -> bool:
    """Whether `piece` is the beginning of `whole`, cut off where its chunk ends, at `edge`."""
    heard, said = normalised(piece.text), normalised(whole.text)
    cut = 0 < len(heard) < len(said) and said.startswith(heard) and piece.end >= edge - _EDGE
    return cut and abs(piece.start - whole.start) <= SAME_WORD


def is_end_of(piece: Timed, whole: Timed, *, edge: float) -> bool:
    """Whether `piece` is the end of `whole`, cut off where its chunk begins, at `edge`."""
    heard, said = normalised(piece.text), normalised(whole.text)
    cut = 0 < len(heard) < len(said) and said.endswith(heard) and piece.start <= edge + _EDGE
    return cut and abs(piece.end - whole.end) <= SAME_WORD


def middle(timed: Timed) -> float:
    """The middle of a word, in seconds of the session."""
    return (timed.start + timed.end) / 2


def normalised(text: str) -> str:
    """What two spellings of one word have in common: no case, no punctuation, one form of each letter.

    What consists of nothing else ("?!") stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = "".join(each for each in folded if unicodedata.category(each)[0] in "LMN")
    return letters or folded.strip()


def _is_same(one: Timed, other: Timed) -> bool:
    return abs(middle(one) - middle(other)) <= SAME_WORD and normalised(one.text) == normalised(other.text)
