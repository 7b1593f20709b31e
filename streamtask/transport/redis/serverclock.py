"""Whether the server's clock was set: whatever it says of ages is wrong then, until the living have shown themselves.

Pure: times are handed in. Nothing is due by this, and no age is corrected; it only says when not to believe.
"""

from __future__ import annotations

import math

#: Seconds by which a clock may go wrong between two looks and still was not set; no heartbeat runs out by that.
_TOLERANCE = 1.0


class ServerClock:
    """The clock of one server, seen from here from time to time."""

    def __init__(self) -> None:
        #: How often it was set, as far as we have seen.
        self.times_set = 0
        #: Monotonic time at which we saw that it was set.
        self.set_at = -math.inf
        #: How far it is ahead of our monotonic clock: between these.
        self._ahead = (-math.inf, math.inf)

    def saw(self, seconds: float, *, asked_at: float, now: float) -> float:
        """The server's time, which was asked for and has come at these monotonic times.

        Returns by how many seconds it was set since the last time, at least; 0.0 where it goes as it should.
        """
        (low, high), self._ahead = self._ahead, (seconds - now, seconds - asked_at)
        moved = max(0.0, self._ahead[0] - high) + min(0.0, self._ahead[1] - low)
        if abs(moved) <= _TOLERANCE:
            return 0.0
        self.times_set += 1
        self.set_at = now
        return moved
