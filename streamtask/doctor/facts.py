"""What the doctor is told, and what it says. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from streamtask.transport.values import Durability


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
    #: Entries in the stream, of whatever age; None: unknown.
    length: int | None = None
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
    #: What a publish of the app waits for.
    durability: Durability = "none"
    #: Stream -> emits of its handlers on their way to streams of another server.
    outboxes: Mapping[str, int] = field(default_factory=dict)
