"""How much may be fetched: free slots, plus a bounded prefetch while handlers are fast. Shared by fetcher and reclaimer."""

from __future__ import annotations

import asyncio

#: Handlers slower than this get no prefetch: what waits behind a busy slot belongs to other workers.
FAST_HANDLER = 0.050
_MOST_PREFETCHED = 400


class Flow:
    """Counts what is here: running in slots, and fetched but not started."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.held = 0
        self._average = FAST_HANDLER
        self._freed = asyncio.Event()
        self._freed.set()

    def room(self) -> int:
        """How many deliveries may be taken in now."""
        return max(0, self.concurrency + self._prefetch() - self.held)

    def _prefetch(self) -> int:
        if self._average >= FAST_HANDLER:
            return 0
        return min(_MOST_PREFETCHED, int(self.concurrency * FAST_HANDLER / max(self._average, 0.0005)))

    def took(self, n: int) -> None:
        """Deliveries were taken in."""
        self.held += n

    def left(self, seconds: float | None = None) -> None:
        """One delivery has its outcome; `seconds` its handler ran."""
        self.held -= 1
        if seconds is not None:
            self._average += 0.05 * (seconds - self._average)
        self._freed.set()

    async def wait_for_room(self) -> int:
        """Wait until something may be taken in."""
        while not (room := self.room()):
            self._freed.clear()
            await self._freed.wait()
        return room
