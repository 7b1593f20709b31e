"""Handlers defined away from their app: the same decorator, no broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, TypeVar

from streamtask.event import Event
from streamtask.handler import DEDUPE_WINDOW, Dedupe, Handler, OnDead, Pool, Timeout, make_handler
from streamtask.lifespan import Lifespan, make_lifespan
from streamtask.retry import Retry

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
LifespanT = TypeVar("LifespanT", bound=Callable[..., AsyncIterator[None]])


class Router:
    """A collection of handlers, for `app.include(router)`."""

    def __init__(self) -> None:
        self.handlers: list[Handler] = []
        self.worker_lifespans: list[Lifespan] = []

    def on(
        self,
        *events: type[Event],
        group: str | None = None,
        start: str | datetime = "earliest",
        retry: Retry | None = None,
        timeout: float | Timeout | None = None,
        concurrency: int | None = None,
        dedupe: Dedupe | None = None,
        dedupe_window: float = DEDUPE_WINDOW,
        pool: Pool | None = None,
        on_dead: OnDead | None = None,
    ) -> Callable[[FunctionT], FunctionT]:
        """Make a function the handler of events; returns the function itself.

        `group`: consumer group, by default the app's name. `start`: where a new group begins. `retry`: attempts and
        backoff. `timeout`: seconds for one attempt. `concurrency`: at most this many at once in one worker. `dedupe`:
        effects commit once for each value within `dedupe_window` seconds. `pool`: "async", "thread" or "process".
        `on_dead`: called with the event and a `DeadEvent` when it is given up; what it returns is published in the same
        atomic step that writes the dead letter.
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
                    pool=pool,
                    on_dead=on_dead,
                )
            )
            return function

        return register

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
