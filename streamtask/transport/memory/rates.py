"""Starts of limited handlers, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamtask.transport.memory.store import MemoryStore
from streamtask.transport.values import Start, Turn


class MemoryRates:
    """See `port.Rates`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def reserve(self, stream: str, starts: Sequence[Start], *, ahead: float, longest: float) -> list[Turn]:
        """Give each start its time."""
        with self._store.lock:
            return [self._turn(stream, start, ahead, longest) for start in starts]

    def _turn(self, stream: str, start: Start, ahead: float, longest: float) -> Turn:
        now, limit = self._clock(), f"{start.group}:{start.limit}"
        rates = self._store.stream(stream).rates
        free, last = rates.get(limit, now) or (now, now)
        # Never further off than what could be given out: a clock may be set back.
        free = max(now, min(free, now + ahead + start.spacing))
        last = max(free, min(last, now + longest + start.spacing))
        is_reserved = (free if start.first else last) <= now + ahead
        turn = Turn(free - now if is_reserved else min(last - now, longest), is_reserved)
        free, last = (free + start.spacing, last) if is_reserved else (free, last + start.spacing)
        rates.put(limit, (free, max(free, last)), max(free, last), now)
        return turn
