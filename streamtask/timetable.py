"""At which moments a rule ticks: every so many seconds, or as a cron text says. Pure: it reads no clock.

Moments are milliseconds since 1970, so that every worker comes to the same numbers. A timetable is written as text
beside the stream, where workers of other versions and `streamtask inspect` read it again. Cron texts are in a module of
their own (`cron.py`), which is imported where one is met.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Literal, Protocol

import msgspec

from streamtask.errors import ConfigurationError

#: What becomes of ticks whose time passed while no worker lived: none, one for all of them, each.
Missed = Literal["skip", "once", "all"]

#: The longest interval: a year.
_LONGEST = 366 * 86_400.0
#: The first look back for moments that have passed, in ms; the next ones are twice as long each.
_FIRST_LOOK = 60_000


class Timetable(Protocol):
    """Moments without end."""

    @property
    def text(self) -> str:
        """What `timetable` reads again."""

    def after(self, moment: int) -> int:
        """The first moment of it that is later."""


class Every(msgspec.Struct, frozen=True):
    """Every so many milliseconds, counted from 1970, so that it depends on no worker's start."""

    interval: int

    @property
    def text(self) -> str:
        """See `Timetable.text`."""
        return f"every {self.interval / 1000:.3f}".rstrip("0").rstrip(".")

    def after(self, moment: int) -> int:
        """See `Timetable.after`."""
        return (moment // self.interval + 1) * self.interval


def every(interval: float | timedelta) -> Timetable:
    """Every so many seconds. Raises ConfigurationError where that is less than one, or more than a year."""
    seconds = interval.total_seconds() if isinstance(interval, timedelta) else interval
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (number and 1 <= seconds <= _LONGEST):
        raise ConfigurationError(f"an interval is in seconds, or a timedelta, from 1 s to a year, not {interval!r}")
    return Every(round(seconds * 1000))


def cron(text: str, zone: str) -> Timetable:
    """As a cron text says, by the clocks of a time zone. Raises ConfigurationError where one of both is none."""
    made: Timetable = import_module("streamtask.cron").Cron(text, zone)
    return made


def timetable(text: str) -> Timetable:
    """What was written as text. Raises ConfigurationError where it is something else."""
    kind, _, rest = text.partition(" ")
    if kind == "every":
        try:
            return every(float(rest))
        except ValueError:
            pass
    if kind == "cron":
        zone, _, words = rest.partition(" ")
        return cron(words, zone)
    raise ConfigurationError(f"{text!r} is no timetable")


def passed(table: Timetable, since: int, until: int, *, most: int) -> list[int]:
    """The moments after `since` up to `until`; of more than `most` the last ones, `most` and some."""
    look = _FIRST_LOOK
    while True:
        start = max(since, until - look)
        found = []
        moment = table.after(start)
        while moment <= until:
            found.append(moment)
            moment = table.after(moment)
        if start == since or len(found) >= most:
            return found
        look *= 2


def moment_of(ms: int) -> datetime:
    """A moment as a datetime, in UTC."""
    return datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)
