"""When to run an event again after a failure, and how long to wait.

Values and arithmetic only: no clock, no randomness of its own (it is handed in), no knowledge of handlers. Attempts
count from 1, and the delay of attempt n is what passes between the failure of attempt n and attempt n + 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

#: No delay is longer than this, in seconds, whatever a backoff function answers: 30 days.
MAX_DELAY = 30 * 86400.0

Errors = type[BaseException] | tuple[type[BaseException], ...]


def _check_seconds(name: str, seconds: float) -> None:
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (number and 0 <= seconds <= MAX_DELAY):
        raise ValueError(f"{name} is in seconds, from 0 to {MAX_DELAY:.0f}, got {seconds!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential delays with full jitter.

    After attempt n the ceiling is `base * factor ** (n - 1)`, at most `cap` (seconds): 1, 2, 4 ... 256, 300 by default.
    With jitter the delay is drawn evenly from 0 to the ceiling, so that failures of one moment do not come back in one
    moment; without, it is the ceiling.
    """

    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0
    jitter: bool = True

    def __post_init__(self) -> None:
        _check_seconds("base", self.base)
        _check_seconds("cap", self.cap)
        if not (math.isfinite(self.factor) and self.factor >= 1):
            raise ValueError(f"factor is a number of at least 1, got {self.factor!r}")

    def bounds(self, attempt: int) -> tuple[float, float]:
        """The shortest and the longest delay after this attempt."""
        try:
            ceiling = min(self.cap, self.base * self.factor ** (max(attempt, 1) - 1))
        except OverflowError:
            ceiling = self.cap if self.base else 0.0
        return (0.0 if self.jitter else ceiling), ceiling

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """The seconds to wait after this attempt; `random` gives numbers from 0 to 1."""
        low, high = self.bounds(attempt)
        return low + (high - low) * random()


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a handler runs again after it failed: `Retry(3, backoff=[1, 10], retry_on=OSError)`.

    `max_attempts` counts the first run too. `backoff` is a `Backoff`, a number of seconds, a sequence of them (the last
    one repeats) or a function of the attempt. An error of a class in `give_up_on` is not retried, nor is one of a class
    that is not in `retry_on`.
    """

    max_attempts: int = 5
    _: KW_ONLY
    backoff: Backoff | float | Sequence[float] | Callable[[int], float] = Backoff()
    retry_on: Errors = (Exception,)
    give_up_on: Errors = ()

    def __post_init__(self) -> None:
        if not isinstance(self.max_attempts, int) or isinstance(self.max_attempts, bool) or self.max_attempts < 1:
            raise ValueError(f"max_attempts is a whole number from 1 (the first run counts), got {self.max_attempts!r}")
        object.__setattr__(self, "backoff", _backoff(self.backoff))
        object.__setattr__(self, "retry_on", _classes("retry_on", self.retry_on))
        object.__setattr__(self, "give_up_on", _classes("give_up_on", self.give_up_on))

    def wants(self, error: BaseException) -> bool:
        """Whether an error is one to run again after. How many attempts there were is not asked here."""
        return isinstance(error, self.retry_on) and not isinstance(error, self.give_up_on)

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """The seconds to wait after this attempt has failed, from 0 to `MAX_DELAY`. `random` as for `Backoff`."""
        backoff = self.backoff
        if isinstance(backoff, Backoff):
            seconds = backoff.delay(attempt, random)
        elif isinstance(backoff, Sequence):
            seconds = backoff[min(max(attempt, 1), len(backoff)) - 1]
        elif callable(backoff):
            seconds = backoff(attempt)
        else:
            seconds = backoff
        # A function may answer anything, NaN too, which is neither above 0 nor below.
        return min(float(seconds), MAX_DELAY) if seconds > 0 else 0.0


def _backoff(
    backoff: Backoff | float | Sequence[float] | Callable[[int], float],
) -> Backoff | float | tuple[float, ...] | Callable[[int], float]:
    if isinstance(backoff, Backoff) or callable(backoff):
        return backoff
    if isinstance(backoff, Sequence):
        if isinstance(backoff, str | bytes) or not backoff:
            raise ValueError(f"backoff as a sequence has at least one number of seconds, got {backoff!r}")
        for seconds in backoff:
            _check_seconds("backoff", seconds)
        return tuple(backoff)
    _check_seconds("backoff", backoff)
    return backoff


def _classes(name: str, errors: Errors) -> tuple[type[BaseException], ...]:
    classes = tuple(errors) if isinstance(errors, tuple | list | set | frozenset) else (errors,)
    wrong = [each for each in classes if not (isinstance(each, type) and issubclass(each, BaseException))]
    if wrong:
        raise ValueError(f"{name} is an exception class or a tuple of them, got {wrong[0]!r}")
    return classes
