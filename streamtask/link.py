"""How an app is connected: to which broker, by which open transport, and for how many who use it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Self

from streamtask.errors import ConfigurationError, TransportError
from streamtask.redact import MaskedUrl
from streamtask.results import ResultReader
from streamtask.transport.connect import Connector, broker_url
from streamtask.transport.port import Transport
from streamtask.transport.values import Durability

log = logging.getLogger(__name__)


class Link:
    """A broker, and the connection to it while somebody uses it. What is open belongs to one event loop."""

    def __init__(self, url: str | None, durability: Durability) -> None:
        """`url`: None where the environment says it, or nobody."""
        self._given = None if url is None else MaskedUrl(url)
        self._durability = durability
        self._connector: Connector | None = None
        self._transport: Transport | None = None
        self._results: ResultReader | None = None
        self._users = 0
        self._cut_off = ""

    @classmethod
    def to(cls, connector: Connector) -> Self:
        """Open already, to a broker that needs no waiting for. For tests."""
        link = cls(connector.url, "none")
        link._connector, link._transport, link._users = connector, connector.open(), 1
        return link

    def apart(self) -> Link:
        """One to the same broker that is not open, for another event loop."""
        link = Link(self._given, self._durability)
        shared = self.connector
        # A memory is shared; an embedded server has a user of its own here, which outlives `async with`.
        link._connector = shared if shared.scheme == "memory" else Connector(shared.url, durability=self._durability)
        return link

    # ── to which broker ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def url(self) -> str:
        """The broker URL in use."""
        return broker_url(self._given)

    def use(self, url: str) -> None:
        """Another broker than the one given. Raises ConfigurationError once it is known which one is used."""
        if self._connector is not None:
            raise ConfigurationError("the app is connected already")
        self._given = MaskedUrl(url)

    def cut_off(self, reason: str) -> None:
        """Refuse to connect, with this reason."""
        self._cut_off = reason

    @property
    def connector(self) -> Connector:
        """What opens transports. Raises ConfigurationError where that makes no sense."""
        if self._cut_off:
            raise ConfigurationError(self._cut_off)
        if self._connector is None:
            self._connector = Connector(self.url, durability=self._durability)
            if self._connector.scheme == "embedded":
                log.warning("broker.embedded", extra={"folder": self.url.partition("://")[2] or ".streamtask"})
        return self._connector

    # ── while it is used ──────────────────────────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        """Connect, unless somebody has."""
        if not self._users:
            transport = await asyncio.to_thread(self.connector.open)
            await transport.connect()
            if self._users:
                # Another task was faster.
                await transport.close()
            else:
                self._transport = transport
        self._users += 1

    async def close(self) -> None:
        """Disconnect, if nobody else uses it."""
        self._users -= 1
        if self._users:
            return
        transport, self._transport = self._transport, None
        results, self._results = self._results, None
        if results is not None:
            await results.close()
        if transport is not None:
            await transport.close()
        if self._connector is not None and self._connector.scheme == "embedded":
            self._connector.close()

    @property
    def transport(self) -> Transport:
        """The open transport. Raises ConfigurationError where there is none."""
        if self._transport is None:
            raise ConfigurationError("the app is not connected: use `async with app:` or `lifespan=app.lifespan`")
        return self._transport

    @property
    def results(self) -> ResultReader:
        """What waits for results, one for all who do."""
        if self._results is None:
            self._results = ResultReader(self.transport.results)
        return self._results

    def stop_waiting(self) -> None:
        """End the reading for results."""
        if self._results is not None:
            self._results.stop()

    async def revive(self) -> None:
        """Start an embedded server again that has died: nobody else would, for an app without a worker."""
        with suppress(TransportError, ConfigurationError):
            await asyncio.to_thread(getattr, self.connector, "address")
