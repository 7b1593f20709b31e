"""What became of events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamtask.lanes import home
from streamtask.transport.memory.store import MemoryStore, progress_of, results_of
from streamtask.transport.values import Progress


class MemoryResults:
    """See `port.Results`. A position is how many results have ever come."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def get(self, stream: str, event_id: str) -> bytes | None:
        """The result of an event."""
        with self._store.lock:
            return self._store.find(home(stream)).results.get(event_id, self._clock())

    async def position(self, stream: str) -> str:
        """Where the news stand."""
        with self._store.lock:
            state = self._store.find(home(stream))
            return str(state.old_news + len(state.news))

    async def news(self, stream: str, *, after: str, wait: float) -> tuple[list[str], str]:
        """Events whose results came behind a position."""
        deadline = asyncio.get_running_loop().time() + wait
        with self._store.listening([results_of(stream)]) as something_came:
            while True:
                something_came.clear()
                with self._store.lock:
                    state = self._store.find(home(stream))
                    found = list(state.news)[max(0, int(after) - state.old_news) :]
                    position = str(state.old_news + len(state.news))
                if found:
                    return found, position
                try:
                    async with asyncio.timeout_at(deadline):
                        await something_came.wait()
                except TimeoutError:
                    return [], after

    async def progress(self, stream: str, event_id: str, *, after: str, wait: float) -> tuple[Progress | None, str]:
        """How far an event is, if that is news. A position is how many words there have been."""
        deadline = asyncio.get_running_loop().time() + wait
        with self._store.listening([progress_of(stream)]) as something_came:
            while True:
                something_came.clear()
                with self._store.lock:
                    said = self._store.find(home(stream)).progress.get(event_id, self._clock())
                if said is not None and said[0] > int(after):
                    return said[1], str(said[0])
                try:
                    async with asyncio.timeout_at(deadline):
                        await something_came.wait()
                except TimeoutError:
                    return None, after
