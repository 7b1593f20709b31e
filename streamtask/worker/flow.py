"""How much may be taken in: free slots, plus a bounded prefetch while handlers are fast."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: Handlers slower than this get no prefetch: what waits behind a busy slot belongs to other workers.
FAST_HANDLER = 0.050
_MOST_PREFETCHED = 400


class Flow:
    """Counts what is here: running in slots, and taken in but not started. Shared by fetchers and reclaimer."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.held = 0
        #: All that was ever taken in.
        self.taken = 0
        self._average = FAST_HANDLER
        self._changed = asyncio.Event()

    def room(self) -> int:
        """How many deliveries may be taken in now."""
        return max(0, self.concurrency + self._prefetch() - self.held)

    def room_for_a_retry(self) -> int:
        """The same, and one more than there is room for: a due retry must not starve behind a stream that is full."""
        return max(0, self.concurrency + self._prefetch() + 1 - self.held)

    def _prefetch(self) -> int:
        if self._average >= FAST_HANDLER:
            return 0
        return min(_MOST_PREFETCHED, int(self.concurrency * FAST_HANDLER / max(self._average, 0.0005)))

    def took(self, n: int) -> None:
        """Deliveries were taken in."""
        self.held += n
        self.taken += n

    def left(self, seconds: float | None = None) -> None:
        """One delivery has its outcome; `seconds` its handler ran."""
        self.held -= 1
        if seconds is not None:
            self._average += 0.05 * (seconds - self._average)
        self.changed()

    def changed(self) -> None:
        """Have everybody who waits for room look again."""
        self._changed.set()

    async def wait(self, room: Callable[[], int]) -> int:
        """Wait until `room` is not 0; it is asked at each change."""
        while not (n := room()):
            self._changed.clear()
            await self._changed.wait()
        return n
