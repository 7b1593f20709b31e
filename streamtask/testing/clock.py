"""The clock of an app in memory: it stands still until a test moves it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from streamtask.clock import ManualClock


class FrozenClock(ManualClock):
    """A clock that stands still. Delays, retries, windows and results go by it; what a handler sleeps does not.

    It begins at `now`, by default at the moment at which it was made.
    """

    def __init__(self, now: datetime | float | None = None) -> None:
        super().__init__(time.time() if now is None else _seconds(now))

    @property
    def moment(self) -> datetime:
        """What it shows, in UTC."""
        return datetime.fromtimestamp(self.now(), UTC)

    def set(self, now: datetime | float) -> None:
        """Set the time of day, forwards or back: a moment with a time zone, or seconds since 1970."""
        super().set(_seconds(now))


def _seconds(moment: datetime | float) -> float:
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise ValueError("the clock needs a time zone: datetime(..., tzinfo=UTC)")
    return moment.timestamp()
