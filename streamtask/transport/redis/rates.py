"""Starts of limited handlers: one key a limit, beside a stream, which says when the next one is free."""

from __future__ import annotations

from collections.abc import Sequence

from streamtask.transport.redis import keys
from streamtask.transport.redis.client import Caller, Script
from streamtask.transport.redis.line import Argument
from streamtask.transport.values import Start, Turn

_MICRO = 1_000_000


class RedisRates:
    """`Rates` on Redis."""

    def __init__(self, wire: Caller) -> None:
        self._wire = wire
        self._reserve = Script("reserve")

    async def reserve(self, stream: str, starts: Sequence[Start], *, ahead: float, longest: float) -> list[Turn]:
        """See `Rates.reserve`."""
        words: list[Argument] = [_micro(ahead), _micro(longest)]
        for start in starts:
            words += (_micro(start.spacing), int(start.first))
        names = [keys.rate(stream, start.group, start.limit) for start in starts]
        replies = await self._wire.run(self._reserve, names, words)
        return [Turn(wait / _MICRO, bool(is_reserved)) for wait, is_reserved in replies]


def _micro(seconds: float) -> int:
    return max(1, round(seconds * _MICRO))
