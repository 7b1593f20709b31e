"""What the connected server can do: asked, not guessed from a version (Valkey reports Redis 7.2.4)."""

from __future__ import annotations

from streamtask.errors import ConfigurationError
from streamtask.transport.redis.client import Caller
from streamtask.transport.values import Capabilities

_NEWER_COMMANDS = ("XACKDEL", "XNACK", "XCFGSET", "WAITAOF")


def parse_info(text: bytes) -> dict[str, str]:
    """The reply of INFO as a dict."""
    lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


async def probe(wire: Caller, *, clustered: bool) -> Capabilities:
    """Ask the server what it is and has.

    Raises:
        ConfigurationError: it is older than Redis 6.2, which cannot list pending entries by idle time; or it is a node
            of a cluster and is not used as one.
    """
    info = parse_info(await wire.call("INFO", "server"))
    if info.get("redis_mode") == "cluster" and not clustered:
        raise ConfigurationError(
            "the server is a node of a Redis Cluster: write the URL with redis+cluster:// (rediss+cluster:// for TLS), "
            "or what it does not serve itself is refused"
        )
    known = await wire.call("COMMAND", "INFO", *_NEWER_COMMANDS)
    version = info.get("valkey_version") or info.get("redis_version", "0")
    if tuple(int(part) for part in info.get("redis_version", "0").split(".")[:2]) < (6, 2):
        raise ConfigurationError(f"the server is Redis {version}; streamtask needs Redis 6.2 or newer, or Valkey")
    return Capabilities(
        engine="valkey" if "valkey_version" in info else "redis",
        version=version,
        commands=frozenset(name for name, found in zip(_NEWER_COMMANDS, known, strict=True) if found),
    )
