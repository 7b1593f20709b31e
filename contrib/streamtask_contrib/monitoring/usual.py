"""What is usual of a figure: median and spread of the last two hours, and how far a value is from that.

A value for each minute is kept. What is unusual is not learned, or an hour of trouble would be the usual of the next;
but what stays unusual for half an hour is no trouble of a moment: it becomes the new usual.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

#: Makes the median of the distances from the median what a standard deviation is, of figures that have one.
_MAD_TO_DEVIATION = 1.4826
#: Minutes that are kept, that are needed before anything is judged, and after which the unusual is the usual.
_KEPT, _NEEDED, _LASTING = 120, 15, 30
_MINUTE = 60.0


class Usual:
    """The usual of one figure. `add` is told every value that was seen, whether it was found unusual or not."""

    def __init__(self, *, spread: float, share: float = 0.0) -> None:
        """`spread`, and `share` of the median: no less is taken for the figure's own spread."""
        self._spread = spread
        self._share = share
        self._kept: deque[float] = deque(maxlen=_KEPT)
        self._unusual: deque[float] = deque(maxlen=_LASTING)
        self._minute: float | None = None
        self._highest = 0.0
        self._was_unusual = False
        #: What is usual, and how much it spreads.
        self.median = 0.0
        self.deviation = spread
        #: What all but a twentieth of the minutes were below: what comes back now and then.
        self.high = 0.0

    @property
    def is_known(self) -> bool:
        """Whether enough was seen to judge."""
        return len(self._kept) >= _NEEDED

    def score(self, value: float) -> float:
        """How many deviations a value is above what is usual."""
        return (value - self.median) / self.deviation

    def above(self, deviations: float) -> float:
        """The value that is so many deviations above what is usual."""
        return self.median + deviations * self.deviation

    def add(self, value: float, at: float, *, is_unusual: bool) -> None:
        """A value was seen. Of a minute, the highest one counts."""
        if not math.isfinite(value):
            return
        if self._minute is None:
            self._minute, self._highest, self._was_unusual = at, value, is_unusual
            return
        if 0 <= at - self._minute < _MINUTE:
            self._highest = max(self._highest, value)
            self._was_unusual = self._was_unusual or is_unusual
            return
        self._learn()
        self._minute, self._highest, self._was_unusual = at, value, is_unusual

    def _learn(self) -> None:
        if not self._was_unusual:
            self._unusual.clear()
            self._kept.append(self._highest)
        else:
            self._unusual.append(self._highest)
            if len(self._unusual) < _LASTING:
                return
            self._kept = deque(self._unusual, maxlen=_KEPT)
            self._unusual.clear()
        self._weigh()

    def _weigh(self) -> None:
        self.median = median(self._kept)
        self.high = sorted(self._kept)[len(self._kept) * 19 // 20]
        distance = median(abs(value - self.median) for value in self._kept)
        self.deviation = max(_MAD_TO_DEVIATION * distance, self._share * abs(self.median), self._spread)

    # ── kept elsewhere ────────────────────────────────────────────────────────────────────────────────────────

    def dump(self) -> list[float]:
        """What is to be written down, for `load`."""
        return [round(value, 6) for value in self._kept]

    def load(self, written: Any) -> None:
        """Go on with what was written down; what cannot be that is passed over."""
        if isinstance(written, list) and written and all(isinstance(value, int | float) for value in written):
            self._kept = deque((float(value) for value in written if math.isfinite(value)), maxlen=_KEPT)
            if self._kept:
                self._weigh()
