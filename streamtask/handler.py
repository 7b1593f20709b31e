"""What a decorated function is: which events it takes, in which group, with which limits. Runs nothing."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from streamtask.annotations import hints_of, plain
from streamtask.context import BatchContext, Context
from streamtask.dependencies import Given, Plan, plan
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
    #: At most so many at once in one worker.
    concurrency: int | None
    dedupe: Dedupe | None
    dedupe_window: float
    #: What its events go through, across all workers.
    gate: Gate | None
    #: How many it takes at once; None: one event, and not in a list.
    batch: Batch | None
    #: How often it may start, in all workers together; None: as often as there are events.
    rate_limit: RateLimit | None
    #: Reads a field of an event by its name; of a task's, a parameter.
    read: Callable[[Any, str], Any]
    pool: Pool
    on_dead: OnDead | None
    #: How what it returns is kept; None: it is not.
    keeping: Keeping | None
    #: What it returns as JSON, of a task; None: it returns events. Raises `EventRefusedError`.
    dump: Callable[[Any], bytes] | None
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
    #: Whether nothing is to be done before it is called, nor with what it returns but to publish it.
    is_inline: bool = field(init=False)

    def __post_init__(self) -> None:
        marks = any(describe(event).key for event in self.events) if self.dedupe is None else self.dedupe is not False
        is_limited = self.concurrency is not None or self.rate_limit is not None or self.batch is not None
        # What only passes for a coroutine function may do something before there is a coroutine.
        code = self.function.__code__ if isinstance(self.function, types.FunctionType) else None
        is_coroutine = code is not None and bool(code.co_flags & inspect.CO_COROUTINE)
        is_inline = self.is_unbounded and is_coroutine and self.dump is None and not marks and not is_limited
        object.__setattr__(self, "is_inline", is_inline)

    @property
    def home(self) -> str:
        """The stream beside which its rate limit stands: the first of those that its events come in."""
        return describe(self.events[0]).stream

    @property
    def is_task(self) -> bool:
        """Whether it is a task's: who sends its events may wait for them, and cancel them."""
        return self.dump is not None

    def call(self, event: Event | list[Event], context: Context | BatchContext | None) -> Any:
        """Call the function: its result, or its coroutine. `context` may be None where it takes none.

        A batch handler is called with a list.
        """
        if self.context is None:
            return self.function(event)
        return self.function(event, **{self.context: context})

    def call_with(
        self, event: Event | list[Event], context: Context | BatchContext | None, given: dict[str, Any]
    ) -> Any:
        """The same with what its dependencies have made."""
        if self.context is not None:
            given[self.context] = context
        return self.function(event, **given)

    def check_around(self, middleware: Sequence[Middleware]) -> None:
        """Raise ConfigurationError where middleware cannot be around this handler."""
        if self.batch is not None and around_consume(middleware):
            raise ConfigurationError(
                f"{self.name}: middleware with `consume` is around one event, and a handler with batch= takes several; "
                "have it on routers, and this handler on another one"
            )

    def within(self, middleware: Sequence[Middleware]) -> Handler:
        """The same handler with middleware around it, outside of what it has."""
        self.check_around(middleware)
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
    batch: Batch | None = None,
    rate_limit: str | RateLimit | None = None,
    pool: Pool | None = None,
    on_dead: OnDead | None = None,
    keeping: Keeping | None = None,
    dump: Callable[[Any], bytes] | None = None,
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
    hint = hints.get(first.name) if first else None
    _check_batch(name, batch, hint, hints)
    taken = events or _event_classes(hint if batch is None else _member(hint))
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
    context = next(
        (each for each in parameters if each != first.name and hints.get(each) in (Context, BatchContext)), None
    )
    own = {first.name} if context is None else {first.name, context}
    needs = dependencies or plan(function, name, events=taken, own=own)
    if batch is not None:
        _check_around(name, needs, rate)
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
        batch=batch,
        rate_limit=rate,
        read=read,
        pool=chosen,
        on_dead=on_dead,
        keeping=keeping,
        dump=dump,
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


def _check_around(name: str, needs: Plan | None, rate: RateLimit | None) -> None:
    """Whether what else a batch handler has is for several events too. Raises ConfigurationError, naming it."""
    if rate is not None:
        raise ConfigurationError(f"{name}: rate_limit counts events one by one, and with batch= they come together")
    if needs is not None and needs.asks_for(Given.EVENT, Given.CONTEXT):
        raise ConfigurationError(
            f"{name}: a dependency is given the event or its Context, and with batch= there are many"
        )


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
