"""What handlers are given beside their events: made for a call and put away after it, or kept for the process.

Functions that are awaited run on the event loop, plain ones where blocking code may run; what is made last is put away
first. What is put away learns of an exception and cannot make it unhappened. Decides on no outcome: what a dependency
raises is raised in the place of the handler's call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from streamtask.context import Application, BatchContext, Context
from streamtask.dependencies import Call, Given, Needs, Overrides, Plan
from streamtask.errors import ConfigurationError, HandlerTimeoutError, StreamtaskError
from streamtask.event import Event

log = logging.getLogger(__name__)

#: Runs blocking code where it may block; what it returns.
Blocking = Callable[[Callable[[], Any]], Awaitable[Any]]


class Provider:
    """Makes what the handlers of one process are given. Belongs to one event loop.

    `overrides`: looked at anew for each call. `blocking`: where plain functions of what is made once a process run.
    """

    def __init__(self, app: Application, overrides: Overrides, blocking: Blocking) -> None:
        self._app = app
        self._overrides = overrides
        self._blocking = blocking
        self._kept: dict[Callable[..., Any], Any] = {}
        self._open = AsyncExitStack()
        self._keeping = asyncio.Lock()

    async def prepare(self, plans: Iterable[Plan]) -> None:
        """Make what these handlers share, before they take events. Where one fails, those before it are put away.

        Raises:
            ConfigurationError: one says that the program or its settings are wrong.
            StreamtaskError: one failed with another error, which is logged.
        """
        try:
            for each in plans:
                for call in self._current(each).of_process():
                    await self._prepared(call)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Put away what was made once a process, the last first. What fails is logged, and the rest still put away."""
        self._kept.clear()
        await self._open.aclose()

    async def awaited(
        self,
        plan: Plan,
        event: Event | list[Event],
        context: Context | BatchContext | None,
        function: Callable[[dict[str, Any]], Awaitable[Any]],
        *,
        blocking: Blocking,
    ) -> Any:
        """Await a function of what the plan names. `blocking`: where its plain dependencies run."""
        values, stack = _Values(self._app, event, context), AsyncExitStack()
        try:
            needs = self._current(plan).needs
            given = {name: await self._value(each, values, stack, blocking) for name, each in needs}
            returned = await function(given)
        except BaseException as error:
            # It may raise another error. To swallow this one is not for it: what has failed must not count as done.
            await stack.__aexit__(type(error), error, error.__traceback__)
            raise
        await stack.aclose()
        return returned

    async def blocked(
        self,
        plan: Plan,
        event: Event | list[Event],
        context: Context | BatchContext | None,
        function: Callable[[dict[str, Any]], Any],
        *,
        blocking: Blocking,
        last: Blocking,
        hard: float | None = None,
    ) -> Any:
        """Have a plain function called by `last`, its plain dependencies with it, after those that are awaited.

        These may take `hard` seconds. Raises HandlerTimeoutError.
        """
        values, stack = _Values(self._app, event, context), AsyncExitStack()
        try:
            needs = self._current(plan).needs
            await self._ahead_within(hard, needs, values, stack, blocking)
            returned = await last(partial(_in_place, needs, values, function))
        except BaseException as error:
            # As above.
            await stack.__aexit__(type(error), error, error.__traceback__)
            raise
        await stack.aclose()
        return returned

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────

    def _current(self, plan: Plan) -> Plan:
        return plan.under(self._overrides) if self._overrides else plan

    async def _value(self, source: Given | Call, values: _Values, stack: AsyncExitStack, blocking: Blocking) -> Any:
        if isinstance(source, Given):
            return values.given(source)
        if source not in values.made:
            if source.scope == "process":
                values.made[source] = await self._shared(source)
            else:
                arguments = {name: await self._value(each, values, stack, blocking) for name, each in source.needs}
                values.made[source] = await _make(source, arguments, stack, blocking)
        return values.made[source]

    async def _ahead_within(
        self, hard: float | None, needs: Needs, values: _Values, stack: AsyncExitStack, blocking: Blocking
    ) -> None:
        try:
            async with asyncio.timeout(hard) as timer:
                await self._ahead(needs, values, stack, blocking)
        except TimeoutError:
            if timer.expired():
                raise HandlerTimeoutError(hard or 0.0) from None
            raise

    async def _ahead(self, needs: Needs, values: _Values, stack: AsyncExitStack, blocking: Blocking) -> None:
        """Make what has to be awaited, and what that needs."""
        for _, source in needs:
            if isinstance(source, Given):
                continue
            if source.scope == "process" or source.kind in ("async", "async generator"):
                await self._value(source, values, stack, blocking)
            else:
                await self._ahead(source.needs, values, stack, blocking)

    async def _shared(self, call: Call) -> Any:
        """What is made once a process: by now, or now, where an override came later than the worker."""
        if call.function not in self._kept:
            async with self._keeping:
                await self._keep(call)
        return self._kept[call.function]

    async def _keep(self, call: Call) -> None:
        if call.function in self._kept:
            return
        arguments: dict[str, Any] = {}
        for name, source in call.needs:
            if isinstance(source, Call):
                await self._keep(source)
            arguments[name] = self._kept[source.function] if isinstance(source, Call) else self._app
        stack = AsyncExitStack()
        self._kept[call.function] = await _make(call, arguments, stack, self._blocking)
        self._open.push_async_callback(_put_away_logged, call.name, stack)

    async def _prepared(self, call: Call) -> None:
        try:
            await self._shared(call)
        except ConfigurationError as error:
            raise ConfigurationError(f"{call.name}: {error}") from error
        except Exception as error:
            log.exception("dependency.failed", extra={"dependency": call.name})
            raise StreamtaskError(f"the dependency {call.name} failed: {error!r}") from error


class _Values:
    """What was given and made for one call of a handler."""

    __slots__ = ("_app", "_context", "_event", "made")

    def __init__(self, app: Application, event: Event | list[Event], context: Context | BatchContext | None) -> None:
        self._app = app
        self._event = event
        self._context = context
        self.made: dict[Call, Any] = {}

    def given(self, source: Given) -> Any:
        """What no function has to make."""
        if source is Given.EVENT:
            return self._event
        return self._context if source is Given.CONTEXT else self._app


async def _make(call: Call, arguments: dict[str, Any], stack: AsyncExitStack, blocking: Blocking) -> Any:
    """Call a dependency; what there is to put away goes onto the stack."""
    if call.kind == "async":
        return await call.function(**arguments)
    if call.kind == "async generator":
        return await stack.enter_async_context(asynccontextmanager(call.function)(**arguments))
    if call.kind == "plain":
        return await blocking(partial(call.function, **arguments))
    manager = contextmanager(call.function)(**arguments)
    # Cancelled, it goes on in its thread: what it opens then has to be put away all the same.
    entering = asyncio.ensure_future(blocking(manager.__enter__))
    stack.push_async_exit(partial(_leave, entering, manager.__exit__, blocking))
    return await asyncio.shield(entering)


async def _leave(entering: asyncio.Future[Any], leave: Callable[..., Any], blocking: Blocking, *error: Any) -> bool:
    await asyncio.wait({entering})
    if entering.cancelled() or entering.exception() is not None:
        return False
    swallowed: bool = await blocking(partial(leave, *error))
    return swallowed


def _in_place(needs: Needs, values: _Values, function: Callable[[dict[str, Any]], Any]) -> Any:
    """Call a function with its dependencies, where all that is awaited has been made."""
    stack = ExitStack()
    try:
        returned = function({name: _here(source, values, stack) for name, source in needs})
    except BaseException as error:
        # As where it is awaited.
        stack.__exit__(type(error), error, error.__traceback__)
        raise
    stack.close()
    return returned


def _here(source: Given | Call, values: _Values, stack: ExitStack) -> Any:
    if isinstance(source, Given):
        return values.given(source)
    if source not in values.made:
        arguments = {name: _here(each, values, stack) for name, each in source.needs}
        if source.kind == "generator":
            values.made[source] = stack.enter_context(contextmanager(source.function)(**arguments))
        else:
            values.made[source] = source.function(**arguments)
    return values.made[source]


async def _put_away_logged(name: str, stack: AsyncExitStack) -> None:
    try:
        await stack.aclose()
    except Exception:
        log.exception("dependency.left_badly", extra={"dependency": name})
