"""How much may be taken in: free slots, plus a bounded prefetch while handlers are fast; and who comes first.

What is due again (a retry, what a dead worker left) has begun before what is new, so it comes first: while some of it
waits for a slot, new events get as many slots as it got, one after the other. Neither can starve the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

#: Handlers slower than this get no prefetch: what waits behind a busy slot belongs to other workers.
FAST_HANDLER = 0.050
_MOST_PREFETCHED = 400


class Flow:
    """Counts what is here: running in slots, and taken in but not started. Shared by fetchers and reclaimer.

    `aside` says how many of these need no slot now, because they wait for something else.
    """

    def __init__(self, concurrency: int, *, aside: Callable[[], int] = lambda: 0) -> None:
        self.concurrency = concurrency
        self._aside = aside
        self.held = 0
        #: All that was ever taken in.
        self.taken = 0
        self._average = FAST_HANDLER
        self._due_waits = False
        #: Slots that new events may have before the next due one, while due ones wait.
        self._owed = 0
        self._changed = asyncio.Event()
        #: Somebody waits for it, and has not been told.
        self._awaited = False

    @property
    def free(self) -> int:
        """How many deliveries may be taken in now."""
        return max(0, self.concurrency + self._prefetch() + self._aside() - self.held)

    @property
    def free_slots(self) -> int:
        """How many may begin at once."""
        return max(0, self.concurrency + self._aside() - self.held)

    @property
    def free_for_new(self) -> int:
        """How many of them may be new events."""
        return min(self.free, self._owed) if self._due_waits else self.free

    def _prefetch(self) -> int:
        if self._average >= FAST_HANDLER:
            return 0
        return min(_MOST_PREFETCHED, int(self.concurrency * FAST_HANDLER / max(self._average, 0.0005)))

    def due_waits(self, *, waits: bool) -> None:
        """Whether something is due that has no slot yet."""
        if waits != self._due_waits:
            self._due_waits, self._owed = waits, 0
            self.changed()

    def took(self, n: int, *, due: bool) -> None:
        """Deliveries were taken in."""
        self.held += n
        self.taken += n
        if self._due_waits:
            self._owed = max(0, self._owed + (n if due else -n))
            self.changed()

    def shared(self, n: int) -> None:
        """So many more deliveries share the slot of another, as those of a batch; below 0: fewer do."""
        self.held -= n
        self.changed()

    def left(self, seconds: float | None = None) -> None:
        """One delivery has its outcome; `seconds` its handler ran."""
        self.held -= 1
        if seconds is not None:
            self._average += 0.05 * (seconds - self._average)
        if self._awaited:
            self.changed()

    def left_together(self, seconds: Sequence[float]) -> None:
        """The same of several, one after the other."""
        n = len(seconds)
        self.held -= n
        # What it would come to one by one, if all had taken the same time.
        self._average += (1 - 0.95**n) * (sum(seconds) / n - self._average)
        if self._awaited:
            self.changed()

    def stalled(self) -> None:
        """What was taken in ahead got no slot in time: take nothing ahead until handlers are seen to be fast again."""
        self._average = max(self._average, FAST_HANDLER)

    def changed(self) -> None:
        """Have everybody who waits for room look again."""
        if self._awaited:
            self._awaited = False
            self._changed.set()

    async def wait(self, room: Callable[[], int], *, within: float | None = None) -> int:
        """Wait until `room` is not 0, for so many seconds at most; it is asked at each change."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not (n := room()):
                    self._changed.clear()
                    self._awaited = True
                    await self._changed.wait()
                return n
        return room()
