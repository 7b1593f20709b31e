"""A broker URL → what connects: to the server, to the primary that the sentinels name, to a cluster's nodes.

The options of a URL have the names that redis-py gave them, which people know. Nothing here sends a command of ours,
but the question to the sentinels.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from streamtask.errors import ConfigurationError, TransportError
from streamtask.redact import mask_url
from streamtask.transport.redis.client import Dial, Wire
from streamtask.transport.redis.connecting import Target, Tls, connect
from streamtask.transport.redis.line import Line, UnreachableError

#: Host and port.
Address = tuple[str, int]

#: Seconds for one sentinel to answer, before the next is asked: all of them within the time to connect.
_SENTINEL_TIMEOUT = 1.0
_SENTINEL_PORT = 26379
_SENTINEL = "+sentinel://"
#: Options for the sentinels, and what they are to a connection.
_FOR_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}
#: What URLs have for pools and clients of other libraries. Taken, and without meaning here.
_FOR_OTHERS = frozenset(
    {
        "decode_responses",
        "health_check_interval",
        "max_connections",
        "protocol",
        "retry_on_timeout",
        "socket_read_size",
        "socket_timeout",
    }
)
_ESCAPES = "in a password, `/` is written as %2F, `?` as %3F and `#` as %23"
_NO = frozenset({"0", "f", "false", "n", "no"})
_CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


T = TypeVar("T")


class _UrlError(ValueError):
    """What is wrong with a URL; quotes nothing of it but the name of an option."""


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _flag(text: str) -> bool:
    return text.lower() not in _NO


def _verify_flags(text: str) -> tuple[ssl.VerifyFlags, ...]:
    return tuple(ssl.VerifyFlags[name.strip()] for name in text.strip("[]").split(","))


#: Option → the field of `Target`, and how its text is read.
_OF_TARGET: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "client_name": ("client_name", str),
    "db": ("database", int),
    "password": ("password", str),
    "socket_connect_timeout": ("timeout", float),
    "socket_keepalive": ("keepalive", _flag),
    "username": ("username", str),
}
#: The same for `Tls`, without the `ssl_` before them.
_OF_TLS: Mapping[str, Callable[[str], Any]] = {
    "ca_certs": str,
    "ca_data": str,
    "ca_path": str,
    "cert_reqs": _CERT_REQS.__getitem__,
    "certfile": str,
    "check_hostname": _flag,
    "ciphers": str,
    "exclude_verify_flags": _verify_flags,
    "include_verify_flags": _verify_flags,
    "keyfile": str,
    "min_version": lambda text: ssl.TLSVersion(int(text)),
    "password": str,
}


def _fields(query: str, *, secure: bool) -> dict[str, Any]:
    """The options of a URL as fields of `Target`."""
    fields: dict[str, Any] = {}
    tls: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        of_tls = name.removeprefix("ssl_")
        if name in _OF_TARGET:
            field, read = _OF_TARGET[name]
            fields[field] = _value(name, text, read)
        elif secure and name.startswith("ssl_") and of_tls in _OF_TLS:
            tls[of_tls] = _value(name, text, _OF_TLS[of_tls])
        elif name not in _FOR_OTHERS:
            # What stands before an @ may be the half of a password.
            unknown = f"it has an option that this kind of URL does not know: {name!r}"
            raise _UrlError(_ESCAPES if "@" in query else unknown)
    if secure:
        fields["tls"] = Tls(**tls)
        # A file that is missing is told at once, and not looked for again at each connect.
        fields["tls"].context()
    return fields


def _value(name: str, text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except (ValueError, KeyError):
        raise _UrlError(f"its option {name!r} has a value that it cannot have") from None


# ── one server ────────────────────────────────────────────────────────────────────────────────────────────────────


def target_of(url: str) -> Target:
    """What redis://, rediss://, unix://, valkey:// and valkeys:// URLs name. Raises ConfigurationError."""
    return _read(url, _server)


def _server(url: str) -> Target:
    parts = urlsplit(url.replace("valkey", "redis", 1) if url.startswith("valkey") else url)
    database = "" if parts.scheme == "unix" else parts.path.strip("/")
    if "#" in url or "@" in database:
        raise _UrlError(_ESCAPES)
    if database and not database.isdecimal():
        raise _UrlError("its database is no number")
    fields = _fields(parts.query, secure=parts.scheme == "rediss")
    if database:
        fields.setdefault("database", int(database))
    if parts.username:
        fields["username"] = unquote(parts.username)
    if parts.password:
        fields["password"] = unquote(parts.password)
    if parts.scheme == "unix":
        return Target(path=unquote(parts.path), **fields)
    if parts.hostname:
        fields["host"] = unquote(parts.hostname)
    return Target(port=parts.port or 6379, **fields)


# ── sentinels ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Watched:
    """The primary that sentinels know by a name."""

    __slots__ = ("primary", "sentinel", "sentinels", "service")

    def __init__(self, sentinels: Sequence[Address], service: str, sentinel: Target, primary: Target) -> None:
        self.sentinels = sentinels
        self.service = service
        #: How to greet one of them, and the primary; where the primary is, they say.
        self.sentinel = sentinel
        self.primary = primary

    async def connect(self) -> Line:
        """Ask the sentinels in turn, then connect."""
        return await connect(self.primary.at(await self._ask()))

    async def _ask(self) -> Address:
        trouble = []
        for host, port in self.sentinels:
            wire = Wire(partial(connect, self.sentinel.at((host, port))))
            try:
                found = await wire.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service, timeout=_SENTINEL_TIMEOUT)
            except TransportError as error:
                trouble.append(f"{host}:{port}: {error}")
            else:
                if found is not None:
                    return found[0].decode(), int(found[1])
                trouble.append(f"{host}:{port} does not know it")
            finally:
                await wire.close()
        raise UnreachableError(f"no sentinel names a primary of {self.service!r} ({'; '.join(trouble)})")


def watched_of(url: str) -> Watched:
    """redis+sentinel://[user:password@]host:port,host:port/service[/db]; with rediss, TLS to the sentinels too.

    Raises ConfigurationError.
    """
    return _read(url, _watched)


def _watched(url: str) -> Watched:
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
    options = parse_qsl(query, keep_blank_values=True)
    own: dict[str, Any] = {_FOR_SENTINELS[name]: text for name, text in options if name in _FOR_SENTINELS}
    others = "&".join(each for each in query.split("&") if each.partition("=")[0] not in _FOR_SENTINELS)
    primary = _server(f"{scheme}://{credentials}{at}primary/{database}{mark}{others}")
    sentinel = Target(timeout=_SENTINEL_TIMEOUT, keepalive=primary.keepalive, tls=primary.tls, **own)
    return Watched(sentinels, unquote(service), sentinel, primary)


# ── clusters ──────────────────────────────────────────────────────────────────────────────────────────────────────


def cluster_of(url: str) -> tuple[list[Address], Target]:
    """redis+cluster://[user:password@]host:port,host:port: some nodes to ask first, and how to greet any of them.

    rediss+cluster:// for TLS; after a question mark the same options as for one server.

    Raises:
        ConfigurationError: as from `dial_of`.
    """
    return _read(url, _cluster)


def _cluster(url: str) -> tuple[list[Address], Target]:
    scheme, _, rest = url.partition("://")
    place, mark, query = rest.partition("?")
    credentials, at, hosts = place.rpartition("@")
    hosts, slash, database = hosts.partition("/")
    nodes = [_node(address) for address in hosts.split(",")]
    # What is the same for every node, read as of one server.
    plain = f"{scheme.removesuffix('+cluster')}://{credentials}{at}localhost{slash}{database}{mark}{query}"
    return nodes, _server(plain)


def _node(address: str) -> Address:
    parts = urlsplit(f"//{address}")
    if not parts.hostname:
        raise _UrlError("expected host:port,host:port")
    return parts.hostname, parts.port or 6379


# ── any of the first two ──────────────────────────────────────────────────────────────────────────────────────────


def dial_of(url: str) -> Dial:
    """What connects to a URL: redis, rediss, unix, valkey, valkeys, redis+sentinel or rediss+sentinel.

    Raises:
        ConfigurationError: it cannot be read, or an option or a file that it names is wrong.
    """
    return watched_of(url).connect if _SENTINEL in url else partial(connect, target_of(url))


def _read(url: str, read: Callable[[str], T]) -> T:
    try:
        return read(url)
    except (ValueError, OSError) as error:
        blame = _blame(error)
    # Out here without a cause: it quotes what it could not read, which may be a part of the password. And without the
    # options: the name of a mistyped one does not tell whether it is a secret.
    raise ConfigurationError(f"the broker URL {mask_url(url).partition('?')[0]} cannot be read: {blame}")


def _blame(error: Exception) -> str:
    if isinstance(error, _UrlError):
        return str(error)
    if isinstance(error, OSError):
        return f"a file that its ssl_ options name: {error}"
    return (
        "expected SCHEME://user:password@host:port/database?option=value, and in user and password % and two "
        "hexadecimal digits for every character that is no letter or digit"
    )
