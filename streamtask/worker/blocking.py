"""Blocking code under an event loop: what it raises into the loop, and how it runs in the loop's own thread.

In a child process a plain handler has the main thread to itself, with no loop running in it: that is where libraries
keep their contexts and where the soft timeout rings. What stands around it is awaited all the same, so the loop stops
for the handler and goes on after it.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

_ALARM = (signal.SIGUSR1,)


def as_coroutines_do(call: Callable[[], Any]) -> Any:
    """Call it; what would mean something to those who wait for it becomes an error, as it does within a coroutine.

    Before Python 3.12 a future that is given a StopIteration is never done, and a GeneratorExit closes who awaits it.
    """
    try:
        return call()
    except (StopIteration, GeneratorExit) as error:
        raise RuntimeError(f"the handler raised {type(error).__name__}") from error


class MainThread:
    """Runs coroutines, one at a time, and stops the loop for their blocking parts."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._calls: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._turn: asyncio.Future[None] | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any], *, alarmed: bool) -> Any:
        """Run a coroutine to its end. `alarmed`: a soft timeout may ring; it is heard in a blocking part only."""
        if not alarmed:
            return self._run(coroutine)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALARM)
        try:
            return self._run(coroutine)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def here(self, call: Callable[[], Any]) -> Awaitable[Any]:
        """From the coroutine that runs: call this in the thread of the loop, while the loop stands still."""
        answer = self._runner.get_loop().create_future()
        self._calls.append((partial(contextvars.copy_context().run, call), answer))
        self._wake()
        return answer

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        loop = self._runner.get_loop()
        task = loop.create_task(coroutine)
        task.add_done_callback(self._wake)
        try:
            while not task.done():
                self._turn = loop.create_future()
                loop.run_until_complete(self._turn)
                while self._calls:
                    self._do(*self._calls.popleft())
        except BaseException:
            # SystemExit goes through the loop, too; here it is known.
            if task.done() and not task.cancelled():
                task.exception()
            raise
        return task.result()

    @staticmethod
    def _do(call: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALARM)
            returned = as_coroutines_do(call)
        except BaseException as error:  # noqa: BLE001 - passed on, whatever it is
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            if not answer.done():
                answer.set_exception(error)
        else:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            if not answer.done():
                answer.set_result(returned)

    def _wake(self, _: object = None) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)
