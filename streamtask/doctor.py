"""What can lose or delay events, read from the facts about a server and its groups. Pure: no I/O, no clock.

`Inspector.facts` gathers the facts and the command line prints the findings. A finding says what was seen, what it
means and how to mend it; a fact that could not be had becomes a finding too, never a silent "all is well".
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

#: Seconds after which a group that nobody works on is said to be gone, and until then to be without a worker.
GONE_AFTER = 86_400.0
#: Seconds that an entry may wait for a worker that handles its type before that is worth a word: workers take up what
#: they handle within seconds.
WAITING_AFTER = 10.0
#: Part of `maxmemory` from which on the server is close to full.
_NEARLY_FULL = 0.9
#: Types that one finding names.
_NAMED = 5
#: First patched versions: argument handling of XACKDEL (CVE-2025-62507), unblocking a client (CVE-2026-23479).
_XACKDEL = ((8, 2, 0), (8, 2, 3))
_UNBLOCK = ((7, 2, 0), (8, 6, 3))


class Level(Enum):
    """How bad it is."""

    #: Events are being lost or held up, or will be when the server restarts or is full.
    PROBLEM = "problem"
    #: Events may be lost or held up when something else goes wrong.
    WARNING = "warning"
    #: Worth knowing; perhaps as it should be.
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found."""

    level: Level
    #: What was looked at, in a word: the name of a setting, or of a stream and group.
    check: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Entries that a group passed over because their type is none of its business."""

    type: str
    first_id: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Entries that only other workers of the group handle, and none of them has come."""

    type: str
    count: int
    longest_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """One group's reading of one stream."""

    stream: str
    group: str
    pending: int = 0
    lag: int | None = 0
    #: Some living worker reads for it.
    alive: bool = True
    #: Since it was last alive; None: unknown.
    last_seen_ms: int | None = 0
    skipped: Sequence[Skipped] = ()
    waiting: Sequence[Waiting] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFacts:
    """The dead letters of one stream."""

    stream: str
    count: int
    #: Since the newest one was written.
    newest_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known about a server and the groups on it."""

    engine: str
    version: str = ""
    durable: bool = True
    #: Configuration and state in the engine's own words; a word that is missing could not be had.
    settings: Mapping[str, str] = field(default_factory=dict)
    groups: Sequence[GroupFacts] = ()
    dead: Sequence[DeadFacts] = ()


def examine(facts: Facts) -> list[Finding]:
    """Everything that is worth a word, the worst first."""
    rules = (_lost_at_restart, *(_SERVER_RULES if facts.settings else ()), _groups, _dead_letters)
    found = [finding for rule in rules for finding in rule(facts)]
    order = list(Level)
    return sorted(found, key=lambda finding: order.index(finding.level))


# ── the server ────────────────────────────────────────────────────────────────────────────────────────────────────


def _lost_at_restart(facts: Facts) -> Iterator[Finding]:
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
        yield from _fsync(words.get("appendfsync"))
    if words.get("aof_last_write_status", "ok") != "ok" or words.get("rdb_last_bgsave_status", "ok") != "ok":
        yield Finding(
            level=Level.PROBLEM,
            check="disk",
            message="the server could not write to its disk lately: it refuses writes, or will lose them",
            remedy="look at its log and at the free space of its data folder",
        )


def _fsync(appendfsync: str | None) -> Iterator[Finding]:
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


def _version(facts: Facts) -> Iterator[Finding]:
    if facts.engine != "redis":
        return
    version = _parsed(facts.version)
    if _XACKDEL[0] <= version < _XACKDEL[1]:
        yield _outdated(facts.version, "XACKDEL overflows its stack (CVE-2025-62507)", "8.2.3")
    if _UNBLOCK[0] <= version < _UNBLOCK[1]:
        yield _outdated(facts.version, "unblocking a client uses freed memory (CVE-2026-23479)", "8.6.3")


def _outdated(version: str, what: str, mended: str) -> Finding:
    return Finding(
        level=Level.WARNING,
        check="version",
        message=f"Redis {version}: {what}; who may send commands may crash it, or worse",
        remedy=f"Redis {mended} or newer, or an older series in which your distributor has mended it",
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


_SERVER_RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _eviction,
    _memory,
    _append_only,
    _replicas,
    _client_timeout,
    _version,
    _unknown,
)


def _number(facts: Facts, name: str) -> int:
    text = facts.settings.get(name, "")
    return int(text) if text.isdecimal() else 0


def _parsed(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())


# ── groups and dead letters ───────────────────────────────────────────────────────────────────────────────────────


def _groups(facts: Facts) -> Iterator[Finding]:
    for group in facts.groups:
        yield from _absent(group)
        for waiting in group.waiting:
            yield _untaken(group, waiting)
        if group.skipped:
            yield _passed_over(group)


def _absent(group: GroupFacts) -> Iterator[Finding]:
    unread = "an unknown number of" if group.lag is None else group.lag
    if group.alive or not (group.pending or group.lag or group.lag is None):
        return
    backlog = f"{group.pending} pending and {unread} unread entries"
    gone = group.last_seen_ms is None or group.last_seen_ms > GONE_AFTER * 1000
    seen = "it is unknown since when" if group.last_seen_ms is None else f"for {_duration(group.last_seen_ms)}"
    place = shlex.join([group.stream, group.group])
    if gone:
        message = f"nobody has worked for group {group.group!r} on stream {group.stream!r} ({seen}), which pins "
        remedy = f"start its workers, or, if it is gone for good: streamtask groups drop {place}"
    else:
        message = f"no worker lives for group {group.group!r} on stream {group.stream!r} ({seen}), which has "
        remedy = f"start its workers; if it is gone for good: streamtask groups drop {place}"
    yield Finding(
        level=Level.PROBLEM if gone else Level.WARNING,
        check=f"{group.stream}/{group.group}",
        message=f"{message}{backlog}" + ("; nothing behind them is trimmed, so the stream grows" if gone else ""),
        remedy=remedy,
    )


def _untaken(group: GroupFacts, waiting: Waiting) -> Finding:
    return Finding(
        level=Level.PROBLEM,
        check=f"{group.stream}/{group.group}",
        message=f"{waiting.count} entries of type {waiting.type} wait, the longest for "
        f"{_duration(waiting.longest_ms)}, for a worker of group {group.group!r} that handles it, and none lives; "
        "after ten minutes they become dead letters",
        remedy=f"start a worker whose app handles {waiting.type} in group {group.group!r}",
    )


def _passed_over(group: GroupFacts) -> Finding:
    named = sorted(group.skipped, key=lambda each: -each.count)[:_NAMED]
    what = ", ".join(f"{each.type} ({each.count})" for each in named)
    more = f" and {len(group.skipped) - len(named)} more types" if len(group.skipped) > len(named) else ""
    back = "; ".join(
        shlex.join(["streamtask", "replay", "--stream", group.stream, "--group", group.group, "--since", each.first_id])
        + f" (from the first {each.type})"
        for each in named
    )
    return Finding(
        level=Level.NOTE,
        check=f"{group.stream}/{group.group}",
        message=f"group {group.group!r} has passed over events that it has no handler for: {what}{more}",
        remedy=f"if it should have handled them, add the handler and bring them back: {back}",
    )


def _dead_letters(facts: Facts) -> Iterator[Finding]:
    for dead in facts.dead:
        if dead.count:
            yield Finding(
                level=Level.WARNING,
                check=f"{dead.stream} dead letters",
                message=f"stream {dead.stream!r} has {dead.count} dead letters, the newest from "
                f"{_duration(dead.newest_ms)} ago; they are kept until somebody replays or purges them",
                remedy=f"streamtask dead list --stream {shlex.quote(dead.stream)}",
            )


def _duration(ms: int) -> str:
    seconds = ms / 1000
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
