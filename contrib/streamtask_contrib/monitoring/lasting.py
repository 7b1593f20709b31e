"""Whether something lasts: it was so most of the time for a while. One quiet look in between does not end it."""

from __future__ import annotations

from collections import deque


class Lasting:
    """What was so at each of the last looks."""

    def __init__(self, seconds: float, *, share: float = 0.75) -> None:
        """It lasts when it was so at this `share` of the looks of the last `seconds`."""
        self._seconds = seconds
        self._share = share
        self._looks: deque[tuple[float, bool]] = deque()
        self._count = 0

    def add(self, at: float, *, is_so: bool) -> None:
        """It is so, or not, now."""
        self._looks.append((at, is_so))
        self._count += is_so
        # One look from before the span stays, so that the span is covered.
        while len(self._looks) > 1 and self._looks[1][0] <= at - self._seconds:
            self._count -= self._looks.popleft()[1]

    @property
    def lasts(self) -> bool:
        """Whether it has been so for long enough, and is so now."""
        if not self._looks or not self._looks[-1][1] or self._looks[-1][0] - self._looks[0][0] < self._seconds:
            return False
        return self._count >= self._share * len(self._looks)

    @property
    def has_begun(self) -> bool:
        """Whether it was so at half of the looks: on its way, perhaps."""
        return self._count * 2 >= len(self._looks) > 1

    def clear(self) -> None:
        """Begin anew."""
        self._looks.clear()
        self._count = 0
