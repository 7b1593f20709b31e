"""What the watcher sees at one moment: values, read elsewhere, judged elsewhere. Times are seconds of one clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

#: What becomes of an entry that was taken and is not done: its handler runs; its worker is gone; its retry is due; it
#: waits for something that is nobody's fault (a later retry, a worker that knows its type).
EntryState = Literal["running", "lost", "due", "later"]


@dataclass(frozen=True, slots=True)
class EntrySample:
    """One entry that a group has taken and not finished."""

    entry_id: str
    state: EntryState
    #: Who has it, for which time, and how far it says to be: whatever of this changes, something was done.
    mark: str = ""
    #: Its handler has said how far it is.
    has_progress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSample:
    """A group's reading of a stream. None: the broker cannot tell."""

    stream: str
    group: str
    #: Entries that nobody has taken, and the age of the oldest in seconds.
    lag: int | None = 0
    lag_seconds: float | None = 0.0
    #: Entries that were taken and are not done; `entries` are the oldest of them.
    pending: int = 0
    entries: Sequence[EntrySample] = ()
    #: Dead letters that stand there.
    dead: int = 0
    #: Living workers.
    workers: int = 0

    @property
    def subject(self) -> str:
        """What an anomaly of it is about."""
        return f"{self.stream}/{self.group}"

    @property
    def unread(self) -> int:
        """Entries that wait to be taken; 1 where it is only known that some do."""
        return self.lag if self.lag is not None else int((self.lag_seconds or 0.0) > 0)

    @property
    def is_whole(self) -> bool:
        """Whether `entries` are all that are pending."""
        return len(self.entries) >= self.pending

    def count(self, *states: EntryState) -> int:
        """Of the entries that were looked at, those in these states."""
        return sum(entry.state in states for entry in self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSample:
    """The latest report of one process of a service."""

    instance: str
    #: Names this report: another one is news.
    reported: str
    has_ended: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BotSample:
    """A bot in a call, in which there are others."""

    bot_id: str
    #: Which of its processes, from 1.
    attempt: int
    #: Seconds since it said that it lives, and since it last heard something; None: it has not.
    beat_age: float | None
    audio_age: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """All that was seen at one moment."""

    at: float
    groups: Sequence[GroupSample] = ()
    #: By service.
    services: Mapping[str, Sequence[InstanceSample]] = field(default_factory=dict)
    bots: Sequence[BotSample] = ()
    #: Reports have come in that are not read yet: nothing can be said of who is silent.
    reports_wait: bool = False
