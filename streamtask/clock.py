"""Clocks: the only place where the time of day is read.

`now` is for what is stored and shown, `monotonic` for differences: the time of day may jump, a difference must not.
Whoever needs the time is given a `Clock`, so that a test can hand over one that it moves by itself.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> float:
        """Seconds since 1970, UTC. May jump when the machine's time is set."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back. For differences only."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is moved; for tests."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        """Seconds since 1970, as set and advanced."""
        return self._now

    def monotonic(self) -> float:
        """The seconds by which this clock was advanced."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if not seconds >= 0:
            raise ValueError(f"time passes forwards, got {seconds} seconds")
        self._now += seconds
        self._monotonic += seconds

    def set(self, now: float) -> None:
        """Set the time of day, as an operator or NTP does: differences are not touched by it."""
        self._now = now
