"""A broker URL → the transport for it. The only place that knows which engines there are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from streamtask.errors import ConfigurationError
from streamtask.redact import MaskedUrl, mask_url
from streamtask.transport.port import Transport
from streamtask.transport.values import Durability

if TYPE_CHECKING:
    from streamtask.transport.embedded import EmbeddedServer
    from streamtask.transport.memory import MemoryStore

DEFAULT_URL = "embedded://"
_REDIS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "valkey", "valkeys")
_CLUSTER = ("redis+cluster", "rediss+cluster")
SCHEMES = (*_REDIS, *_CLUSTER, "embedded", "memory")
#: Why `durability` is refused where the server is part of the program.
_NO_DISK = {
    "memory": "memory:// has no disk",
    "embedded": "embedded:// has no server that can say when its disk has something; "
    "use one of your own (Redis 7.2 or newer, or Valkey)",
}


def broker_url(given: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The URL to use: the one given, else $STREAMTASK_BROKER, else the embedded server."""
    return MaskedUrl(given or environment.get("STREAMTASK_BROKER") or DEFAULT_URL)


class Connector:
    """Opens transports for one broker URL; what they share (an embedded server, a memory) lives here."""

    def __init__(self, url: str, *, durability: Durability = "none") -> None:
        # No name for what follows the scheme: a traceback with local variables would show it.
        scheme = url.partition("://")[0] if "://" in url else ""
        if scheme not in SCHEMES:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise ConfigurationError(f"unknown broker URL {mask_url(url)!r}; known schemes: {known}")
        self._durability = _checked(durability)
        if durability not in ("none", 0) and scheme in _NO_DISK:
            no_replica = f"{scheme}:// has no replica that could confirm anything"
            raise ConfigurationError(
                f"durability={durability!r}: {_NO_DISK[scheme] if durability == 'disk' else no_replica}"
            )
        self.url = MaskedUrl(url)
        self.scheme = scheme
        # Here and in `open`, imports are late: a program loads the engine that it uses, and no other.
        self._store: MemoryStore | None = None
        self._server: EmbeddedServer | None = None
        if scheme == "memory":
            self._store = import_module("streamtask.transport.memory").MemoryStore()
        elif scheme == "embedded":
            folder = url.partition("://")[2] or None
            self._server = import_module("streamtask.transport.embedded").EmbeddedServer(folder)

    @property
    def address(self) -> str:
        """The URL by which other processes of this machine reach the same server; of an embedded one, its socket."""
        return self.url if self._server is None else self._server.ensure()

    def open(self) -> Transport:
        """A transport that is not connected yet. `Transport.connect` may block for an embedded server to start."""
        transport: Transport
        if self._store is not None:
            transport = import_module("streamtask.transport.memory").MemoryTransport(self._store)
            return transport
        url = self.address
        if self.scheme in _CLUSTER:
            make = import_module("streamtask.transport.redis.cluster_transport").ClusterTransport
        else:
            make = import_module("streamtask.transport.redis.transport").RedisTransport
        transport = make(url, durability=self._durability)
        return transport

    def close(self) -> None:
        """Leave the embedded server; it stops when its last user has left."""
        if self._server is not None:
            self._server.release()


def _checked(durability: Durability) -> Durability:
    if durability not in ("none", "replica", "disk") and (isinstance(durability, str) or durability < 0):
        raise ConfigurationError(f"durability is 'none', 'replica', 'disk' or a number of replicas, got {durability!r}")
    return durability


def open_transport(url: str) -> Transport:
    """A transport for a URL, not connected yet.

    Raises:
        ConfigurationError: the scheme is unknown (the message lists the known ones), or the URL cannot be read.
    """
    return Connector(url).open()
