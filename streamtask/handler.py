"""What a decorated function is: which events it takes, in which group, with which limits. Runs nothing."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from streamtask.context import Context
from streamtask.errors import ConfigurationError
from streamtask.event import Event, describe
from streamtask.gating import Concurrency, gate_of
from streamtask.outcomes import Keeping
from streamtask.retry import Retry
from streamtask.transport.values import Gate

Pool = Literal["async", "thread", "process"]
Dedupe = bool | str | Callable[[Any], str | None]
OnDead = Callable[[Any, "DeadEvent"], Event | Sequence[Event] | None]
#: Seconds for which a de-duplication mark stands.
DEDUPE_WINDOW = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """Seconds for one attempt: `soft` raises `SoftTimeoutError` in the handler, `hard` ends it."""

    soft: float | None = None
    hard: float | None = None

    def __post_init__(self) -> None:
        for name, seconds in (("soft", self.soft), ("hard", self.hard)):
            if seconds is not None and seconds <= 0:
                raise ValueError(f"{name} is in seconds and above 0, got {seconds}")
        if self.soft is not None and self.hard is not None and self.soft >= self.hard:
            raise ValueError(f"soft ({self.soft:g} s) comes before hard ({self.hard:g} s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadEvent:
    """Why an event became a dead letter: what `on_dead` is told."""

    #: A word, as in the dead letter: `max_attempts`, `rejected`...
    reason: str
    #: The last error in words, secrets masked.
    error: str
    #: How often the handler was run on it.
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """One decorated function and its options."""

    #: Module and qualified name of the function.
    name: str
    function: Callable[..., Any]
    events: tuple[type[Event], ...]
    #: Name of the parameter annotated `Context`, or None.
    context: str | None
    #: None: the app's name.
    group: str | None
    start: str | datetime
    retry: Retry
    timeout: Timeout
    #: At most so many at once in one worker.
    concurrency: int | None
    dedupe: Dedupe | None
    dedupe_window: float
    #: What its events go through, across all workers.
    gate: Gate | None
    pool: Pool
    on_dead: OnDead | None
    #: How what it returns is kept; None: it returns events.
    keeping: Keeping | None
    #: Whether who sends its events may cancel them.
    is_task: bool
    #: Whether the function is a coroutine function.
    is_async: bool
    #: Whether it is one that runs on the loop for as long as it likes.
    is_unbounded: bool

    def call(self, event: Event, context: Context | None) -> Any:
        """Call the function: its result, or its coroutine. `context` may be None where it takes none."""
        if self.context is None:
            return self.function(event)
        return self.function(event, **{self.context: context})


def make_handler(
    function: Callable[..., Any],
    events: tuple[type[Event], ...],
    *,
    group: str | None = None,
    start: str | datetime = "earliest",
    retry: Retry | None = None,
    timeout: float | Timeout | None = None,
    concurrency: int | Concurrency | None = None,
    dedupe: Dedupe | None = None,
    dedupe_window: float = DEDUPE_WINDOW,
    ordered_by: str | None = None,
    pool: Pool | None = None,
    on_dead: OnDead | None = None,
    keeping: Keeping | None = None,
    arguments: Collection[str] | None = None,
    is_task: bool = False,
) -> Handler:
    """Read a function's signature and check the options of `@app.on`. `arguments`: names of those of a task's call.

    Raises:
        ConfigurationError: it takes no event, or an option makes no sense; the message names the function.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    hints = hints_of(function, name)
    parameters = list(inspect.signature(function).parameters)
    taken = events or _event_classes(hints.get(parameters[0]) if parameters else None)
    if not taken:
        raise ConfigurationError(f"{name}: which events? Annotate its first parameter or write @app.on(SomeEvent)")
    for event in taken:
        describe(event)
    is_async = inspect.iscoroutinefunction(function)
    chosen: Pool = pool or ("async" if is_async else "thread")
    if chosen not in ("async", "thread", "process"):
        raise ConfigurationError(f"{name}: pool is 'async', 'thread' or 'process', not {pool!r}")
    if (chosen == "async" and not is_async) or (chosen == "thread" and is_async):
        kind = "async" if is_async else "plain"
        raise ConfigurationError(f"{name}: pool={chosen!r} does not go with a function that is {kind}")
    in_worker = concurrency.per_worker if isinstance(concurrency, Concurrency) else concurrency
    if in_worker is not None and in_worker < 1:
        raise ConfigurationError(f"{name}: concurrency is at least 1, got {in_worker}")
    if isinstance(start, str) and start not in ("earliest", "latest"):
        raise ConfigurationError(f"{name}: start is 'earliest', 'latest' or a datetime, not {start!r}")
    if on_dead is not None and (not callable(on_dead) or inspect.iscoroutinefunction(on_dead)):
        raise ConfigurationError(f"{name}: on_dead is a plain function of the event and a DeadEvent, not {on_dead!r}")
    limits = timeout if isinstance(timeout, Timeout) else Timeout(hard=timeout)
    return Handler(
        name=name,
        function=function,
        events=taken,
        context=next((each for each in parameters[1:] if hints.get(each) is Context), None),
        group=group,
        start=start,
        retry=retry or Retry(),
        timeout=limits,
        concurrency=in_worker,
        dedupe=dedupe,
        dedupe_window=dedupe_window,
        gate=gate_of(name, taken, ordered_by=ordered_by, concurrency=concurrency, arguments=arguments),
        pool=chosen,
        on_dead=on_dead,
        keeping=keeping,
        is_task=is_task,
        is_async=is_async,
        is_unbounded=is_async and limits == Timeout(),
    )


def hints_of(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """The annotations of a function as types. Raises ConfigurationError, naming it."""
    try:
        return typing.get_type_hints(function)
    except NameError as error:
        # An annotation of a class that is local to a function: read what can be read.
        hints = getattr(function, "__annotations__", {})
        if any(isinstance(hint, str) for hint in hints.values()):
            scope = {**inspect.getclosurevars(function).nonlocals, **function.__globals__}
            try:
                return {key: eval(hint, scope) if isinstance(hint, str) else hint for key, hint in hints.items()}  # noqa: S307 - the program's own annotations
            except NameError:
                raise ConfigurationError(f"{name}: an annotation cannot be read: {error}") from error
        return dict(hints)


def _event_classes(hint: Any) -> tuple[type[Event], ...]:
    if isinstance(hint, type) and issubclass(hint, Event):
        return (hint,)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = tuple(each for part in typing.get_args(hint) for each in _event_classes(part))
        return found if len(found) == len(typing.get_args(hint)) else ()
    return ()
