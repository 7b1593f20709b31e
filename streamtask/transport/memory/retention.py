"""Bounds on what is kept in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from streamtask.transport.memory.log import id_at
from streamtask.transport.memory.store import RESERVED, MemoryStore


class MemoryRetention:
    """See `port.Retention`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def trim(self, stream: str, *, max_age: float, max_entries: int) -> int:
        """Remove what is old (or beyond `max_entries`) and finished by every group; checkpoint the groups.

        A group that vanished still needs everything after its checkpoint: it will be made again there.
        """
        with self._store.lock:
            state = self._store.find(stream)
            log = state.log
            for name, group in log.groups.items():
                state.ledger(name).checkpoint = group.floor
            vanished = [ledger.checkpoint for name, ledger in state.ledgers.items() if name not in log.groups]
            floors = [checkpoint for checkpoint in vanished if checkpoint is not None]
            too_old = bisect_left(log.ids, id_at(self._clock() - max_age))
            too_many = len(log) - max_entries
            return log.delete(
                [
                    entry_id
                    for entry_id in log.ids[: max(0, too_old, too_many)]
                    if all(group.has_finished(entry_id) for group in log.groups.values())
                    and all(entry_id <= floor for floor in floors)
                ]
            )

    async def sweep_consumers(self, stream: str, group: str, *, idle: float) -> int:
        """Remove consumers that hold nothing, have no beat and have asked for nothing for `idle` seconds."""
        with self._store.lock:
            now = self._clock()
            found = self._store.group(stream, group)
            swept = [
                owner
                for owner, seen_at in found.consumers.items()
                if owner not in RESERVED
                and now - seen_at >= idle
                and not self._store.alive(owner, now)
                and not found.held_by(owner)
            ]
            for owner in swept:
                del found.consumers[owner]
            return len(swept)
