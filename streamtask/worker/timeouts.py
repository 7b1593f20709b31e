"""Soft timeouts: raising `SoftTimeoutError` inside a handler that is still running, in a coroutine or in a thread.

A handler in a child process has its own way (`sandbox_child`). Hard timeouts end a handler from outside and are the
executor's.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from streamtask.errors import SoftTimeoutError


class SoftTimeout:
    """Awaiting this runs a coroutine and raises `SoftTimeoutError` at the place where it waits after `seconds`.

    What it waited for then is cancelled, as at any timeout. It works through a cancellation of the task that is turned
    into the error on its way in; a cancellation from elsewhere (a hard timeout, a lost lease) takes precedence.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], seconds: float) -> None:
        self._coroutine = coroutine
        self._seconds = seconds
        self._rang = False

    def __await__(self) -> Generator[Any, Any, Any]:
        """Drive the coroutine, one wait after the other."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a soft timeout belongs in a task")
        timer = asyncio.get_running_loop().call_later(self._seconds, self._ring, task)
        raised: BaseException | None = None
        try:
            while True:
                try:
                    waits_for = self._coroutine.send(None) if raised is None else self._coroutine.throw(raised)
                except StopIteration as stop:
                    return stop.value
                raised = None
                try:
                    yield waits_for
                except GeneratorExit:
                    self._coroutine.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - passed on to the coroutine, whatever it is
                    raised = self._translated(error, task)
        finally:
            timer.cancel()

    def _ring(self, task: asyncio.Task[Any]) -> None:
        self._rang = True
        task.cancel()

    def _translated(self, error: BaseException, task: asyncio.Task[Any]) -> BaseException:
        if not self._rang or not isinstance(error, asyncio.CancelledError):
            return error
        self._rang = False
        if task.uncancel() > 0:
            return error
        return SoftTimeoutError(f"the handler ran longer than its soft timeout of {self._seconds:g} s")


class ThreadAlarm:
    """Runs a function in a thread, in which `ring` raises `SoftTimeoutError` while the function runs.

    The interpreter raises it between two bytecodes: a call that blocks in C is not interrupted, the error comes when it
    returns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._rang = False

    def run(self, function: Callable[[], Any]) -> Any:
        """Call the function in this thread."""
        with self._lock:
            self._thread = threading.get_ident()
        try:
            return function()
        finally:
            with self._lock:
                thread, self._thread = self._thread, None
            if self._rang and thread is not None:
                # Not delivered yet: it must not hit what this thread does next.
                _raise_in(thread, None)

    def ring(self) -> None:
        """Raise in the thread, if the function still runs."""
        with self._lock:
            if self._thread is not None:
                self._rang = True
                _raise_in(self._thread, SoftTimeoutError)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    raised = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
