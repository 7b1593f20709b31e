"""Heartbeat and lease renewal, in a thread with an event loop and a connection of its own.

A handler that blocks the worker's loop costs neither. The keeper never settles anything; what it finds lost it tells to
the worker's loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from streamtask import failpoints
from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Transport
from streamtask.transport.values import Delivery
from streamtask.worker.leases import Leases
from streamtask.worker.outage import Outage

BEAT_EVERY = 1.0
BEAT_TTL = 5.0
#: Two beats further apart than this, and the server may have been away, or we: what we see of others is not trusted.
_GAP = 2.5
#: Seconds of unbroken reachability after which a missing beat means death: at our start, and after an outage. A server
#: that was away has everybody's beats expired; the living try to beat again twice a second.
_TRUST = BEAT_TTL
_TRUST_AFTER_OUTAGE = 2 * BEAT_TTL


class OnBeat(Protocol):
    """Told of each beat, in the keeper's thread."""

    def __call__(self, *, ok: bool) -> None:
        """`ok`: the server took it."""


class Keeper:
    """Keeps one owner alive.

    `info` is called for each beat; `on_lost` and `on_beat` are called in the keeper's thread, whose loop is made by
    `new_loop`; None: as asyncio makes it.
    """

    def __init__(
        self,
        open_transport: Callable[[], Transport],
        owner: str,
        leases: Leases,
        *,
        lease: float,
        info: Callable[[], bytes],
        on_lost: Callable[[list[Delivery]], object],
        on_beat: OnBeat,
        metrics: Metrics,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self._open = open_transport
        self._new_loop = new_loop
        self._owner = owner
        self._leases = leases
        self._lease = lease
        self._info = info
        self._on_lost = on_lost
        self._on_beat = on_beat
        self._outage = Outage("heartbeat", metrics, owner=owner)
        self._stop = threading.Event()
        #: The loop of `run`, and what ends its pause.
        self._pausing: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._beaten = threading.Event()
        self._thread = threading.Thread(target=self._run_loop, name="streamtask-keeper", daemon=True)
        self._run_id = ""
        self._last = 0.0
        self._trust = _TRUST
        #: Monotonic time since when one server was reachable without a break; None: not reachable.
        self._reachable_since: float | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def first_beat(self) -> None:
        """Wait until the owner has shown that it lives."""
        # Not in a thread that waits: it would outlive a start that is cancelled, and keep the program from ending.
        while not self._beaten.is_set():  # noqa: ASYNC110 - the event is a thread's
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Stop beating and end the thread."""
        self._stop.set()
        if self._pausing is not None:
            loop, over = self._pausing
            # It may have ended by itself meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(over.set)
        await asyncio.to_thread(self._thread.join)

    def sees_the_dead(self, now: float) -> bool:
        """Whether an owner without a beat is dead: one server process has been reachable for long enough."""
        since = self._reachable_since
        if since is None or now - self._last > _GAP:
            return False
        return now - since >= self._trust

    def _run_loop(self) -> None:
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            runner.run(self.run())

    async def run(self) -> None:
        """Beat and renew until `stop`, on a loop of its own: what the thread does."""
        transport: Transport | None = None
        renewed = 0.0
        delay = BEAT_EVERY
        over = asyncio.Event()
        # Before the first look at `stop`: whoever sets it from now on ends the pause, too.
        self._pausing = asyncio.get_running_loop(), over
        while not self._stop.is_set():
            try:
                if transport is None:
                    transport = await asyncio.to_thread(self._open)
                    await transport.connect()
                renew = self._reachable_since is None or time.monotonic() - renewed >= self._lease / 3
                if await self._beat(transport) or renew:
                    renewed = time.monotonic()
                    await self._renew(transport)
                delay = min(BEAT_EVERY, self._lease / 6)
            except TransportError as error:
                self._reachable_since = None
                self._on_beat(ok=False)
                self._outage.failed(error)
                delay = 0.5
                if transport is not None:
                    # Opened anew: that starts an embedded server again, should it have died.
                    await transport.close()
                    transport = None
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await over.wait()
        if transport is not None:
            await transport.close()

    async def _beat(self, transport: Transport) -> bool:
        """Beat; whether the server is another one than at the last beat, or its clock was set."""
        run_id = await transport.recovery.beat(self._owner, self._info(), ttl=BEAT_TTL)
        now = time.monotonic()
        if self._reachable_since is None or run_id != self._run_id or now - self._last > _GAP:
            self._reachable_since = now
            self._trust = _TRUST_AFTER_OUTAGE if self._run_id else _TRUST
        is_another, self._run_id, self._last = run_id != self._run_id, run_id, now
        self._beaten.set()
        self._outage.over()
        self._on_beat(ok=True)
        return is_another

    async def _renew(self, transport: Transport) -> None:
        held = self._leases.snapshot()
        if held:
            lost = await transport.renew(held)
            if failpoints.armed:
                failpoints.reached("after_renew")
            if lost:
                self._on_lost(lost)
