"""What a decorated function is: which events it takes, in which group, with which limits. Runs nothing."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from streamtask.annotations import hints_of, plain
from streamtask.context import Context
from streamtask.dependencies import Plan, plan
from streamtask.errors import ConfigurationError
from streamtask.event import Event, describe
from streamtask.gating import Concurrency, gate_of
from streamtask.middleware import Middleware, around_consume
from streamtask.outcomes import Keeping
from streamtask.rates import RateLimit
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
    #: How often it may start, in all workers together; None: as often as there are events.
    rate_limit: RateLimit | None
    #: Reads a field of an event by its name; of a task's, a parameter.
    read: Callable[[Any, str], Any]
    pool: Pool
    on_dead: OnDead | None
    #: How what it returns is kept; None: it returns events.
    keeping: Keeping | None
    #: Whether who sends its events may cancel them.
    is_task: bool
    #: What else the function is given; None: nothing.
    dependencies: Plan | None
    #: What its router has around it.
    middleware: tuple[Middleware, ...] = ()
    #: Whether it, or something around it, is given the context.
    wants_context: bool
    #: Whether the function is a coroutine function.
    is_async: bool
    #: Whether it is one that runs on the loop for as long as it likes, with nothing around it.
    is_unbounded: bool

    @property
    def home(self) -> str:
        """The stream beside which its rate limit stands: the first of those that its events come in."""
        return describe(self.events[0]).stream

    def call(self, event: Event, context: Context | None) -> Any:
        """Call the function: its result, or its coroutine. `context` may be None where it takes none."""
        if self.context is None:
            return self.function(event)
        return self.function(event, **{self.context: context})

    def call_with(self, event: Event, context: Context | None, given: dict[str, Any]) -> Any:
        """The same with what its dependencies have made."""
        if self.context is not None:
            given[self.context] = context
        return self.function(event, **given)

    def within(self, middleware: Sequence[Middleware]) -> Handler:
        """The same handler with middleware around it, outside of what it has."""
        around = (*around_consume(middleware), *self.middleware)
        return replace(
            self,
            middleware=around,
            wants_context=self.wants_context or bool(around),
            is_unbounded=self.is_unbounded and not around,
        )


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
    rate_limit: str | RateLimit | None = None,
    pool: Pool | None = None,
    on_dead: OnDead | None = None,
    keeping: Keeping | None = None,
    is_task: bool = False,
    dependencies: Plan | None = None,
    read: Callable[[Any, str], Any] = getattr,
    fields: Collection[str] | None = None,
) -> Handler:
    """Read a function's signature and check the options of `@app.on`.

    `dependencies`: of a function that was read before, whose own signature does not tell them. `read` reads a field of
    an event by its name; `fields` are the names that it knows, by default those of each event.

    Raises:
        ConfigurationError: it takes no event, or a parameter that nothing is known for, or an option makes no sense;
            the message names the function.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    hints = {parameter: plain(hint) for parameter, hint in hints_of(function, name).items()}
    parameters = inspect.signature(function).parameters
    first = next(iter(parameters.values()), None)
    taken = events or _event_classes(hints.get(first.name) if first else None)
    if not taken:
        raise ConfigurationError(f"{name}: which events? Annotate its first parameter or write @app.on(SomeEvent)")
    if first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
        raise ConfigurationError(f"{name} takes no event; its first parameter is the event")
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
    rate = _rate(rate_limit, taken, fields, name)
    limits = timeout if isinstance(timeout, Timeout) else Timeout(hard=timeout)
    context = next((each for each in parameters if each != first.name and hints.get(each) is Context), None)
    own = {first.name} if context is None else {first.name, context}
    needs = dependencies or plan(function, name, events=taken, own=own)
    return Handler(
        name=name,
        function=function,
        events=taken,
        context=context,
        group=group,
        start=start,
        retry=retry or Retry(),
        timeout=limits,
        concurrency=in_worker,
        dedupe=dedupe,
        dedupe_window=dedupe_window,
        gate=gate_of(name, taken, ordered_by=ordered_by, concurrency=concurrency, arguments=fields),
        rate_limit=rate,
        read=read,
        pool=chosen,
        on_dead=on_dead,
        keeping=keeping,
        is_task=is_task,
        dependencies=needs,
        wants_context=context is not None or needs is not None,
        is_async=is_async,
        is_unbounded=is_async and limits == Timeout() and needs is None,
    )


def _rate(
    limit: str | RateLimit | None, events: Sequence[type[Event]], fields: Collection[str] | None, name: str
) -> RateLimit | None:
    """A rate limit whose field is one of each event. Raises ConfigurationError, naming the function."""
    if limit is None:
        return None
    try:
        rate = limit if isinstance(limit, RateLimit) else RateLimit(limit)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None
    for event in events if rate.per is not None else ():
        known = event.model_fields if fields is None else fields
        if rate.per not in known:
            raise ConfigurationError(
                f"{name}: rate_limit is per {rate.per!r}, which {describe(event).type} does not have; it has "
                f"{', '.join(known) or 'none'}"
            )
    return rate


def _event_classes(hint: Any) -> tuple[type[Event], ...]:
    if isinstance(hint, type) and issubclass(hint, Event):
        return (hint,)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = tuple(each for part in typing.get_args(hint) for each in _event_classes(part))
        return found if len(found) == len(typing.get_args(hint)) else ()
    return ()
