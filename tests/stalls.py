"""How long a machine stands still: what it has not given to us is no fault of what is tested.

A virtual machine whose host has something else to do stops for a second now and then, with all that runs in it.
"""

from __future__ import annotations

import threading
import time
from typing import Self

#: Seconds between two looks.
_LOOK = 0.01


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
