"""What a decorated function is: which events it takes, in which group, with which limits. Runs nothing."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from streamtask.context import BatchContext, Context
from streamtask.errors import ConfigurationError
from streamtask.event import Event, describe
from streamtask.outcomes import Keeping
from streamtask.retry import Retry

Pool = Literal["async", "thread", "process"]
Dedupe = bool | str | Callable[[Any], str | None]
OnDead = Callable[[Any, "DeadEvent"], Event | Sequence[Event] | None]
#: Seconds for which a de-duplication mark stands.
DEDUPE_WINDOW = 86_400.0
#: The largest batch: what is handled together is settled by one call of a script.
MOST_IN_BATCH = 1000


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


@dataclass(frozen=True, slots=True)
class Batch:
    """How many events a handler takes at once: `size`, or those that came within `wait` seconds of the first."""

    size: int
    wait: float

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or not 1 <= self.size <= MOST_IN_BATCH:
            raise ValueError(f"size is a whole number from 1 to {MOST_IN_BATCH}, got {self.size!r}")
        if not 0 <= self.wait < math.inf:
            raise ValueError(f"wait is in seconds, from 0, got {self.wait}")


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
    #: Name of the parameter annotated `Context` (of a batch handler: `BatchContext`), or None.
    context: str | None
    #: None: the app's name.
    group: str | None
    start: str | datetime
    retry: Retry
    timeout: Timeout
    concurrency: int | None
    dedupe: Dedupe | None
    dedupe_window: float
    #: How many it takes at once; None: one event, and not in a list.
    batch: Batch | None
    pool: Pool
    on_dead: OnDead | None
    #: How what it returns is kept; None: it returns events.
    keeping: Keeping | None
    #: Whether the function is a coroutine function.
    is_async: bool
    #: Whether it is one that runs on the loop for as long as it likes.
    is_unbounded: bool

    def call(self, event: Event | list[Event], context: Context | BatchContext | None) -> Any:
        """Call the function: its result, or its coroutine. `context` may be None where it takes none.

        A batch handler is called with a list.
        """
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
    concurrency: int | None = None,
    dedupe: Dedupe | None = None,
    dedupe_window: float = DEDUPE_WINDOW,
    batch: Batch | None = None,
    pool: Pool | None = None,
    on_dead: OnDead | None = None,
    keeping: Keeping | None = None,
) -> Handler:
    """Read a function's signature and check the options of `@app.on`.

    Raises:
        ConfigurationError: it takes no event, or an option makes no sense; the message names the function.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    hints = hints_of(function, name)
    parameters = list(inspect.signature(function).parameters)
    hint = hints.get(parameters[0]) if parameters else None
    _check_batch(name, batch, hint, hints)
    taken = events or _event_classes(hint if batch is None else _member(hint))
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
    if concurrency is not None and concurrency < 1:
        raise ConfigurationError(f"{name}: concurrency is at least 1, got {concurrency}")
    if isinstance(start, str) and start not in ("earliest", "latest"):
        raise ConfigurationError(f"{name}: start is 'earliest', 'latest' or a datetime, not {start!r}")
    if on_dead is not None and (not callable(on_dead) or inspect.iscoroutinefunction(on_dead)):
        raise ConfigurationError(f"{name}: on_dead is a plain function of the event and a DeadEvent, not {on_dead!r}")
    limits = timeout if isinstance(timeout, Timeout) else Timeout(hard=timeout)
    return Handler(
        name=name,
        function=function,
        events=taken,
        context=next((each for each in parameters[1:] if hints.get(each) in (Context, BatchContext)), None),
        group=group,
        start=start,
        retry=retry or Retry(),
        timeout=limits,
        concurrency=concurrency,
        dedupe=dedupe,
        dedupe_window=dedupe_window,
        batch=batch,
        pool=chosen,
        on_dead=on_dead,
        keeping=keeping,
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


def _check_batch(name: str, batch: Batch | None, hint: Any, hints: Mapping[str, Any]) -> None:
    """Whether what a function takes goes with `batch`. Raises ConfigurationError, naming it."""
    wanted, other = (Context, BatchContext) if batch is None else (BatchContext, Context)
    if other in hints.values():
        with_ = "without" if batch is None else "with"
        raise ConfigurationError(f"{name}: a handler {with_} batch= takes a {wanted.__name__}, no {other.__name__}")
    if batch is None and _event_classes(_member(hint)):
        raise ConfigurationError(f"{name}: it takes a list; give @app.on a batch=Batch(size, wait)")
    if batch is None:
        return
    if not isinstance(batch, Batch):
        raise ConfigurationError(f"{name}: batch is a Batch(size, wait), not {batch!r}")
    if _event_classes(hint):
        raise ConfigurationError(f"{name}: with batch= it takes a list of events; annotate list[...]")


def _member(hint: Any) -> Any:
    """What a list is of, or None."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is list else None


def _event_classes(hint: Any) -> tuple[type[Event], ...]:
    if isinstance(hint, type) and issubclass(hint, Event):
        return (hint,)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = tuple(each for part in typing.get_args(hint) for each in _event_classes(part))
        return found if len(found) == len(typing.get_args(hint)) else ()
    return ()
