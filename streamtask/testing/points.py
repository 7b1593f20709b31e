"""The places at which a handler may be interrupted, and its interruption at one of them.

A handler is driven by hand: a coroutine is resumed from one wait to the next, and the lines of its module are counted
as they run. So a death is what it is in a process that is killed: what the handler would have done next is not done,
and its coroutine is left where it is. Only at a line, and in a plain function, it has to be an exception: `finally` and
`with` blocks do run then.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import linecache
import sys
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

Kind = Literal["line", "wait", "effect", "end"]


_EXITS = ("__exit__", "__aexit__")
_END = "after its effects, before the commit"


class Fault(Enum):
    """What happens at a place."""

    #: The process dies.
    DEATH = "death"
    #: What was done there is done, and raises all the same.
    FAILURE = "failure"
    #: The process is stopped for so long that another one takes the event over, and then goes on.
    PAUSE = "pause"


class Death(BaseException):
    """The process of the handler has died, as far as the handler can tell."""


class LostReplyError(ConnectionError):
    """What a handler is told where its call was carried out and the answer did not come."""


@dataclass(frozen=True, slots=True)
class Point:
    """One place that a run of a handler comes past."""

    kind: Kind
    #: Which of its kind, from 0.
    number: int
    #: For people.
    where: str
    #: Whether the run can be stopped here and go on later.
    can_wait: bool


class Interrupter:
    """Counts the places that one run comes past, and interrupts it at one of them. Used once."""

    def __init__(
        self, file: str, at: Point | None = None, fault: Fault = Fault.DEATH, *, lines: bool = False, tidy: bool = False
    ) -> None:
        """`lines`: lines count as places. `tidy`: a death runs `finally` and `with` blocks, wherever it comes."""
        #: What the run has come past.
        self.points: list[Point] = []
        #: Set when it has come to its place.
        self.reached = asyncio.Event()
        self._file = file
        self._at = at
        self._fault = fault
        self._lines = lines
        self._tidy = tidy
        self._counts: dict[Kind, int] = {}
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._goes_on = asyncio.Event()
        self._thread_goes_on = threading.Event()
        self._task: asyncio.Task[Any] | None = None
        self._left: list[Coroutine[Any, Any, Any]] = []
        self._tidying = _tidying(file)
        self._entered: set[tuple[int, int]] = set()

    # ── for who runs the handler ──────────────────────────────────────────────────────────────────────────────

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, interrupted."""
        if inspect.iscoroutinefunction(function):

            async def driven(*args: Any, **kwargs: Any) -> Any:
                token, others = _current.set(self), asyncio.all_tasks()
                self._task = asyncio.current_task()
                try:
                    returned = await self._drive(function(*args, **kwargs))
                    await self._come_past_waiting("end", _END)
                except Death:
                    # With its process die the tasks that it has begun.
                    for task in asyncio.all_tasks() - others:
                        task.cancel()
                    raise
                finally:
                    _current.reset(token)
                return returned

            return driven

        def traced(*args: Any, **kwargs: Any) -> Any:
            token = _current.set(self)
            try:
                with self._tracing():
                    returned = function(*args, **kwargs)
                self._come_past_blocking("end", _END)
            finally:
                _current.reset(token)
            return returned

        return traced

    def go_on(self) -> None:
        """End the pause."""
        self._goes_on.set()
        self._thread_goes_on.set()

    def bury(self) -> None:
        """Put away the coroutine that a death has left where it was; what it does on the way is nobody's any more."""
        for coroutine in self._left:
            with suppress(Exception):
                coroutine.close()

    # ── places ────────────────────────────────────────────────────────────────────────────────────────────────

    def _passes(self, kind: Kind, where: str, *, can_wait: bool) -> Fault | None:
        """Note a place; what happens there."""
        number = self._counts.get(kind, 0)
        self._counts[kind] = number + 1
        if self._at is None:
            self.points.append(Point(kind, number, where, can_wait))
            return None
        if (kind, number) != (self._at.kind, self._at.number):
            return None
        self._loop.call_soon_threadsafe(self.reached.set)
        return self._fault

    def _come_past_blocking(self, kind: Kind, where: str) -> None:
        """Come to a place in plain code."""
        can_wait = threading.get_ident() != self._loop_thread
        fault = self._passes(kind, where, can_wait=can_wait)
        if fault is Fault.PAUSE:
            self._thread_goes_on.wait()
        elif fault is not None:
            raise _raised(fault)

    async def _come_past_waiting(self, kind: Kind, where: str) -> None:
        """Come to a place in a coroutine."""
        fault = self._passes(kind, where, can_wait=True)
        if fault is Fault.PAUSE:
            await self._goes_on.wait()
        elif fault is not None:
            raise _raised(fault)

    def effect_blocking(self, where: str) -> None:
        """An effect of plain code was recorded."""
        self._come_past_blocking("effect", where)

    async def effect(self, where: str) -> None:
        """An effect of a coroutine was recorded."""
        if asyncio.current_task() is self._task:
            # To the driver, which can leave the handler here. In a task of the handler's own nobody would understand.
            await _Effect(where)

    # ── running ───────────────────────────────────────────────────────────────────────────────────────────────

    @types.coroutine
    def _drive(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run a coroutine from one wait to the next."""
        step: Callable[[Any], Any] = coroutine.send
        argument: Any = None
        while True:
            try:
                with self._tracing():
                    waits_for = step(argument)
            except StopIteration as stop:
                return stop.value
            step, argument = coroutine.send, None
            is_effect = isinstance(waits_for, _Effect)
            where = waits_for.where if is_effect else _place(coroutine, self._file)
            fault = self._passes("effect" if is_effect else "wait", where, can_wait=True)
            if fault is Fault.DEATH:
                self._left.append(coroutine)
                if self._tidy:
                    self.bury()
                raise Death
            if fault is Fault.PAUSE:
                yield from self._goes_on.wait().__await__()
            if fault is Fault.FAILURE:
                step, argument = coroutine.throw, _raised(fault)
            elif not is_effect:
                try:
                    argument = yield waits_for
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - passed on, whatever it is
                    step, argument = coroutine.throw, error

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        """Count the lines of the handler's module that run in this thread."""
        if not self._lines:
            yield
            return
        before = sys.gettrace()
        sys.settrace(self._trace_call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace_call(self, frame: types.FrameType, _: str, __: Any) -> Callable[..., Any] | None:
        return self._trace_line if frame.f_code.co_filename == self._file else None

    def _trace_line(self, frame: types.FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if event == "line" and not self._tidies_up(frame):
            self._come_past_blocking("line", _line(self._file, frame.f_lineno))
        return self._trace_line

    def _tidies_up(self, frame: types.FrameType) -> bool:
        """Whether this line puts something away: an exception here would leave a lock of this process held for ever."""
        line = frame.f_lineno
        if frame.f_code.co_name in _EXITS or line in self._tidying.in_finally:
            return True
        if line not in self._tidying.of_with:
            return False
        # A `with` comes past its own line again as it ends.
        here = id(frame), line
        is_end = here in self._entered
        self._entered.add(here)
        return is_end


class _Effect:
    """What a handler's coroutine waits for after an effect was recorded; the driver knows it."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __await__(self) -> Generator[Any, None, None]:
        yield self


#: Of the handler that runs in this task or thread.
_current: ContextVar[Interrupter | None] = ContextVar("streamtask_interrupter", default=None)


def interrupter() -> Interrupter | None:
    """Who interrupts the code that asks; None: nobody does."""
    return _current.get()


def home_of(function: Callable[..., Any]) -> str:
    """The file whose lines are counted for a handler: that of its module."""
    module = sys.modules.get(function.__module__)
    file: str | None = getattr(module, "__file__", None)
    return file if file is not None else inspect.unwrap(function).__code__.co_filename


def _raised(fault: Fault) -> BaseException:
    return (
        Death()
        if fault is Fault.DEATH
        else LostReplyError("it was carried out, and its reply was lost (a fault of the test)")
    )


def _place(coroutine: Any, file: str) -> str:
    """The line of a file at which a coroutine waits."""
    line = None
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None and frame.f_code.co_filename == file:
            line = frame.f_lineno
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return _line(file, line) if line is not None else "a wait of another module"


@dataclass(frozen=True, slots=True)
class _Tidying:
    """Lines of a file that put something away."""

    in_finally: frozenset[int]
    of_with: frozenset[int]


@functools.lru_cache(maxsize=32)
def _tidying(file: str) -> _Tidying:
    """What of a file puts something away; nothing where it cannot be read."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return _Tidying(frozenset(), frozenset())
    in_finally: set[int] = set()
    of_with: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            for statement in node.finalbody:
                in_finally.update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
        elif isinstance(node, ast.With | ast.AsyncWith):
            of_with.update(range(node.lineno, node.body[0].lineno))
    return _Tidying(frozenset(in_finally), frozenset(of_with))


def _line(file: str, number: int) -> str:
    text = linecache.getline(file, number).strip()
    return f"{Path(file).name}:{number}" + (f" `{text}`" if text else "")
