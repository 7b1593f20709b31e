"""How often a handler may start, in all workers of its group together: `RateLimit("100/s")`. A value, no counter."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LIMIT = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)/([smh])")
#: Seconds of each unit.
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: Seconds that are added to the unit before it is shared out. Between the moment that is granted and the handler's
#: first line lie a network, an event loop and a busy machine: so much may two starts draw together, and no second,
#: minute or hour has more than the limit and one.
SLACK = 0.03


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most so many starts of a handler: `"100/s"`, `"5/m"`, `"10/h"`; retries are starts, too.

    In all workers of its group together. Starts are spaced evenly, and what was not used is not saved up. `per` names a
    field of the event (of a task, a parameter): each value of it has a limit of its own.
    """

    limit: str
    per: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.limit, str) or (read := _LIMIT.fullmatch(self.limit)) is None or not float(read[1]):
            raise ValueError(f"a rate limit is a number per second, minute or hour, such as '5/m', got {self.limit!r}")
        if self.per is not None and (not isinstance(self.per, str) or not self.per):
            raise ValueError(f"per is the name of a field, got {self.per!r}")

    @property
    def spacing(self) -> float:
        """Seconds from one start to the next."""
        number, unit = self.limit.split("/")
        return (_UNITS[unit] + SLACK) / float(number)
