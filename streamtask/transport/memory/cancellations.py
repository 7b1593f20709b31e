"""Events that nobody wants any more, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamtask.lanes import home
from streamtask.transport.memory.store import MemoryStore
from streamtask.transport.values import Result


class MemoryCancellations:
    """See `port.Cancellations`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def cancel(self, stream: str, event_id: str, result: Result | None, *, ttl: float) -> bool:
        """Cancel an event, unless it has a result."""
        now = self._clock()
        with self._store.lock:
            state = self._store.stream(home(stream))
            if state.results.get(event_id, now) is not None:
                return False
            state.cancelled.put(event_id, value=True, until=now + ttl, now=now)
            if self._store.stream(stream).unschedule(event_id) and result is not None:
                self._store.keep(stream, result, now)
            return True

    async def cancelled(self, stream: str, event_ids: Sequence[str]) -> list[bool]:
        """Whether each of these is cancelled."""
        now = self._clock()
        with self._store.lock:
            state = self._store.find(home(stream))
            return [state.cancelled.get(event_id, now) is not None for event_id in event_ids]
