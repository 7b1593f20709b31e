"""Handlers defined away from their app: the same decorator, no broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, Concatenate, TypeVar, Unpack, get_args, overload

from streamtask.context import Context
from streamtask.errors import ConfigurationError
from streamtask.event import Event
from streamtask.gating import Concurrency
from streamtask.handler import DEDUPE_WINDOW, Batch, Dedupe, Handler, OnDead, Pool, Timeout, make_handler
from streamtask.lifespan import Lifespan, make_lifespan
from streamtask.middleware import Middleware, checked
from streamtask.rates import RateLimit
from streamtask.retry import Retry
from streamtask.rules import Rule, RuleOptions, tick_parameter
from streamtask.settings import RESULT_TTL
from streamtask.task import P, R, Task, TaskDecorator, TaskOptions
from streamtask.timetable import Missed, Timetable, cron, every

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
LifespanT = TypeVar("LifespanT", bound=Callable[..., AsyncIterator[None]])


class Router:
    """A collection of handlers, for `app.include(router)`.

    `middleware`: around the calls of its handlers and tasks, within that of the app; the first is outermost.
    """

    def __init__(self, *, middleware: Sequence[Middleware] = ()) -> None:
        self.handlers: list[Handler] = []
        self.tasks: list[Task[Any, Any, Any, Any]] = []
        self.rules: list[Rule] = []
        self.worker_lifespans: list[Lifespan] = []
        self.middleware: list[Middleware] = checked(middleware)

    def add_middleware(self, middleware: Middleware) -> None:
        """Have middleware within what there is; before the worker starts, or the router is included.

        Raises:
            ConfigurationError: it is none, or cannot be around one of the handlers.
        """
        found = checked([middleware])
        for handler in self.handlers:
            handler.check_around(found)
        self.middleware += found

    def on(
        self,
        *events: type[Event],
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
    ) -> Callable[[FunctionT], FunctionT]:
        """Make a function the handler of events; returns the function itself.

        `group`: consumer group, by default the app's name. `start`: where a new group begins. `retry`: attempts and
        backoff. `timeout`: seconds for one attempt. `concurrency`: at most this many at once in one worker; a
        `Concurrency`: across all workers. `dedupe`: effects commit once for each value within `dedupe_window` seconds.
        `ordered_by`: a field; events with one value of it run one at a time, in their order, across all workers.
        `batch`: a `Batch`; the function takes a list of events, and fails some of them with `BatchError`.
        `rate_limit`: how often it may start, in all workers together: "100/s", or a `RateLimit`. `pool`: "async",
        "thread" or "process". `on_dead`: called with the event and a `DeadEvent` when it is given up; what it returns
        is published in the same atomic step that writes the dead letter.
        """

        def register(function: FunctionT) -> FunctionT:
            self.add(
                make_handler(
                    function,
                    events,
                    group=group,
                    start=start,
                    retry=retry,
                    timeout=timeout,
                    concurrency=concurrency,
                    dedupe=dedupe,
                    dedupe_window=dedupe_window,
                    ordered_by=ordered_by,
                    batch=batch,
                    rate_limit=rate_limit,
                    pool=pool,
                    on_dead=on_dead,
                )
            )
            return function

        return register

    @overload
    def task(
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> Task[P, R, Concatenate[Context, P], Coroutine[Any, Any, R]]: ...
    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, P, Coroutine[Any, Any, R]]: ...
    @overload
    def task(self, function: Callable[Concatenate[Context, P], R], /) -> Task[P, R, Concatenate[Context, P], R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R, P, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        stream: str | None = None,
        priorities: tuple[str, ...] | None = None,
        group: str | None = None,
        retry: Retry | None = None,
        timeout: float | Timeout | None = None,
        concurrency: int | Concurrency | None = None,
        ordered_by: str | None = None,
        rate_limit: str | RateLimit | None = None,
        pool: Pool | None = None,
        result_ttl: float | None = RESULT_TTL,
    ) -> TaskDecorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        stream: str | None = None,
        priorities: tuple[str, ...] | None = None,
        group: str | None = None,
        retry: Retry | None = None,
        timeout: float | Timeout | None = None,
        concurrency: int | Concurrency | None = None,
        ordered_by: str | None = None,
        rate_limit: str | RateLimit | None = None,
        pool: Pool | None = None,
        result_ttl: float | None = RESULT_TTL,
    ) -> Any:
        """Make a function a task: `add(2, 3)` still calls it, `add.delay(2, 3)` and `await add.send(2, 3)` send it.

        `name`: of the task on the wire, by default module and name of the function. `stream`: by default the app's name
        with "-tasks" behind it. `priorities`: what calls may be sent with, as of an event class. `result_ttl`: seconds
        that what it returns is kept; None: it is not. The others are those of `on`; what `ordered_by` or a
        `Concurrency` names is a parameter. A task that wants its `Context` takes it first.
        """
        handler = {
            "group": group,
            "retry": retry,
            "timeout": timeout,
            "concurrency": concurrency,
            "ordered_by": ordered_by,
            "rate_limit": rate_limit,
            "pool": pool,
        }
        options = TaskOptions(name=name, stream=stream, priorities=priorities, result_ttl=result_ttl, handler=handler)

        def make(function: Callable[..., Any]) -> Task[Any, Any, Any, Any]:
            task: Task[Any, Any, Any, Any] = Task(function, options)
            self.add_task(task)
            return task

        return make if function is None else make(function)

    def cron(
        self, text: str, *, tz: str = "UTC", missed: Missed = "skip", **options: Unpack[RuleOptions]
    ) -> TaskDecorator:
        """Make a function a task that runs by itself, when a cron text says: `@app.cron("*/5 * * * *")`.

        `text`: minute, hour, day, month and weekday; with six fields, seconds first. `tz`: the time zone whose clocks
        are meant, such as "Europe/Berlin". `missed`: what becomes of ticks whose time passes while no worker runs:
        "skip" them, run "once" for all of them, or "all". The other options are those of `task`.

        The function needs no arguments; it may take its `Context` first, and a `Tick`, which tells the moment.

        Raises:
            ConfigurationError: the text or the zone is none, or the function needs arguments.
        """
        return self._rule(lambda: cron(text, tz), missed, options)

    def every(
        self, interval: float | timedelta, *, missed: Missed = "skip", **options: Unpack[RuleOptions]
    ) -> TaskDecorator:
        """Make a function a task that runs by itself, every so many seconds: `@app.every(30)`.

        The moments are counted from 1970 and not from a worker's start: every(30) is each full and each half minute.
        Otherwise it is as `cron`.
        """
        return self._rule(lambda: every(interval), missed, options)

    def _rule(self, make_table: Callable[[], Timetable], missed: Missed, options: RuleOptions) -> TaskDecorator:
        def make(function: Callable[..., Any]) -> Task[Any, Any, Any, Any]:
            name = f"{function.__module__}.{getattr(function, '__qualname__', function)}"
            parameter = tick_parameter(function, name)
            if missed not in get_args(Missed):
                raise ConfigurationError(f"{name}: missed is 'skip', 'once' or 'all', not {missed!r}")
            try:
                table = make_table()
            except ConfigurationError as error:
                raise ConfigurationError(f"{name}: {error}") from None
            task: Task[Any, Any, Any, Any] = self.task(**options)(function)
            self.add_rule(Rule(task=task, table=table, missed=missed, parameter=parameter))
            return task

        return make

    def add_rule(self, rule: Rule) -> None:
        """Take a rule in, whose task has been."""
        self.rules.append(rule)

    def add_task(self, task: Task[Any, Any, Any, Any]) -> None:
        """Take a task in."""
        self.tasks.append(task)

    def add(self, handler: Handler) -> None:
        """Take a handler in."""
        self.handlers.append(handler)

    def worker_lifespan(self, function: LifespanT) -> LifespanT:
        """Have an async generator function of the app run around a worker's life; returns the function itself.

        What is before its `yield` runs once in each process that runs handlers, before it takes the first event; what
        is behind it, after the last: in worker processes, in `async with app.worker()`, in the children of
        `pool="process"` and in the one that a suspect is alone in. Not in the supervisor, nor in a program that only
        publishes. The app is connected. Several are entered in the order of their registration and left in the reverse
        order; a worker of which one fails does not start.

        In a child process the event loop runs only while this function or an async handler does, and what is behind
        the `yield` has five seconds, or does not run at all: where the child is killed.
        """
        self.worker_lifespans.append(make_lifespan(function))
        return function
