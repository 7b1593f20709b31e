"""Handlers defined away from their app: the same decorator, no broker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from streamtask.event import Event
from streamtask.handler import DEDUPE_WINDOW, Dedupe, Handler, Pool, Timeout, make_handler
from streamtask.retry import Retry

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class Router:
    """A collection of handlers, for `app.include(router)`."""

    def __init__(self) -> None:
        self.handlers: list[Handler] = []

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
    ) -> Callable[[FunctionT], FunctionT]:
        """Make a function the handler of events; returns the function itself.

        `group`: consumer group, by default the app's name. `start`: where a new group begins. `retry`: attempts and
        backoff. `timeout`: seconds for one attempt. `concurrency`: at most this many at once in one worker. `dedupe`:
        effects commit once for each value within `dedupe_window` seconds. `pool`: "async", "thread" or "process".
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
                )
            )
            return function

        return register

    def add(self, handler: Handler) -> None:
        """Take a handler in."""
        self.handlers.append(handler)
