"""Watching: one source is looked at again and again, by one worker at a time.

Versions are right without a lease, for each is a swap. The lease is for what cannot be swapped: who holds it writes the
source back, and nobody else does. A worker that dies is replaced when its lease has run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import time
import uuid

from streamtask import Records, StreamtaskError
from streamtask_contrib.config_sync.keeping import Keeper
from streamtask_contrib.config_sync.sources.port import Source
from streamtask_contrib.config_sync.state import State
from streamtask_contrib.leases import Lease

log = logging.getLogger(__name__)

#: Seconds between two looks at what is written down, and two renewals of the lease.
_TICK = 1.0
#: Seconds between two complaints about the same.
_QUIET = 10.0


class Watch:
    """The looks at one source."""

    def __init__(self, source: Source, keeper: Keeper, records: Records, *, lease_ttl: float) -> None:
        self._source = source
        self._keeper = keeper
        holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        name = hashlib.sha256(source.name.encode()).hexdigest()[:32]
        self._lease = Lease(records, f"config-source-{name}", holder, ttl=lease_ttl)
        self._looked_at = float("-inf")
        self._complained_at = float("-inf")
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Something is to be done: do not wait for the next look."""
        self._nudged.set()

    async def run(self) -> None:
        """Look until it is cancelled; the lease is another's then."""
        try:
            while True:
                await self._try()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(_TICK, self._source.every)):
                        await self._nudged.wait()
                self._nudged.clear()
        finally:
            await self._leave()

    async def _try(self) -> None:
        try:
            if await self._lease.take():
                await self._look()
        except Exception as error:  # noqa: BLE001 - a duty: what nobody has thought of must not end it
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if time.monotonic() - self._complained_at > _QUIET:
            self._complained_at = time.monotonic()
            # Not the words of others: a value may be among them.
            said = str(error) if isinstance(error, StreamtaskError | OSError) else type(error).__name__
            log.warning("config.watch_failed", extra={"source": self._source.name, "error": said})

    async def _look(self) -> None:
        is_due = time.monotonic() - self._looked_at >= self._source.every
        if is_due:
            self._looked_at = time.monotonic()
        # All at once: a page that takes its time keeps no other waiting.
        looks = [self._look_at(service, place, is_due=is_due) for service, place in (await self._places()).items()]
        for outcome in await asyncio.gather(*looks, return_exceptions=True):
            if isinstance(outcome, Exception):
                self._complain(outcome)

    async def _look_at(self, service: str, place: str, *, is_due: bool) -> None:
        if not await self._lease.renew():
            return
        state = await self._keeper.configs.state(service) or State(service=service, key="")
        if state.unpublished:
            await self._keeper.publish(state)
        if is_due or state.unwritten == place:
            await self._keeper.look(self._source, place, state, is_ours=lambda: self._lease.remaining > 0)

    async def _places(self) -> dict[str, str]:
        """Service → place, of all that this source has, and of those that it had."""
        places = await self._source.services()
        for service in await self._keeper.configs.services():
            if service not in places:
                state = await self._keeper.configs.state(service)
                if state is not None and state.head is not None and self._source.holds(state.head.source):
                    places[service] = state.head.source
        return places

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._lease.release()
        except Exception as error:  # noqa: BLE001 - it runs out by itself
            log.debug("config.lease_left", extra={"source": self._source.name, "error": str(error)})
        await self._source.close()
