"""Seams: neighbouring chunks share some sound, and both have heard the words in it.

Each chunk alone says which words are its own (`keep_own_words`) and which it has heard beyond that (`edge_words`).
Where it is joined to the next one, `fit` says how far the one is to be believed and from where on the other. Pure, and
without knowledge of sessions.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Sequence
from typing import Protocol

from streamtask_contrib.events import Word

#: Seconds between the middles of two readings of one word, at most.
SAME_WORD = 0.3
#: The same where a word may be looked for among others: a small model is off by more, but not by so much that another
#: word of the same text would be nearer.
_NEAR = 0.5
#: What begins or ends so close to the edge of its chunk, in seconds, is a piece of a word.
_CUT = 0.05
#: Seconds beyond the border between two chunks for which words are kept to compare them.
_REACH = 2.0


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

    `start` and `end` are those of the chunk. The first and the last chunk of a session are open at their outer side,
    and one that was cut in a silence is so at both, wherever the model puts its words.
    """
    first, last = _borders(start=start, end=end, overlap=overlap, is_first=is_first, is_last=is_last)
    return [word for word in words if first <= middle(word) < last]


def edge_words(
    words: Sequence[Word], *, start: float, end: float, overlap: float, is_first: bool, is_last: bool
) -> list[Word]:
    """The words near a chunk's borders that are its neighbours' own."""
    first, last = _borders(start=start, end=end, overlap=overlap, is_first=is_first, is_last=is_last)
    return [word for word in words if first - _REACH <= middle(word) < first or last <= middle(word) <= last + _REACH]


def _borders(*, start: float, end: float, overlap: float, is_first: bool, is_last: bool) -> tuple[float, float]:
    first = -math.inf if is_first or not overlap else start + overlap / 2
    last = math.inf if is_last or not overlap else end - overlap / 2
    return first, last


def fit(left: Sequence[Timed], right: Sequence[Timed], *, start: float, end: float) -> tuple[int, int]:
    """How many of the first of `left` and from which on of `right` make one sequence of words.

    The chunks share the sound from `start`, where the right one begins, to `end`, where the left one does. It goes from
    one to the other at a word that both have heard, the one nearest to the middle. So a piece of a word at the end of a
    chunk is not taken for one, nor is a word lost or doubled that each of them places at the other's side. Where there
    is no such word, the middle decides.
    """
    whole_left = [n for n, word in enumerate(left) if word.end < end - _CUT]
    whole_right = [n for n, word in enumerate(right) if word.start > start + _CUT]
    common = [(n, _nearest(word, right, whole_right)) for n, word in enumerate(left)]
    mutual = [(n, m) for n, m in common if m is not None and _nearest(right[m], left, whole_left) == n]
    if mutual:
        n, m = min(mutual, key=lambda pair: abs(middle(left[pair[0]]) + middle(right[pair[1]]) - start - end))
        return n + 1, m + 1
    border = (start + end) / 2
    return sum(middle(word) < border for word in left), sum(middle(word) < border for word in right)


def _nearest(word: Timed, others: Sequence[Timed], whole: Collection[int]) -> int | None:
    """Which of the others is the same word, heard at about the same time; a whole one rather than a piece."""
    text = normalised(word.text)
    near = [n for n, other in enumerate(others) if _distance(word, other) <= _NEAR and normalised(other.text) == text]
    return min(near, key=lambda n: (n not in whole, _distance(word, others[n])), default=None)


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
        distance = sum(_distance(one, other) for one, other in pairs) / count
        if distance < least and all(_is_same(one, other) for one, other in pairs):
            best, least = count, distance
    return best


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


def _distance(one: Timed, other: Timed) -> float:
    return abs(middle(one) - middle(other))


def _is_same(one: Timed, other: Timed) -> bool:
    return _distance(one, other) <= SAME_WORD and normalised(one.text) == normalised(other.text)
