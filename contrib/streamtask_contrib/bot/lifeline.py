"""What a bot's process lives by: the lease of its bot. Without it there may be another, and so there is no process.

Three things see to it, each where the one before cannot. The loop asks before whatever it writes (`check`). A thread
ends the process with its group while the lease still runs, whatever the loop is at. And the kernel's alarm ends a
process that did not run at all, because it was stopped or something held the interpreter, before its next instruction.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from streamtask import TransportError
from streamtask_contrib.leases import Lease

log = logging.getLogger(__name__)

#: Parts of the lease's time: it is renewed so often, and the process ends while so much is left of it.
_RENEWED, _MARGIN = 0.1, 0.1
#: Seconds between two renewals, at most: what stands beside the lease is looked at by others.
_FRESH = 2.0
#: Seconds between two looks of the thread.
_LOOK = 0.1
_STDERR = 2
#: One line, short enough to be written at once or not at all.
_LAST_WORDS = (
    b'{"level": "CRITICAL", "event": "bot.lease_runs_out", "meaning": "another may take its place: it ends here"}\n'
)


class Lifeline:
    """A lease that is kept, or the end of the process."""

    def __init__(self, lease: Lease, *, ttl: float, end: Callable[[], None] | None = None) -> None:
        """`ttl`: that of the lease. `end`: what ends the process."""
        self._lease = lease
        self._margin = ttl * _MARGIN
        self._every = min(ttl * _RENEWED, _FRESH)
        self._end = end or kill_group
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bot-lifeline", daemon=True)

    async def take(self, *, within: float) -> bool:
        """Wait until the lease is free, and take it: whether that has worked. From then on the process lives by it."""
        deadline = time.monotonic() + within
        while not await self._taken():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(self._every)
        self._set_alarm()
        self._thread.start()
        return True

    async def renew(self, facts: Callable[[], Mapping[str, bytes]]) -> None:
        """Keep it, with these facts beside it, until cancelled. One that is lost is not taken again."""
        while True:
            await asyncio.sleep(self._every)
            try:
                if await self._lease.renew(facts()):
                    self._set_alarm()
                else:
                    log.error("bot.lease_lost")
                    self.check()
            except TransportError as error:
                log.warning("bot.lease_not_renewed", extra={"remaining": self._lease.remaining, "error": str(error)})

    def check(self) -> None:
        """End the process where another may be in its place."""
        if not self._is_over.is_set() and self._lease.remaining < self._margin:
            self._end()

    async def release(self) -> None:
        """Let the lease go: whatever had to be guarded is done."""
        self._is_over.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        with suppress(TransportError):
            await self._lease.release()

    async def _taken(self) -> bool:
        try:
            return await self._lease.take()
        except TransportError as error:
            log.warning("bot.lease_not_taken", extra={"error": str(error)})
            return False

    def _set_alarm(self) -> None:
        # Nothing handles it, so it ends the process; later than the thread, which ends the group.
        signal.setitimer(signal.ITIMER_REAL, max(self._lease.remaining - self._margin / 2, 0.001))

    def _watch(self) -> None:
        while not self._is_over.wait(_LOOK):
            if self._lease.remaining < self._margin:
                # Not by logging, of which the loop may hold a lock; and never where it would have to wait.
                if select.select([], [_STDERR], [], 0)[1]:
                    with suppress(OSError):
                        os.write(_STDERR, _LAST_WORDS)
                self._end()


def kill_group() -> None:
    """SIGKILL to this process and all that it has started; where the group is another's, to this process alone."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
