"""How long a machine stands still: what it has not given to us is no fault of what is tested.

A virtual machine whose host has something else to do stops for a second now and then, with all that runs in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Self, TypeVar

import pytest

T = TypeVar("T")
#: Seconds between two looks.
_LOOK = 0.01
#: Seconds of a stall that sound and pictures survive; and how often what a longer one has disturbed is done again.
_SHORT = 0.1
_TRIES = 5


class Stalls:
    """Looks at the clock all the time, in a thread, while the `with` lasts."""

    def __init__(self) -> None:
        #: Seconds of the longest moment in which this process did not run though it wanted to.
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="stalls")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        before = time.monotonic()
        while not self._over.wait(_LOOK):
            now = time.monotonic()
            self.longest = max(self.longest, now - before - _LOOK)
            before = now

    @property
    def disturbed(self) -> float:
        """The longest moment, where it was long enough to be heard; otherwise 0."""
        return self.longest if self.longest > _SHORT else 0.0


async def undisturbed(take: Callable[[], Awaitable[T]]) -> T:
    """What `take` brings in a time in which the machine does not stand still. Skips the test where there is none."""
    for _ in range(_TRIES):
        with Stalls() as stalls:
            taken = await take()
        if not stalls.disturbed:
            return taken
    pytest.skip(f"this machine stood still in each of {_TRIES} tries: nothing of what was measured is worth anything")
