"""One connection to Redis: send commands, read replies, translate errors. Knows no streams and never retries.

It stands on redis-py's connection layer (address, TLS, AUTH, SELECT, Sentinel, parser) and leaves its client layer
out: that one retries writes by itself, which doubles entries, and costs three times the CPU of a call.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import hiredis
import redis.asyncio.connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from streamtask.errors import ConfigurationError, TransportError
from streamtask.redact import mask_url

Argument = str | bytes | int | float
#: Builds a connection that is not connected yet.
ConnectionFactory = Callable[[], Any]

#: Seconds for a command that does not block on purpose, connecting included.
COMMAND_TIMEOUT = 5.0
#: Seconds for one sentinel to answer, before the next is asked: all of them within the time to connect.
_SENTINEL_TIMEOUT = 1.0
#: After one of these the server will not take our commands on this connection: resolve and connect anew.
#: UNBLOCKED: a primary has become a replica, and closes the connection after it.
_RECONNECT = ("READONLY", "LOADING", "MASTERDOWN", "UNKILLABLE", "NOAUTH", "UNBLOCKED")


#: A command as bytes. hiredis takes a tenth of redis-py's time for it.
_pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment] # it says: one word


class DisconnectedError(TransportError):
    """No reply: whether the command ran is unknown."""


class ServerError(TransportError):
    """The server replied with an error."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        #: First word of the reply: "NOGROUP", "OOM", "NOSCRIPT", "ERR"...
        self.code = message.split(" ", 1)[0].rstrip(":")


class Script:
    """A Lua script from `scripts/`, with the shared head before it."""

    def __init__(self, name: str) -> None:
        folder = files(__package__) / "scripts"
        self.name = name
        self.text = (folder / "head.lua").read_text() + (folder / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[str], args: Sequence[Argument]) -> list[Argument]:
        """The EVALSHA command for these keys and arguments."""
        return ["EVALSHA", self.sha, len(keys), *keys, *args]


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


def _packed(command: Sequence[Argument]) -> bytes:
    try:
        return _pack(tuple(command))
    except UnicodeEncodeError:
        # The name of something foreign, read with `keys.text`.
        words = (word.encode("utf-8", "surrogateescape") if isinstance(word, str) else word for word in command)
        return _pack(tuple(words))


class Wire:
    """One connection, used by one command or pipeline at a time; connects when needed."""

    def __init__(self, make: ConnectionFactory) -> None:
        self._make = make
        self._connection: Any = None
        self._lock = asyncio.Lock()
        #: Grows with every new connection.
        self.generation = 0

    async def call(self, *command: Argument, timeout: float = COMMAND_TIMEOUT) -> Any:
        """One command, one reply.

        Raises:
            ServerError: the server said no.
            DisconnectedError: no reply came; unknown whether it ran.
        """
        [reply] = await self._exchange([command], timeout)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def many(self, commands: Sequence[Sequence[Argument]], *, timeout: float = COMMAND_TIMEOUT) -> list[Any]:
        """A pipeline; a reply each, in order. A command that the server refused gives its ServerError in the list."""
        return await self._exchange(commands, timeout) if commands else []

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument] = ()) -> Any:
        """Run a script, loading it where the server does not have it (any more)."""
        [reply] = await self.run_many([(script, keys, args)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def run_many(self, calls: Sequence[tuple[Script, Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Scripts in one pipeline; replies as from `many`."""
        replies = await self.many([script.command(keys, args) for script, keys, args in calls])
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, ServerError) and reply.code == "NOSCRIPT"]
        if missing:
            # A script that was not found has not run: sending it again cannot double anything.
            again = [["EVAL", calls[i][0].text, len(calls[i][1]), *calls[i][1], *calls[i][2]] for i in missing]
            for index, reply in zip(missing, await self.many(again), strict=True):
                replies[index] = reply
        return replies

    async def close(self) -> None:
        """Drop the connection. The wire can be used again: it connects anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _exchange(self, commands: Sequence[Sequence[Argument]], timeout: float) -> list[Any]:
        async with self._lock:
            try:
                async with asyncio.timeout(timeout):
                    connection = self._connection or await self._connect()
                    packed = b"".join([_packed(command) for command in commands])
                    await connection.send_packed_command(packed, check_health=False)
                    replies = [await self._reply(connection) for _ in commands]
            except (RedisError, OSError, TimeoutError) as error:
                await self.close()
                raise _translate(error) from error
            except BaseException:
                # Cancelled in the middle: the next reply on this connection would be somebody else's.
                await self.close()
                raise
            if any(isinstance(reply, ServerError) and reply.code in _RECONNECT for reply in replies):
                await self.close()
            return replies

    async def _connect(self) -> Any:
        connection = self._make()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self.generation += 1
        self._connection = connection
        return connection

    @staticmethod
    async def _reply(connection: Any) -> Any:
        try:
            return await connection.read_response()
        except ResponseError as error:
            return ServerError(_message(error))


#: redis-py cuts the code off the errors it has a class for.
_CODES = {
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "NoPermissionError": "NOPERM",
    "ReadOnlyError": "READONLY",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
}
#: How Redis 6.2 wraps what a command within a script was refused with.
_WITHIN_SCRIPT = re.compile(r"@user_script: ?\d+: -?([A-Z]+ .+)", re.DOTALL)


def _message(error: ResponseError) -> str:
    """The server's words, with their code in front."""
    code = _CODES.get(type(error).__name__, "")
    within = _WITHIN_SCRIPT.search(str(error))
    return within[1] if within else f"{code} {error}".strip()


def _translate(error: Exception) -> TransportError:
    if isinstance(error, AuthenticationError):
        return ServerError(f"NOAUTH {error}")
    if isinstance(error, TimeoutError) and not isinstance(error, RedisError):
        return DisconnectedError("no reply in time")
    if isinstance(error, ResponseError):
        return ServerError(_message(error))
    if isinstance(error, RedisConnectionError | OSError):
        return DisconnectedError(str(error) or type(error).__name__)
    return DisconnectedError(f"{type(error).__name__}: {error}")
