"""What became of events: read here, written by `settle.lua`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from streamtask.transport.redis import keys
from streamtask.transport.redis.checkpoints import progress_of
from streamtask.transport.redis.client import Caller
from streamtask.transport.values import Progress

#: News in one answer.
_PAGE = 1000


class RedisResults:
    """`Results` on Redis."""

    def __init__(self, wire: Caller, read: Callable[..., Awaitable[Any]]) -> None:
        """`read` sends a command that blocks, on a connection of its own: it takes the command's words and `wait`."""
        self._wire = wire
        self._read = read

    async def get(self, stream: str, event_id: str) -> bytes | None:
        """See `Results.get`."""
        found: bytes | None = await self._wire.call("GET", keys.result(stream, event_id))
        return found

    async def position(self, stream: str) -> str:
        """See `Results.position`."""
        last = await self._wire.call("XREVRANGE", keys.results(stream), "+", "-", "COUNT", 1)
        return str(last[0][0].decode()) if last else "0-0"

    async def news(self, stream: str, *, after: str, wait: float) -> tuple[list[str], str]:
        """See `Results.news`."""
        reply = await self._read(
            "XREAD",
            "COUNT",
            _PAGE,
            "BLOCK",
            max(1, round(wait * 1000)),
            "STREAMS",
            keys.results(stream),
            after,
            wait=wait,
        )
        if not reply:
            return [], after
        entries = reply[0][1]
        return [keys.text(fields[1]) for _, fields in entries if fields], str(entries[-1][0].decode())

    async def progress(self, stream: str, event_id: str, *, after: str, wait: float) -> tuple[Progress | None, str]:
        """See `Results.progress`."""
        block = max(1, round(wait * 1000))
        reply = await self._read("XREAD", "BLOCK", block, "STREAMS", keys.progress(stream, event_id), after, wait=wait)
        if not reply:
            return None, after
        entry_id, fields = reply[0][1][-1]
        return progress_of(fields[1] if fields else None), str(entry_id.decode())
