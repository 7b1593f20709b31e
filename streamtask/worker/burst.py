"""`--burst`: whether all is done that there is to do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from streamtask.errors import TransportError
from streamtask.transport.port import Transport
from streamtask.transport.values import Subscription
from streamtask.worker.fetcher import Fetcher
from streamtask.worker.flow import Flow
from streamtask.worker.relay import Relay

#: Seconds between two looks, and how many have to find nothing: while we ask about one stream, a handler elsewhere may
#: emit into one that we have asked about before.
_EVERY = 0.05
_LOOKS = 2


class Burst:
    """Looks at what a worker reads until nothing is left."""

    def __init__(
        self,
        transport: Transport,
        subscriptions: Sequence[Subscription],
        flow: Flow,
        fetchers: Sequence[Fetcher],
        relay: Relay,
    ) -> None:
        self._transport = transport
        self._subscriptions = subscriptions
        self._flow = flow
        self._fetchers = fetchers
        self._relay = relay

    async def done(self) -> None:
        """Wait until nothing is ready, pending or due for retry."""
        quiet = 0
        while quiet < _LOOKS:
            await asyncio.sleep(_EVERY)
            taken = self._flow.taken
            try:
                idle = not self._flow.held and await self._all_is_handled()
            except TransportError:
                idle = False
            quiet = quiet + 1 if idle and taken == self._flow.taken else 0

    async def _all_is_handled(self) -> bool:
        for sub in self._subscriptions:
            for stats in await self._transport.stats(sub.stream, sub.group):
                unread = stats.lag if stats.lag is not None else not all(fetcher.empty for fetcher in self._fetchers)
                if stats.pending or unread:
                    return False
        return await self._relay.is_done()
