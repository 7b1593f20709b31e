"""What handlers have come to: fields of a group's history, written through the fence.

They are forgotten by whatever acks the entry, `settle.lua` and `claim.lua`; nothing here removes any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from streamtask.transport.redis import keys
from streamtask.transport.redis.client import Caller, Script
from streamtask.transport.redis.line import Argument, ServerError
from streamtask.transport.values import Delivery, Progress

_STATE: Final = ":s"
_PROGRESS: Final = ":p"


class RedisCheckpoints:
    """`Checkpoints` on Redis."""

    def __init__(self, wire: Caller) -> None:
        self._wire = wire
        self._checkpoint = Script("checkpoint")

    async def save(self, delivery: Delivery, state: bytes, number: int) -> bool:
        """See `Checkpoints.save`."""
        script, names, arguments = self._call(delivery, _STATE, state)
        [reply] = await self._wire.run_many([(script, names, [*arguments, number])])
        if isinstance(reply, ServerError):
            _unless_gone(reply)
        return bool(reply == 1)

    async def load(self, delivery: Delivery) -> bytes | None:
        """See `Checkpoints.load`."""
        state: bytes | None = await self._wire.call(
            "HGET", keys.history(delivery.stream, delivery.group), delivery.entry_id + _STATE
        )
        return state

    async def report(self, reports: Sequence[tuple[Delivery, str, Progress]]) -> None:
        """See `Checkpoints.report`."""
        calls = [
            self._call(delivery, _PROGRESS, msgspec.json.encode(progress), keys.progress(delivery.stream, event_id))
            for delivery, event_id, progress in reports
        ]
        for reply in await self._wire.run_many(calls):
            if isinstance(reply, ServerError):
                _unless_gone(reply)

    def _call(
        self, delivery: Delivery, field: str, value: bytes, *told: str
    ) -> tuple[Script, list[str], list[Argument]]:
        # Before it is sent: it may be kept, although no reply comes.
        delivery.kept = True
        stream, group = delivery.stream, delivery.group
        names = [keys.stream(stream), keys.history(stream, group), *told]
        return self._checkpoint, names, [group, delivery.owner, delivery.entry_id, delivery.deliveries, field, value]


def _unless_gone(error: ServerError) -> None:
    """Raise what the server has refused; where the group is gone, all that was held is lost with it."""
    if "NOGROUP" not in str(error):
        raise error


def progress_of(value: bytes | None) -> Progress | None:
    """What a field of progress says; None where there is none that can be read."""
    try:
        return None if value is None else msgspec.json.decode(value, type=Progress)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def progress_field(entry_id: bytes) -> bytes:
    """The field that has the progress of an entry."""
    return entry_id + _PROGRESS.encode()
