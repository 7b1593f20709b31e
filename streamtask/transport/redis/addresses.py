"""A broker URL → what makes connections: to the server, to the primary that the sentinels name, to a cluster's nodes.

It stands on redis-py's connections for addresses, TLS, AUTH and SELECT. Nothing here sends a command of ours, but the
question to the sentinels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import redis.asyncio.connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from streamtask.errors import ConfigurationError, TransportError
from streamtask.redact import mask_url
from streamtask.transport.redis.client import COMMAND_TIMEOUT, ConnectionFactory, DisconnectedError, Wire

#: Host and port.
Address = tuple[str, int]

#: Seconds for one sentinel to answer, before the next is asked: all of them within the time to connect.
_SENTINEL_TIMEOUT = 1.0
_SENTINEL_PORT = 26379
_SENTINEL = "+sentinel://"
#: Options of a URL that are for the sentinels, and how a connection to one calls them.
_FOR_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}


def connection_factory(url: str) -> ConnectionFactory:
    """A factory of connections for a URL: redis, rediss, unix, valkey, valkeys, redis+sentinel or rediss+sentinel.

    Raises:
        ConfigurationError: it cannot be read, or an option or a file that it names is wrong.
    """
    try:
        make = _sentinel_factory(url) if _SENTINEL in url else _server_factory(url)
        _check(make())
    except (ValueError, TypeError, OSError, RedisError) as error:
        blame = _blame(error)
    else:
        return make
    # Out here without a cause: it quotes what it could not read, which may be a part of the password.
    raise _unreadable(url, blame)


def _unreadable(url: str, blame: str) -> ConfigurationError:
    # Without the options: the name of a mistyped one does not tell whether it is a secret.
    return ConfigurationError(f"the broker URL {mask_url(url).partition('?')[0]} cannot be read: {blame}")


def _server_factory(url: str) -> ConnectionFactory:
    options = _options(url.replace("valkey", "redis", 1) if url.startswith("valkey") else url)
    make = options.pop("connection_class", redis_connection.Connection)
    if make is redis_connection.UnixDomainSocketConnection:
        del options["socket_keepalive"]
    # No `partial`: it shows its arguments.
    return lambda: make(**options)


def cluster_of(url: str) -> tuple[list[Address], Callable[[Address], ConnectionFactory]]:
    """redis+cluster://[user:password@]host:port,host:port: some nodes to ask first, and how to connect to any of them.

    rediss+cluster:// for TLS; after a question mark the same options as for one server.

    Raises:
        ConfigurationError: as from `connection_factory`.
    """
    try:
        nodes, make = _cluster_factory(url)
        _check(make(nodes[0])())
    except (ValueError, TypeError, OSError, RedisError) as error:
        blame = _blame(error)
    else:
        return nodes, make
    raise _unreadable(url, blame)


def _cluster_factory(url: str) -> tuple[list[Address], Callable[[Address], ConnectionFactory]]:
    scheme, _, rest = url.partition("://")
    place, mark, query = rest.partition("?")
    credentials, at, hosts = place.rpartition("@")
    hosts, slash, database = hosts.partition("/")
    nodes = [_node(address) for address in hosts.split(",")]
    # What is the same for every node, read as of one server.
    plain = f"{scheme.removesuffix('+cluster')}://{credentials}{at}localhost{slash}{database}{mark}{query}"
    options = _options(plain)
    make = options.pop("connection_class", redis_connection.Connection)

    def connections_to(node: Address) -> ConnectionFactory:
        # No `partial`: it shows its arguments.
        return lambda: make(**options | {"host": node[0], "port": node[1]})

    return nodes, connections_to


def _node(address: str) -> Address:
    parts = urlsplit(f"//{address}")
    if not parts.hostname:
        raise _UrlError("expected host:port,host:port")
    return parts.hostname, parts.port or 6379


def _options(url: str) -> dict[str, Any]:
    """What redis-py makes of a URL, and our defaults. It would take what it cannot read for left out."""
    parts = urlsplit(url)
    database = "" if parts.scheme == "unix" else parts.path.strip("/")
    if "#" in url or "@" in database:
        raise _UrlError("in a password, `/` is written as %2F, `?` as %3F and `#` as %23")
    if database and not database.isdecimal():
        raise _UrlError("its database is no number")
    given: dict[str, Any] = dict(redis_connection.parse_url(url))
    given.pop("max_connections", None)
    return {**_defaults(), **given}


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


def _check(connection: Any) -> None:
    """Read the files that a connection would, so that a missing one is told at once and not retried for ever."""
    if isinstance(connection, redis_connection.SSLConnection):
        connection.ssl_context.get()


class _UrlError(ValueError):
    """What is wrong with a URL; quotes nothing of it."""


def _blame(error: Exception) -> str:
    """What is wrong with a URL, quoting nothing of it but the name of an option."""
    if isinstance(error, _UrlError | RedisError):
        return str(error)
    if isinstance(error, OSError):
        return f"a file that its ssl_ options name: {error}"
    if isinstance(error, TypeError):
        # "...got an unexpected keyword argument 'NAME'"
        return f"it has an option that this kind of URL does not know: {str(error).rpartition(' ')[2]}"
    return (
        "expected SCHEME://user:password@host:port/database?option=value, and in user and password % and two "
        "hexadecimal digits for every character that is no letter or digit"
    )


def _sentinel_factory(url: str) -> ConnectionFactory:
    """redis+sentinel://[user:password@]host:port,host:port/service[/db]; connects to the primary of the service.

    With rediss, TLS to the sentinels too.
    """
    # Not by `urlsplit`: newer Pythons refuse a list of hosts with an IPv6 address in it.
    scheme, _, rest = url.partition("+sentinel://")
    place, mark, query = rest.partition("?")
    credentials, at, place = place.rpartition("@")
    hosts, _, path = place.partition("/")
    service, _, database = path.strip("/").partition("/")
    if not service or not hosts:
        raise _UrlError("expected redis+sentinel://host:port,host:port/service")
    addresses = [urlsplit(f"//{address}") for address in hosts.split(",")]
    sentinels = [(address.hostname or "", address.port or _SENTINEL_PORT) for address in addresses]
    options = _options(f"{scheme}://{credentials}{at}primary/{database}{mark}{query}")
    make = _SecureSentinelConnection if scheme == "rediss" else _SentinelConnection
    plain = redis_connection.SSLConnection if scheme == "rediss" else redis_connection.Connection
    for name in ("connection_class", "host"):
        options.pop(name, None)
    own = {theirs: options.pop(ours) for ours, theirs in _FOR_SENTINELS.items() if ours in options}
    ssl = {name: value for name, value in options.items() if name.startswith("ssl_")}

    def ask(host: str, port: int) -> Any:
        return plain(host=host, port=port, **_defaults(), **own, **ssl)

    return lambda: make(sentinels, ask, unquote(service), options)


class _SentinelConnection(redis_connection.Connection):
    """A connection to what the sentinels call the primary at the moment of connecting.

    redis-py has one too. It keeps connections to the sentinels open that nothing closes.
    """

    def __init__(
        self,
        sentinels: Sequence[Address],
        ask: Callable[[str, int], Any],
        service: str,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(**options)
        self._sentinels = sentinels
        self._ask = ask
        self._service = service

    async def connect(self) -> None:
        """Ask the sentinels in turn, then connect."""
        self.host, self.port = await self._primary()
        await super().connect()  # type: ignore[no-untyped-call] # redis-py leaves it unannotated

    async def _primary(self) -> Address:
        trouble = []
        for host, port in self._sentinels:
            wire = Wire(partial(self._ask, host, port))
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


class _SecureSentinelConnection(_SentinelConnection, redis_connection.SSLConnection):
    """The same with TLS."""
