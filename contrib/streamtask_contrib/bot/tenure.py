"""Who an orchestrator is: a name and its lease. Where the lease has run out, it goes on as another, and owns nothing.

So one that was paused, or cut off from the broker, cannot take for its own what others look after by now.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable

from streamtask import App
from streamtask_contrib.bot.decisions import Owner
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.leases import Lease

log = logging.getLogger(__name__)

_PLACE = "place"


class LateError(Exception):
    """The lease has run out since the bots were read: they may be others' by now."""


class Tenure:
    """The name under which bots are owned, and for how long. Methods raise `TransportError`."""

    def __init__(self, app: App, *, place: str, ttl: float) -> None:
        """`place`: where it can see and end processes. `ttl`: seconds for which it may say nothing."""
        self._app = app
        self._facts = {_PLACE: place.encode()}
        self._ttl = ttl
        self._is_taken = False
        self._begin()

    async def hold(self) -> None:
        """Hold the lease for longer, or take that of a new name."""
        if self._is_taken:
            if self._lease.remaining and await self._lease.renew(self._facts):
                return
            self._begin()
        self._is_taken = await self._lease.take(self._facts)

    async def check(self) -> None:
        """Before something is done that cannot be taken back: what was read still holds. Raises `LateError`."""
        # Where the broker still has it, nobody has found it missing.
        if self._lease.remaining < self._ttl / 2 and not await self._lease.renew():
            raise LateError(f"the lease of {self.name} has run out")

    async def end(self) -> None:
        """Let the bots be others' at once."""
        await self._lease.release()

    def ours(self, bot: Bot, change: Callable[[Bot], Bot | None]) -> Callable[[Bot], Bot | None]:
        """A change that is made only while the bot is ours, and has had no other process since it was read."""
        return lambda standing: (
            change(standing)
            if standing.owner == self.name and standing.attempt == bot.attempt and not standing.is_final
            else None
        )

    async def other(self, name: str) -> Owner | None:
        """Another orchestrator, if it lives."""
        fields = await self._app.records.read(_key(name))
        return Owner(place=fields.get(_PLACE, b"").decode()) if fields else None

    def _begin(self) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._lease = Lease(self._app.records, _key(self.name), self.name, ttl=self._ttl)
        self._is_taken = False
        log.info("orchestrator.begins", extra={"orchestrator": self.name})


def _key(name: str) -> str:
    return f"bot-orchestrator-{name}"
