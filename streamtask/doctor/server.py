"""What can lose or delay events, read from the configuration and state of a server.

A rule looks at one thing; it says nothing where a word is missing, which `_unknown` tells of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from streamtask.doctor.facts import Facts, Finding, Level
from streamtask.transport.disk import unfit_for_disk

#: Part of `maxmemory` from which on the server is close to full.
_NEARLY_FULL = 0.9
#: Bytes that one read may have to send: a hundred slots, an event of the largest size for each.
_ONE_READ = 100 << 20
#: Milliseconds within which our scripts end, also on a server that has much to do.
_ONE_SCRIPT = 100


def lost_at_restart(facts: Facts) -> Iterator[Finding]:
    """That the engine keeps nothing, of one that does not."""
    if not facts.durable:
        yield Finding(
            level=Level.PROBLEM,
            check="durability",
            message=f"the {facts.engine} engine keeps nothing when its process ends",
            remedy="use it for tests only",
        )


def _eviction(facts: Facts) -> Iterator[Finding]:
    policy = facts.settings.get("maxmemory_policy") or facts.settings.get("maxmemory-policy")
    if policy not in (None, "noeviction"):
        full = "" if _number(facts, "maxmemory") else " (maxmemory is 0 now, so it does not happen yet)"
        yield Finding(
            level=Level.PROBLEM if _number(facts, "maxmemory") else Level.WARNING,
            check="maxmemory-policy",
            message=f"maxmemory-policy is {policy}: a full server removes whole streams to make room{full}",
            remedy="CONFIG SET maxmemory-policy noeviction, and the same in its configuration file",
        )


def _memory(facts: Facts) -> Iterator[Finding]:
    limit, used = _number(facts, "maxmemory"), _number(facts, "used_memory")
    if limit and used >= limit * _NEARLY_FULL:
        yield Finding(
            level=Level.PROBLEM,
            check="maxmemory",
            message=f"{used / limit:.0%} of maxmemory is in use: once it is full, nothing can be published",
            remedy="raise maxmemory, or let the groups that are behind catch up (`streamtask inspect streams`, "
            "`inspect groups`): what every group has finished is trimmed",
        )


def _append_only(facts: Facts) -> Iterator[Finding]:
    words = facts.settings
    written = words.get("aof_enabled") or {"yes": "1", "no": "0"}.get(words.get("appendonly", ""))
    if written == "0":
        yield Finding(
            level=Level.PROBLEM,
            check="appendonly",
            message="appendonly is no: when the server ends, every event since its last snapshot is lost",
            remedy="CONFIG SET appendonly yes, and the same in its configuration file",
        )
    elif written == "1":
        yield from _fsync(words)
    if words.get("aof_last_bgrewrite_status", "ok") != "ok":
        yield Finding(
            level=Level.WARNING,
            check="disk",
            message="the server could not rewrite its append-only file lately: the file grows until the disk is full",
            remedy="look at its log and at the free space of its data folder",
        )
    if words.get("aof_last_write_status", "ok") != "ok" or words.get("rdb_last_bgsave_status", "ok") != "ok":
        yield Finding(
            level=Level.PROBLEM,
            check="disk",
            message="the server could not write to its disk lately: it refuses writes, or will lose them",
            remedy="look at its log and at the free space of its data folder",
        )


def _fsync(words: Mapping[str, str]) -> Iterator[Finding]:
    appendfsync = words.get("appendfsync")
    if appendfsync in ("always", "everysec") and words.get("no-appendfsync-on-rewrite") == "yes":
        yield Finding(
            level=Level.WARNING,
            check="no-appendfsync-on-rewrite",
            message=f"no-appendfsync-on-rewrite is yes: while the file is rewritten, appendfsync {appendfsync} does "
            "not hold, and a power cut loses what the kernel had not written",
            remedy="CONFIG SET no-appendfsync-on-rewrite no",
        )
    if appendfsync == "no":
        yield Finding(
            level=Level.WARNING,
            check="appendfsync",
            message="appendfsync is no: a power cut loses what the kernel had not written, often 30 seconds",
            remedy="CONFIG SET appendfsync everysec (loses at most about a second) or always (nothing)",
        )
    elif appendfsync == "everysec":
        yield Finding(
            level=Level.NOTE,
            check="appendfsync",
            message="appendfsync is everysec: a power cut loses about the last second (a crash of the server, nothing)",
            remedy="CONFIG SET appendfsync always, where that is too much",
        )


def _replicas(facts: Facts) -> Iterator[Finding]:
    words = facts.settings
    if words.get("role", "master") != "master":
        yield Finding(
            level=Level.PROBLEM,
            check="role",
            message="this server is a replica: nothing can be published or handled here",
            remedy="give the primary's URL, or redis+sentinel://host:port,host:port/service",
        )
    elif _number(facts, "connected_slaves") and words.get("min-replicas-to-write") == "0":
        yield Finding(
            level=Level.PROBLEM,
            check="min-replicas-to-write",
            message="it has replicas and min-replicas-to-write is 0: a primary that was cut off goes on taking events "
            "that a failover throws away",
            remedy="CONFIG SET min-replicas-to-write 1 (and min-replicas-max-lag 3)",
        )


def _durability(facts: Facts) -> Iterator[Finding]:
    if facts.durability == "disk":
        yield from _on_disk(facts)
    elif facts.durability not in ("none", 0):
        yield from _on_replicas(facts)


def _on_disk(facts: Facts) -> Iterator[Finding]:
    unfit = unfit_for_disk(facts.engine, facts.version, facts.settings)
    if unfit is not None:
        yield Finding(
            level=Level.PROBLEM,
            check="durability",
            message=f'durability="disk" is refused on this server: {unfit.reason}',
            remedy=unfit.remedy,
        )
    elif facts.settings.get("appendfsync") == "everysec":
        yield Finding(
            level=Level.WARNING,
            check="durability",
            message='publishes wait for the disk (durability="disk"), which is synced once a second (appendfsync '
            "everysec): each takes up to two seconds",
            remedy="CONFIG SET appendfsync always, where that is too long",
        )


def _on_replicas(facts: Facts) -> Iterator[Finding]:
    there = _number(facts, "connected_slaves")
    if "connected_slaves" not in facts.settings:
        return
    least = facts.durability if isinstance(facts.durability, int) else 1
    if there < least:
        yield Finding(
            level=Level.PROBLEM,
            check="durability",
            message=f"publishes wait for {least} replicas (durability), and this server has {there}: every "
            "publish raises after a second, although the event is stored",
            remedy="attach replicas, or ask for fewer",
        )
    elif isinstance(facts.durability, int) and there > facts.durability:
        yield Finding(
            level=Level.WARNING,
            check="durability",
            message=f"publishes wait for {facts.durability} of {there} replicas (durability): a failover to another "
            "one while the old primary still runs loses what only the others have",
            remedy=f'durability="replica", which waits for all of them, or durability={there}',
        )


def _client_timeout(facts: Facts) -> Iterator[Finding]:
    seconds = _number(facts, "timeout")
    if seconds:
        yield Finding(
            level=Level.WARNING,
            check="timeout",
            message=f"timeout is {seconds}: connections that pause so long (s) are closed, and what is published "
            "next on them fails once",
            remedy="CONFIG SET timeout 0 (tcp-keepalive finds dead clients)",
        )


def _buffers(facts: Facts) -> Iterator[Finding]:
    words = facts.settings.get("client-output-buffer-limit", "").split()
    limit = int(words[words.index("normal") + 1]) if "normal" in words else 0
    if 0 < limit < _ONE_READ:
        yield Finding(
            level=Level.WARNING,
            check="client-output-buffer-limit",
            message=f"client-output-buffer-limit for normal clients is {limit} bytes: a worker that reads many large "
            "events at once is cut off in the middle, each time again",
            remedy='CONFIG SET client-output-buffer-limit "normal 0 0 0"',
        )
    clients = facts.settings.get("maxmemory-clients", "0")
    if clients != "0":
        yield Finding(
            level=Level.NOTE,
            check="maxmemory-clients",
            message=f"maxmemory-clients is {clients}: a busy server closes the connections that read most, which are "
            "those of workers",
            remedy="CONFIG SET maxmemory-clients 0, or see that it leaves room for a read of each worker",
        )


def _scripts(facts: Facts) -> Iterator[Finding]:
    name = "busy-reply-threshold" if "busy-reply-threshold" in facts.settings else "lua-time-limit"
    limit = _number(facts, name)
    if 0 < limit <= _ONE_SCRIPT:
        yield Finding(
            level=Level.WARNING,
            check=name,
            message=f"{name} is {limit} ms: while a script settles a large batch, everybody else is refused (BUSY)",
            remedy=f"CONFIG SET {name} 5000",
        )


def _unknown(facts: Facts) -> Iterator[Finding]:
    missing = [name for name in ("appendfsync", "min-replicas-to-write", "timeout") if name not in facts.settings]
    if missing:
        yield Finding(
            level=Level.WARNING,
            check="permissions",
            message=f"could not check {', '.join(missing)}: this user may not ask for the configuration (CONFIG GET)",
            remedy="ask as a user that may, or look at the server's configuration file",
        )


def _number(facts: Facts, name: str) -> int:
    text = facts.settings.get(name, "")
    return int(text) if text.isdecimal() else 0


RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _eviction,
    _memory,
    _append_only,
    _replicas,
    _durability,
    _client_timeout,
    _buffers,
    _scripts,
    _unknown,
)
