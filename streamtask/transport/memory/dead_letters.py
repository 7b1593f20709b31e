"""Dead letters in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamtask.errors import TransportError
from streamtask.transport.memory.log import ZERO, id_text, parse_id
from streamtask.transport.memory.settlement import copy_for
from streamtask.transport.memory.store import MemoryStore
from streamtask.transport.values import DeadLetter


class MemoryDeadLetters:
    """See `port.DeadLetters`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def count(self, stream: str) -> int:
        """How many there are."""
        with self._store.lock:
            return len(self._store.find(stream).dead)

    async def page(self, stream: str, *, after: str, limit: int) -> list[DeadLetter]:
        """Oldest first, ids greater than `after`."""
        with self._store.lock:
            position = parse_id(after) if after else ZERO
            letters = self._store.find(stream).dead.items()
            return [letter for dead_id, letter in letters if dead_id > position][:limit]

    async def last(self, stream: str) -> str:
        """The id of the newest one."""
        with self._store.lock:
            newest = next(reversed(self._store.find(stream).dead), None)
            return "" if newest is None else id_text(newest)

    async def get(self, stream: str, dead_id: str) -> DeadLetter | None:
        """One dead letter."""
        with self._store.lock:
            return self._store.find(stream).dead.get(parse_id(dead_id))

    async def replay(self, stream: str, dead_id: str) -> str | None:
        """Append the entry again, for its group only; the dead letter is gone with it."""
        with self._store.lock:
            state = self._store.find(stream)
            letter = state.dead.get(parse_id(dead_id))
            if letter is None:
                return None
            if letter.group not in state.log.groups:
                raise TransportError(f"there is no group {letter.group!r} that could read it")
            del state.dead[parse_id(dead_id)]
            fields = copy_for(letter.group, letter.fields, dead_id)
            return id_text(self._store.append_fields(stream, fields, letter.event_id, self._clock()))

    async def purge(self, stream: str, dead_ids: Sequence[str]) -> int:
        """Remove dead letters for good; returns how many were there."""
        with self._store.lock:
            dead = self._store.find(stream).dead
            return sum(dead.pop(parse_id(dead_id), None) is not None for dead_id in dead_ids)
