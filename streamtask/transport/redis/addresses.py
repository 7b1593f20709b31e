"""A broker URL → what makes connections to the server, or to the primary that the sentinels name at that moment.

It stands on redis-py's connections for addresses, TLS, AUTH and SELECT. Nothing here sends a command of ours, but the
question to the sentinels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis.asyncio.connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streamtask.errors import ConfigurationError, TransportError
from streamtask.redact import mask_url
from streamtask.transport.redis.client import COMMAND_TIMEOUT, ConnectionFactory, DisconnectedError, Wire

#: Seconds for one sentinel to answer, before the next is asked: all of them within the time to connect.
_SENTINEL_TIMEOUT = 1.0


def connection_factory(url: str) -> ConnectionFactory:
    """A factory of connections for a URL: redis, rediss, unix, valkey, valkeys or redis+sentinel."""
    try:
        if url.startswith("redis+sentinel://"):
            return _sentinel_factory(url)
        plain = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
        options: dict[str, Any] = dict(redis_connection.parse_url(plain))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"the broker URL {mask_url(url)} cannot be read: {error}") from error
    make = options.pop("connection_class", redis_connection.Connection)
    options.pop("max_connections", None)
    options = {**_defaults(), **options}
    if make is redis_connection.UnixDomainSocketConnection:
        del options["socket_keepalive"]
    return lambda: make(**options)


def _defaults() -> dict[str, Any]:
    return {
        "protocol": 2,
        # No time limit inside redis-py: `Wire` holds one for the whole exchange, which costs a tenth.
        "socket_timeout": None,
        "socket_connect_timeout": COMMAND_TIMEOUT,
        "socket_keepalive": True,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
    }


def _sentinel_factory(url: str) -> ConnectionFactory:
    """redis+sentinel://[user:password@]host:port,host:port/service[/db]; connects to the primary of the service."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not hosts:
        raise ValueError("expected redis+sentinel://host:port,host:port/service")
    sentinels = []
    for address in hosts.split(","):
        host, _, port = address.partition(":")
        sentinels.append((host, int(port or 26379)))
    options = _defaults() | {"db": int(database or 0)} | dict(parse_qsl(parts.query))
    if password:
        options |= {"username": unquote(user) or None, "password": unquote(password)}
    return lambda: _SentinelConnection(sentinels, service, **options)


class _SentinelConnection(redis_connection.Connection):
    """A connection to what the sentinels call the primary at the moment of connecting.

    redis-py has one too. It keeps connections to the sentinels open that nothing closes.
    """

    def __init__(self, sentinels: Sequence[tuple[str, int]], service: str, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels
        self._service = service

    async def connect(self) -> None:
        """Ask the sentinels in turn, then connect."""
        self.host, self.port = await self._primary()
        await super().connect()  # type: ignore[no-untyped-call] # redis-py leaves it unannotated

    async def _primary(self) -> tuple[str, int]:
        trouble = []
        for host, port in self._sentinels:
            wire = Wire(partial(redis_connection.Connection, host=host, port=port, **_defaults()))
            try:
                found = await wire.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service, timeout=_SENTINEL_TIMEOUT)
            except TransportError as error:
                trouble.append(f"{host}:{port}: {error}")
            else:
                if found is not None:
                    return found[0].decode(), int(found[1])
                trouble.append(f"{host}:{port} does not know it")
            finally:
                await wire.close()
        raise DisconnectedError(f"no sentinel names a primary of {self._service!r} ({'; '.join(trouble)})")
