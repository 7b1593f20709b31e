"""A broker URL → the transport for it. The only place that knows which engines there are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from streamtask.errors import ConfigurationError
from streamtask.redact import MaskedUrl, mask_url
from streamtask.transport.port import Transport
from streamtask.transport.values import Copies

if TYPE_CHECKING:
    from streamtask.transport.embedded import EmbeddedServer
    from streamtask.transport.memory import MemoryStore

DEFAULT_URL = "embedded://"
_REDIS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "valkey", "valkeys")
_CLUSTER = ("redis+cluster", "rediss+cluster")
SCHEMES = (*_REDIS, *_CLUSTER, "embedded", "memory")
#: What a publish waits for: the server's word alone, that of its replicas, or that of so many replicas.
Durability = Literal["none", "replica"] | int


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
        self._copies = _copies(durability)
        if self._copies and scheme in {"memory", "embedded"}:
            raise ConfigurationError(
                f"durability={durability!r}: {scheme}:// has no replica that could confirm anything"
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
        transport = make(url, copies=self._copies)
        return transport

    def close(self) -> None:
        """Leave the embedded server; it stops when its last user has left."""
        if self._server is not None:
            self._server.release()


def _copies(durability: Durability) -> Copies:
    """Replicas that a publish waits for."""
    known: dict[str, Copies] = {"none": 0, "replica": "all"}
    copies = known.get(durability) if isinstance(durability, str) else durability
    if copies is None or (copies != "all" and copies < 0):
        raise ConfigurationError(f"durability is 'none', 'replica' or a number of replicas, got {durability!r}")
    return copies


def open_transport(url: str) -> Transport:
    """A transport for a URL, not connected yet.

    Raises:
        ConfigurationError: the scheme is unknown (the message lists the known ones), or the URL cannot be read.
    """
    return Connector(url).open()
