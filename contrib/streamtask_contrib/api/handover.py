"""One connection for each live session in this process: a new one asks the old to end first.

A client that lost its network comes back long before its old socket is known to be dead. The old one first writes down
what it has heard; the new one begins behind that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class _Held:
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    free: asyncio.Event = field(default_factory=asyncio.Event)


class Handover:
    """Who has which session."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    @asynccontextmanager
    async def hold(self, session_id: str) -> AsyncIterator[asyncio.Event]:
        """Have a session, once whoever has it has let go; the event is set when the next one wants it."""
        while (before := self._held.get(session_id)) is not None:
            before.wanted.set()
            await before.free.wait()
        held = self._held[session_id] = _Held()
        try:
            yield held.wanted
        finally:
            del self._held[session_id]
            held.free.set()
