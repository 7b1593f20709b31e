"""How a connection comes to be: the socket, TLS, who we are, which database. One round trip of our own."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import msgspec

from streamtask.errors import TransportError
from streamtask.transport.redis.line import (
    COMMAND_TIMEOUT,
    Argument,
    DisconnectedError,
    Line,
    ServerError,
    UnreachableError,
)

#: What to think of when a server hangs up on our greeting, without and with TLS.
_HUNG_UP = {
    False: "; is it a port of TLS, whose URLs begin with rediss://? Or has the server too many clients (maxclients)?",
    True: "; over TLS: does the server ask for a certificate of ours (ssl_certfile, ssl_keyfile)?",
}
#: Refusals of a greeting that say nothing of our name and password.
_NOT_NOW = frozenset({"LOADING", "MASTERDOWN", "DENIED"})


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """How the server is to prove itself, and we to it: the `ssl_` options of a URL. Files are read at each connect."""

    ca_certs: str | None = None
    ca_path: str | None = None
    ca_data: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    password: str | None = None
    cert_reqs: ssl.VerifyMode = ssl.CERT_REQUIRED
    check_hostname: bool = True
    min_version: ssl.TLSVersion | None = None
    ciphers: str | None = None
    include_verify_flags: tuple[ssl.VerifyFlags, ...] = ()
    exclude_verify_flags: tuple[ssl.VerifyFlags, ...] = ()

    def __repr__(self) -> str:
        # It has a password, and tracebacks may show local variables.
        return "Tls(...)"

    def context(self) -> ssl.SSLContext:
        """What Python's ssl takes. Raises OSError (ssl.SSLError is one) where a file cannot be read."""
        context = ssl.create_default_context()
        context.check_hostname = self.check_hostname and self.cert_reqs != ssl.CERT_NONE
        context.verify_mode = self.cert_reqs
        for flag in self.include_verify_flags:
            context.verify_flags |= flag
        for flag in self.exclude_verify_flags:
            context.verify_flags &= ~flag
        if self.certfile or self.keyfile:
            # Without the file of the certificate it says which one is missing.
            context.load_cert_chain(self.certfile or "", self.keyfile, self.password)
        if self.ca_certs or self.ca_path or self.ca_data:
            context.load_verify_locations(self.ca_certs, self.ca_path, self.ca_data)
        if self.min_version is not None:
            context.minimum_version = self.min_version
        if self.ciphers is not None:
            context.set_ciphers(self.ciphers)
        return context


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is, and how to greet it."""

    host: str = "localhost"
    port: int = 6379
    #: Of its unix socket, instead of host and port.
    path: str = ""
    username: str | None = None
    password: str | None = None
    database: int = 0
    client_name: str | None = None
    #: Seconds for all of it.
    timeout: float = COMMAND_TIMEOUT
    keepalive: bool = True
    #: None: nothing is encrypted.
    tls: Tls | None = None

    def __repr__(self) -> str:
        # As `Tls`.
        return f"Target({self})"

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def at(self, address: tuple[str, int]) -> Target:
        """The same, elsewhere."""
        return msgspec.structs.replace(self, host=address[0], port=address[1])


async def connect(target: Target) -> Line:
    """Connect to a server and greet it.

    Raises:
        ServerError: it refuses who we are, or the database, or anybody for now.
        UnreachableError: there is no connection.
    """
    line: Line | None = None
    try:
        async with asyncio.timeout(target.timeout):
            line = await _open(target)
            await _greet(line, target)
    except BaseException as error:
        if line is not None:
            line.drop(DisconnectedError("the connection was closed"))
            # The socket closes in a callback; let it run, so that nothing is left for the garbage collector.
            await asyncio.sleep(0)
        if isinstance(error, ServerError):
            raise error.with_traceback(None) from None
        if isinstance(error, OSError | TransportError):
            raise _translate(error, target) from _without_frames(error)
        raise
    return line


async def _open(target: Target) -> Line:
    loop = asyncio.get_running_loop()
    if target.path:
        return (await loop.create_unix_connection(Line, target.path))[1]
    context = None if target.tls is None else target.tls.context()
    transport, line = await loop.create_connection(Line, target.host, target.port, ssl=context)
    if target.keepalive:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return line


async def _greet(line: Line, target: Target) -> None:
    commands: list[Sequence[Argument]] = []
    if target.username:
        commands.append(["AUTH", target.username, target.password or ""])
    elif target.password:
        commands.append(["AUTH", target.password])
    if target.client_name:
        commands.append(["CLIENT", "SETNAME", target.client_name])
    if target.database:
        commands.append(["SELECT", target.database])
    # For whoever looks at the list of clients (Redis 7.2 and newer).
    commands.append(["CLIENT", "SETINFO", "LIB-NAME", "streamtask"])
    *needed, told = await line.ask(commands, target.timeout)
    for command, reply in zip(commands, needed, strict=False):
        if isinstance(reply, ServerError):
            raise _refused(command[0], reply)
    if isinstance(told, ServerError) and (told.code == "DENIED" or "max number of clients" in str(told)):
        # It says so to whatever comes first, and hangs up.
        raise told
    # What else it says of that matters to nobody.
    line.may_not = False


def _refused(command: Any, reply: ServerError) -> ServerError:
    if command == "AUTH" and reply.code not in _NOT_NOW:
        return ServerError(f"NOAUTH {str(reply).removeprefix('WRONGPASS ')}")
    return reply


def _translate(error: Exception, target: Target) -> TransportError:
    """What went wrong while connecting."""
    secure = target.tls is not None
    if isinstance(error, TimeoutError):
        return UnreachableError(f"no connection to {target} in time{'; does this port speak TLS?' if secure else ''}")
    hung_up = isinstance(error, TransportError | ConnectionResetError)
    return UnreachableError(f"no connection to {target}: {error}{_HUNG_UP[secure] if hung_up else ''}")


def _without_frames(error: BaseException) -> BaseException:
    """An error without its frames, whose local variables hold the password."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
