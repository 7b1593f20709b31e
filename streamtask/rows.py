"""What people are shown of a running system: rows of values, made of what engines tell. Pure, and asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from streamtask import envelope as envelopes
from streamtask.errors import ConfigurationError
from streamtask.steps import Definition
from streamtask.timetable import timetable
from streamtask.transport.values import DeadLetter, KnownRule, Progress

_Row = TypeVar("_Row")

#: Milliseconds after which a rule that no worker has named is taken for one that the program has no longer: a day.
_LIVES = 86_400_000


@dataclass(frozen=True, slots=True)
class Listing(Generic[_Row]):
    """Rows, and whether there were more than asked for."""

    rows: Sequence[_Row]
    cut: bool = False
    #: How many there are, where that is known.
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An entry that is delivered and not acked."""

    stream: str
    group: str
    entry_id: str
    event_id: str | None
    event_type: str | None
    consumer: str
    idle_ms: int
    deliveries: int
    state: str
    due_in_ms: int | None
    #: `fraction` and `message`, where its handler has said how far it is.
    progress: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group's progress on a stream. What the server cannot tell is None."""

    stream: str
    group: str
    consumers: int
    pending: int
    lag: int | None
    lag_seconds: float | None
    oldest_pending_ms: int | None
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What a group is interested in, and when somebody last worked for it."""

    stream: str
    group: str
    interest: Sequence[str]
    skipped: Mapping[str, Mapping[str, object]]
    #: Some living worker reads for it.
    alive: bool
    #: 0 while it is alive; None: unknown.
    last_seen_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """An event that is not due yet, or the next one of a rule."""

    stream: str
    event_id: str
    event_type: str | None
    due_in_ms: int
    #: The timetable of the rule, as `every 30` or `cron Europe/Berlin 0 3 * * *`; None: it is an event by itself.
    rule: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A living worker, as it describes itself."""

    worker: str
    host: str | None
    pid: int | None
    supervisor_pid: int | None
    groups: Sequence[str]
    running: int | None
    last_beat_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadSummary:
    """A dead letter in a row."""

    id: str
    stream: str
    group: str
    event_id: str | None
    event_type: str | None
    reason: str
    error: str
    attempts: int
    first_seen: datetime
    dead_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWorkflow:
    """A workflow: where it lives, what it is made of, and the states of those of its calls that have ended."""

    stream: str
    definition: Definition
    ended: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which dead letters are meant; None: any."""

    stream: str | None = None
    group: str | None = None
    reason: str | None = None
    event_type: str | None = None

    def matches(self, letter: DeadLetter) -> bool:
        """Whether a dead letter is meant."""
        return (
            self.group in (None, letter.group)
            and self.reason in (None, letter.reason)
            and self.event_type in (None, letter.event_type)
        )


def worker_of(said: Mapping[str, object]) -> Worker:
    """A worker's words about itself; what a foreign or older one leaves out is None."""
    host, groups = said.get("host"), said.get("groups")
    return Worker(
        worker=str(said["worker"]),
        host=None if host is None else str(host),
        pid=_whole(said.get("pid")),
        supervisor_pid=_whole(said.get("supervisor_pid")),
        groups=[str(group) for group in groups] if isinstance(groups, list) else [],
        running=_whole(said.get("running")),
        last_beat_ms=_whole(said["last_beat_ms"]) or 0,
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def told_progress(progress: object) -> dict[str, object] | None:
    """How far a handler is, as all that streamtask prints."""
    if not isinstance(progress, Progress):
        return None
    return {"fraction": round(progress.fraction, 4), "message": progress.message}


def next_tick(stream: str, rule: KnownRule) -> Scheduled | None:
    """The next event of a rule; None where no worker has it any more, or its timetable is none that we know."""
    if rule.now_ms - rule.seen_ms > _LIVES:
        return None
    try:
        table = timetable(rule.text)
    except ConfigurationError:
        return None
    at = table.after(max(rule.last_ms, rule.begun_ms))
    return Scheduled(
        stream=stream,
        event_id=envelopes.tick_id(stream, rule.rule, at),
        event_type=rule.rule,
        due_in_ms=max(0, at - rule.now_ms),
        rule=rule.text,
    )


def summary(letter: DeadLetter) -> DeadSummary:
    """A dead letter in a row; an event id and type that could not be read are None."""
    return DeadSummary(
        id=letter.id,
        stream=letter.stream,
        group=letter.group,
        event_id=letter.event_id or None,
        event_type=letter.event_type or None,
        reason=letter.reason,
        error=letter.error,
        attempts=letter.attempts,
        first_seen=letter.first_seen,
        dead_at=letter.dead_at,
    )


def moment(when: datetime) -> str:
    """A moment as all that streamtask prints: ISO 8601, UTC, milliseconds."""
    return envelopes.timestamp(when.timestamp())
