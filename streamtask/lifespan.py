"""Worker lifespans: what a process makes before it handles events, and takes down after it has handled the last.

An async generator function of the app, which yields once. `Lifespans` enters those of one process in the order in which
they were registered and leaves them in the reverse order. It decides nothing about events and connects nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from streamtask.context import Application
from streamtask.errors import ConfigurationError, StreamtaskError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lifespan:
    """One decorated function."""

    #: Module and qualified name of the function.
    name: str
    function: Callable[[Any], AsyncGenerator[None]]


def make_lifespan(function: Callable[..., AsyncIterator[None]]) -> Lifespan:
    """Check what `@app.worker_lifespan` is given.

    Raises:
        ConfigurationError: it is no async generator function; the message names it.
    """
    name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
    if not inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{name}: a worker lifespan is an `async def` that takes the app and yields once")
    return Lifespan(name, function)


class Lifespans:
    """The lifespans of one process. Entered and left by the same task."""

    def __init__(self, app: Application, lifespans: Iterable[Lifespan]) -> None:
        self._app = app
        self._lifespans = list(lifespans)
        self._entered = AsyncExitStack()

    async def enter(self) -> None:
        """Run each up to its `yield`. Where one fails, those before it are left.

        Raises:
            ConfigurationError: one says that the program or its settings are wrong, or does not yield.
            StreamtaskError: one failed with another error, which is logged.
        """
        try:
            for lifespan in self._lifespans:
                await self._enter(lifespan)
        except BaseException:
            await self.leave()
            raise

    async def leave(self) -> None:
        """Run each from its `yield` to its end, the last one first. What fails is logged, and the rest still left."""
        await self._entered.aclose()

    async def _enter(self, lifespan: Lifespan) -> None:
        running = lifespan.function(self._app)
        try:
            await anext(running)
        except StopAsyncIteration:
            raise ConfigurationError(f"{lifespan.name}: a worker lifespan yields once; this one ended first") from None
        except ConfigurationError as error:
            raise ConfigurationError(f"{lifespan.name}: {error}") from error
        except Exception as error:
            log.exception("lifespan.failed", extra={"lifespan": lifespan.name})
            raise StreamtaskError(f"the worker lifespan {lifespan.name} failed: {error!r}") from error
        self._entered.push_async_callback(self._leave, lifespan, running)

    @staticmethod
    async def _leave(lifespan: Lifespan, running: AsyncGenerator[None]) -> None:
        try:
            await anext(running)
        except StopAsyncIteration:
            return
        except Exception:
            log.exception("lifespan.left_badly", extra={"lifespan": lifespan.name})
            return
        log.error("lifespan.left_badly", extra={"lifespan": lifespan.name, "error": "it yields more than once"})
        await running.aclose()
