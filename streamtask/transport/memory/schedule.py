"""Events that are not due yet, in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from streamtask.transport.memory.store import MemoryStore, fields_of
from streamtask.transport.values import Outgoing


class MemorySchedule:
    """See `port.Schedule`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def promote(self, streams: Sequence[str]) -> float | None:
        """Append what is due, soonest first; returns seconds until the next one."""
        with self._store.lock:
            now = self._clock()
            moments = []
            for stream in streams:
                state = self._store.find(stream)
                delayed = state.delayed
                for event_id, waiting in sorted(delayed.items(), key=lambda pair: (pair[1].due, pair[0])):
                    if waiting.due <= now:
                        self._store.append(waiting.item, now)
                        del delayed[event_id]
                        key = waiting.item.debounce_key
                        if key is not None:
                            del state.debounced[key]
                    else:
                        moments.append(waiting.due)
                        break
            return min(moments) - now if moments else None

    async def scheduled(self, stream: str, *, limit: int) -> list[Mapping[str, object]]:
        """What waits, soonest first."""
        with self._store.lock:
            now = self._clock()
            waiting = sorted(self._store.find(stream).delayed.values(), key=lambda delayed: delayed.due)
            return [
                {
                    "event_id": delayed.item.event_id,
                    "event_type": _event_type(delayed.item),
                    "due_in_ms": max(0, round((delayed.due - now) * 1000)),
                    "fields": fields_of(delayed.item),
                }
                for delayed in waiting[:limit]
            ]


def _event_type(item: Outgoing) -> str:
    """The type named in a JSON envelope; empty where the body is something else."""
    try:
        envelope = json.loads(item.body)
    except (ValueError, RecursionError):
        return ""
    return str(envelope.get("event_type", "")) if isinstance(envelope, dict) else ""
