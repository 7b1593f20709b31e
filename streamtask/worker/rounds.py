"""Rounds: what looks every so often looks together, for each wake-up of a process that has nothing to do costs it."""

from __future__ import annotations

import asyncio
from typing import Final

#: Seconds between two looks at what runs, what waits and what is due.
ROUND: Final = 0.3
#: A loop may wake up a little early, uvloop by a millisecond: that is the round that was waited for already.
EARLY: Final = 0.01


class Rounds:
    """The moments at which one worker looks. With a `phase` each, the workers of a machine do not all ask at once."""

    def __init__(self, phase: float = 0.0) -> None:
        self._phase = phase

    async def next(self) -> None:
        """Sleep until the next round: its moment is the same for all who wait for it."""
        await asyncio.sleep(until_next(asyncio.get_running_loop().time() + self._phase))


def until_next(now: float) -> float:
    """Seconds until the next round, more than `EARLY` of them."""
    return ROUND + EARLY - (now + EARLY) % ROUND
