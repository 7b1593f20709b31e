"""Rules: tasks that nobody sends, because a timetable does. What a rule is and what its ticks are; it starts nothing.

The ticks themselves are published by the workers (`worker/ticker.py`), each of which comes to the same moments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from typing_extensions import TypedDict

from streamtask.annotations import hints_of, plain
from streamtask.context import Context
from streamtask.dependencies import depends
from streamtask.errors import ConfigurationError
from streamtask.event import Event
from streamtask.gating import Concurrency
from streamtask.handler import Pool, Timeout
from streamtask.rates import RateLimit
from streamtask.retry import Retry
from streamtask.task import Task
from streamtask.timetable import Missed, Timetable, moment_of


@dataclass(frozen=True, slots=True)
class Tick:
    """Which tick of its rule a call is: what a parameter of this type is given."""

    #: The moment that it was due at, in UTC. It runs a little later, and much later where it was missed.
    at: datetime


class RuleOptions(TypedDict, total=False):
    """What `@app.cron` and `@app.every` may be given of what `@app.task` may be."""

    name: str | None
    stream: str | None
    group: str | None
    retry: Retry | None
    timeout: float | Timeout | None
    concurrency: int | Concurrency | None
    rate_limit: str | RateLimit | None
    pool: Pool | None
    result_ttl: float | None


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A task and when it is to run."""

    task: Task[Any, Any, Any, Any]
    table: Timetable
    missed: Missed
    #: The parameter that takes the `Tick`, or None.
    parameter: str | None

    def event(self, at: int) -> Event:
        """The call that is its tick for a moment, in ms."""
        return self.task.call((), {self.parameter: Tick(moment_of(at))} if self.parameter else {})


def tick_parameter(function: Callable[..., Any], name: str) -> str | None:
    """Which parameter of a rule's function takes the `Tick`.

    Raises:
        ConfigurationError: it is a task already, or has parameters that nobody would give it.
    """
    if isinstance(function, Task):
        raise ConfigurationError(
            f"{function.name} is a task already: @app.cron and @app.every make one of a function, each of its own"
        )
    hints = hints_of(function, name)
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and plain(hints.get(parameters[0].name)) is Context:
        del parameters[0]
    given = depends(function, name)
    parameters = [each for each in parameters if each.name not in given]
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    found = next((each.name for each in named if _is_tick(plain(hints.get(each.name)))), None)
    left = [each for each in parameters if each.default is each.empty and each.name != found]
    needed = [each.name for each in left if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if needed:
        raise ConfigurationError(
            f"{name} runs by itself, and nobody gives it {', '.join(needed)}: a rule's function may take its Context "
            "first, a Tick and what it Depends on; all else has a default"
        )
    return found


def _is_tick(hint: Any) -> bool:
    return hint is Tick or (get_origin(hint) in (Union, UnionType) and Tick in get_args(hint))
