"""What can lose or delay events, read from the groups and the dead letters on a server."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from streamtask.doctor.facts import Facts, Finding, GroupFacts, Level, Waiting

#: Seconds after which a group that nobody works on is said to be gone, and until then to be without a worker.
GONE_AFTER = 86_400.0
#: Seconds that an entry may wait for a worker that handles its type before that is worth a word: workers take up what
#: they handle within seconds.
WAITING_AFTER = 10.0
#: Emits that wait beside a stream before that is worth a word: workers pass them on within a fraction of a second.
_MANY_WAIT = 100
#: Types that one finding names.
_NAMED = 5


def groups(facts: Facts) -> Iterator[Finding]:
    """What there is to say of each group."""
    for group in facts.groups:
        yield from _absent(group)
        yield from _cut(group)
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


def _cut(group: GroupFacts) -> Iterator[Finding]:
    # A server counts what was ever appended; streamtask itself never trims what a group has not read.
    if group.lag is not None and group.length is not None and group.lag > group.length:
        yield Finding(
            level=Level.PROBLEM,
            check=f"{group.stream}/{group.group}",
            message=f"group {group.group!r} had not read {group.lag - group.length} entries of stream "
            f"{group.stream!r} that are gone: somebody else trims the stream",
            remedy="find who sends XTRIM or XADD with MAXLEN or MINID to it, and let streamtask keep its length "
            "(App(retention=...))",
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


def outboxes(facts: Facts) -> Iterator[Finding]:
    """That emits are not passed on, beside each stream."""
    for stream, count in facts.outboxes.items():
        if count >= _MANY_WAIT:
            yield Finding(
                level=Level.WARNING,
                check=f"{stream} outbox",
                message=f"{count} events that handlers of stream {stream!r} emitted wait to be passed on to streams "
                "of other nodes of the cluster",
                remedy="start a worker if none runs; if one does, its log says why (relay.failed)",
            )


def dead_letters(facts: Facts) -> Iterator[Finding]:
    """That there are dead letters, of each stream."""
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
