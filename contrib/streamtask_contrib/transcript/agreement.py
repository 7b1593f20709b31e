"""LocalAgreement: which words of what is still being spoken will not change any more.

A live result is a hypothesis of the words so far, and each is a little longer than the one before. A word is committed
when two hypotheses in a row begin with it (LocalAgreement-2). A model that is caught in a loop agrees with itself; a
hypothesis that ends in one commits nothing. Pure: it reads no clock, its caller says when nothing more comes.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamtask_contrib.events import Word
from streamtask_contrib.transcript.seams import doubled, middle, normalised

#: A hypothesis puts a word up to so many seconds earlier than the one before.
_JITTER = 0.1
#: A loop comes round at least so often, ...
_ROUNDS = 3
#: ... has at most so many words a round, ...
_LONGEST_ROUND = 6
#: ... and at least so many altogether: "no, no, no" is no loop.
_SHORTEST_LOOP = 6
#: Stable words that are looked at again: a loop may have begun in them.
_TAIL = _ROUNDS * _LONGEST_ROUND


class Agreement:
    """What is stable of one stretch of speech; a new one for each chunk that is spoken, and for each speaker."""

    def __init__(self) -> None:
        self._stable: list[Word] = []
        #: What the last hypothesis said after the stable words.
        self._pending: list[Word] = []

    def update(self, words: Sequence[Word]) -> tuple[list[Word], list[Word]]:
        """Take the next hypothesis; returns all stable words, and those that may still change."""
        new = self._not_stable(words)
        tail = self._stable[-_TAIL:]
        loop = loop_start([*tail, *new])
        if loop is not None:
            self._pending = []
            return list(self._stable), new[: max(0, loop - len(tail))]
        agreed = _common(self._pending, new)
        self._stable += new[:agreed]
        self._pending = new[agreed:]
        return list(self._stable), list(self._pending)

    def finish(self) -> list[Word]:
        """Commit what is pending, because nothing more is said or nothing has come for a while; all stable words."""
        self._stable += self._pending
        self._pending = []
        return list(self._stable)

    def _not_stable(self, words: Sequence[Word]) -> list[Word]:
        """The words behind those that are stable: by time, and, close to the last of them, by their text."""
        if not self._stable:
            return list(words)
        since = self._stable[-1].end - _JITTER
        new = [word for word in words if middle(word) >= since]
        return new[doubled(self._stable[-_TAIL:], new) :]


def loop_start(words: Sequence[Word]) -> int | None:
    """Where the second round begins of the loop that the last words are caught in; None if they are not."""
    texts = [normalised(word.text) for word in words]
    for length in range(1, min(_LONGEST_ROUND, len(texts) // _ROUNDS) + 1):
        rounds = 1
        while texts[-length * (rounds + 1) : len(texts) - length * rounds] == texts[-length:]:
            rounds += 1
        if rounds >= _ROUNDS and rounds * length >= _SHORTEST_LOOP:
            return len(texts) - length * (rounds - 1)
    return None


def _common(one: Sequence[Word], other: Sequence[Word]) -> int:
    """How many words two hypotheses have in common, from the first."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if normalised(left.text) != normalised(right.text):
            return place
    return min(len(one), len(other))
