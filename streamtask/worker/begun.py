"""Calls of handlers that are begun in one place and end in another."""

from __future__ import annotations

import contextvars
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import msgspec

from streamtask.broker import Run
from streamtask.context import Context


class Begun(msgspec.Struct, eq=False, gc=False):
    """A call that has come to wait for something."""

    run: Run
    #: What is left of it.
    call: Awaitable[Any]
    #: That the handler was given.
    context: Context | None
    #: In which it runs.
    variables: contextvars.Context
    #: When it began, by the monotonic clock.
    since: float


@types.coroutine
def rest(
    coroutine: Coroutine[Any, Any, Any], waits_for: Any, context: contextvars.Context | None = None
) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that has come to wait for something, to its end; its result.

    `context`: where its steps are run; None: where this is awaited.
    """
    step: Callable[[Any], Any]
    while True:
        try:
            argument = yield waits_for
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:  # noqa: BLE001 - passed on, whatever it is
            step, argument = coroutine.throw, error
        else:
            step = coroutine.send
        try:
            waits_for = step(argument) if context is None else context.run(step, argument)
        except StopIteration as end:
            return end.value
