"""Events that nobody wants any more: a mark for each, beside its stream."""

from __future__ import annotations

from collections.abc import Sequence

from streamtask.transport.redis import keys
from streamtask.transport.redis.client import Caller, Script
from streamtask.transport.redis.line import Argument
from streamtask.transport.values import Result


class RedisCancellations:
    """`Cancellations` on Redis."""

    def __init__(self, wire: Caller) -> None:
        self._wire = wire
        self._cancel = Script("cancel")

    async def cancel(self, stream: str, event_id: str, result: Result | None, *, ttl: float) -> bool:
        """See `Cancellations.cancel`."""
        names = [
            keys.cancelled(stream, event_id),
            keys.result(stream, event_id),
            keys.results(stream),
            keys.delayed(stream),
            keys.delayed_bodies(stream),
            keys.debounced(stream),
        ]
        told: tuple[Argument, Argument] = (0, "") if result is None else (max(1, round(result.ttl * 1000)), result.body)
        reply = await self._wire.run(self._cancel, names, [event_id, max(1, round(ttl * 1000)), *told])
        return bool(reply == 1)

    async def cancelled(self, stream: str, event_ids: Sequence[str]) -> list[bool]:
        """See `Cancellations.cancelled`."""
        marks = [keys.cancelled(stream, event_id) for event_id in event_ids]
        return [value is not None for value in await self._wire.call("MGET", *marks)]
