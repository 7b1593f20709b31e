"""Emits for streams of another server: any living worker publishes them, for every stream, each once.

They wait beside the stream of their cause. A worker looks at once when it has put something there itself, and each
second for what others have left behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Outbox, Transport
from streamtask.transport.values import Subscription
from streamtask.worker.outage import Outage

#: Seconds between two looks at what others may have left behind.
_LOOK = 1.0


class Relay:
    """Publishes what waits in the outboxes of one transport. An engine that has none is left alone."""

    def __init__(
        self, transport: Transport, owner: str, subscriptions: Sequence[Subscription], metrics: Metrics
    ) -> None:
        self._transport = transport
        self._owner = owner
        self._own = {sub.stream for sub in subscriptions}
        self._outage = Outage("relay", metrics)
        self._looked = 0.0

    async def run(self) -> None:
        """Publish what comes, until cancelled."""
        outbox = self._transport.outbox
        if outbox is None:
            await asyncio.Event().wait()
            return
        while True:
            streams = await outbox.news(within=_LOOK)
            try:
                if time.monotonic() - self._looked >= _LOOK:
                    streams |= await self._left_behind(outbox)
                    self._looked = time.monotonic()
            except TransportError as error:
                self._outage.failed(error)
            await self._relay(outbox, streams)

    async def finish(self) -> None:
        """Publish what still waits beside the streams of this worker, as far as that goes."""
        outbox = self._transport.outbox
        if outbox is not None:
            await self._relay(outbox, await outbox.waiting(sorted(self._own)))

    async def is_done(self) -> bool:
        """Whether nothing waits beside the streams of this worker."""
        outbox = self._transport.outbox
        return outbox is None or not await outbox.waiting(sorted(self._own))

    async def _left_behind(self, outbox: Outbox) -> set[str]:
        inspection = self._transport.inspection
        names = self._own | set(await inspection.streams() if inspection is not None else ())
        return set(await outbox.waiting(sorted(names)))

    async def _relay(self, outbox: Outbox, streams: Collection[str]) -> None:
        """One stream's trouble holds up no other."""
        results = await asyncio.gather(*(self._relay_one(outbox, stream) for stream in streams))
        for trouble in results:
            for error in trouble:
                self._outage.failed(error)
        if streams and not any(results):
            self._outage.over()

    async def _relay_one(self, outbox: Outbox, stream: str) -> list[TransportError]:
        try:
            relayed = await outbox.relay(stream, self._owner)
        except TransportError as error:
            return [error]
        return [
            TransportError(f"emits of {stream!r} for {target!r} wait: {error}")
            for target, error in relayed.held_back.items()
        ]
