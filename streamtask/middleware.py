"""Middleware: code around every publish and every call of a handler, as a call that receives the next call.

There are no hooks before, after or on an error: `try`, `except` and `finally` around `call_next` are these. It is put
together here, and decides nothing about delivery.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from streamtask.context import Context, PublishOptions
from streamtask.errors import ConfigurationError, PublishError
from streamtask.event import Event
from streamtask.transport.values import Outgoing

#: Publishes, what is left of the middleware included; the event id.
PublishNext = Callable[[Event, PublishOptions], Awaitable[str]]
#: Calls the handler, what is left of the middleware included; what it returns.
ConsumeNext = Callable[[Event], Awaitable[Any]]


class Middleware:
    """Code around publishing and around handlers: override one of the methods, or both.

    `App(middleware=[First(), Second()])` has it around all that the app publishes and handles; the first is outermost.
    That of a `Router(middleware=...)` is around the handlers of the router, within that of the app.
    """

    async def publish(self, event: Event, options: PublishOptions, call_next: PublishNext) -> str:
        """Publish an event by `call_next`, changed or as it is; returns the event id.

        `options` are those that `App.publish` was given. An error that is raised here is raised by `App.publish`.
        """
        return await call_next(event, options)

    async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:  # noqa: ARG002 - for who overrides it
        """Have an event handled by `call_next`; returns what the handler does: events, or the value of a task.

        What is raised here is the handler's failure; what is returned takes the place of what the handler returned. The
        call may be repeated, or left out.
        """
        return await call_next(event)


def checked(middleware: Iterable[Middleware]) -> list[Middleware]:
    """Middleware as a list. Raises ConfigurationError for what is none."""
    found = list(middleware)
    for each in found:
        if not isinstance(each, Middleware):
            raise ConfigurationError(f"middleware is an object of a subclass of Middleware, not {each!r}")
        for method in (type(each).publish, type(each).consume):
            if not inspect.iscoroutinefunction(method):
                raise ConfigurationError(f"{method.__qualname__}: middleware is made of `async def` methods")
    return found


def around_publish(middleware: Iterable[Middleware]) -> tuple[Middleware, ...]:
    """Those that have something to do around publishing."""
    return tuple(each for each in middleware if type(each).publish is not Middleware.publish)


def around_consume(middleware: Iterable[Middleware]) -> tuple[Middleware, ...]:
    """Those that have something to do around handlers."""
    return tuple(each for each in middleware if type(each).consume is not Middleware.consume)


async def through(
    middleware: Sequence[Middleware], event: Event, options: PublishOptions, innermost: PublishNext
) -> str:
    """Publish an event through middleware."""
    call_next = innermost
    for each in reversed(middleware):
        call_next = _publish(each, call_next)
    return await call_next(event, options)


class Together:
    """Publishes many events, each through middleware, and at once what has come through.

    `outgoing`: an event and its options as the transport takes them. `store`: publishes some, in order; what the
    transport says of each, which is the event's id where it has a `dedup_key`.
    """

    def __init__(
        self,
        middleware: Sequence[Middleware],
        outgoing: Callable[..., Outgoing],
        store: Callable[[list[Outgoing]], Awaitable[list[str]]],
    ) -> None:
        self._middleware = middleware
        self._outgoing = outgoing
        self._store = store
        #: What has come through: the place of its event, and who waits for it to be stored.
        self._waiting: list[tuple[int, Outgoing, asyncio.Future[str]]] = []
        self._changed = asyncio.Event()

    async def publish(self, events: Sequence[Event], options: PublishOptions) -> list[str]:
        """The event ids, in order. What is raised before the first has been sent keeps all of them from being sent.

        Raises:
            PublishError: `error.unsure` says which are not known to be stored.
        """
        tasks = [
            asyncio.create_task(self._one(place, event, options), name="streamtask-publish")
            for place, event in enumerate(events)
        ]
        for task in tasks:
            task.add_done_callback(lambda _: self._changed.set())
        try:
            await self._until_all_wait(tasks)
            for task in tasks:
                if task.done():
                    task.result()
            while self._waiting:
                await self._send()
                await self._until_all_wait(tasks)
            return _ids(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, place: int, event: Event, options: PublishOptions) -> str:
        # Each has its own: middleware may change them.
        return await through(self._middleware, event, options.copy(), partial(self._innermost, place))

    async def _innermost(self, place: int, event: Event, options: PublishOptions) -> str:
        item = self._outgoing(event, **options)
        stored: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((place, item, stored))
        self._changed.set()
        return await stored

    async def _until_all_wait(self, tasks: Sequence[asyncio.Task[str]]) -> None:
        """Wait until each event has come through, or will not."""
        while True:
            self._changed.clear()
            waiting = {place for place, _, _ in self._waiting}
            if all(task.done() or place in waiting for place, task in enumerate(tasks)):
                return
            await self._changed.wait()

    async def _send(self) -> None:
        sent, self._waiting = sorted(self._waiting, key=lambda waiting: waiting[0]), []
        unsure: dict[int, PublishError] = {}
        told: dict[int, str] = {}
        try:
            told = dict(enumerate(await self._store([item for _, item, _ in sent])))
        except PublishError as error:
            unsure = {place: type(error)(str(error), event_id=event_id) for place, event_id in error.unsure.items()}
        for place, (_, item, stored) in enumerate(sent):
            if stored.done():
                continue
            if place in unsure:
                stored.set_exception(unsure[place])
            else:
                known = told.get(place, item.event_id)
                stored.set_result(item.event_id if item.dedup_key is None else known)


def _ids(tasks: Sequence[asyncio.Task[str]]) -> list[str]:
    """What they returned. Raises what they did: of several `PublishError` one that speaks for all."""
    raised = {place: error for place, task in enumerate(tasks) if (error := task.exception()) is not None}
    unsure = {place: error.event_id for place, error in raised.items() if isinstance(error, PublishError)}
    for error in raised.values():
        if isinstance(error, PublishError):
            error.unsure = unsure
        raise error
    return [task.result() for task in tasks]


async def consume(middleware: Sequence[Middleware], event: Event, ctx: Context, handler: ConsumeNext) -> Any:
    """Have an event handled through middleware, which cannot keep a cancellation to itself."""
    cancelled: asyncio.CancelledError | None = None

    async def innermost(event: Event) -> Any:
        nonlocal cancelled
        try:
            return await handler(event)
        except asyncio.CancelledError as error:
            cancelled = error
            raise

    call_next: ConsumeNext = innermost
    for each in reversed(middleware):
        call_next = _consume(each, ctx, call_next)
    returned = await call_next(event)
    task = asyncio.current_task()
    if cancelled is not None and task is not None and task.cancelling():
        # A handler that was interrupted has done nothing that may be settled.
        raise cancelled
    return returned


def _publish(middleware: Middleware, call_next: PublishNext) -> PublishNext:
    return lambda event, options: middleware.publish(event, options, call_next)


def _consume(middleware: Middleware, ctx: Context, call_next: ConsumeNext) -> ConsumeNext:
    return lambda event: middleware.consume(event, ctx, call_next)
