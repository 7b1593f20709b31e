"""One run → one outcome: check for a duplicate, call the handler within its time, ask the broker what it means."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from streamtask.broker import Broker, Run
from streamtask.context import Application, BatchContext, Context, decode_state
from streamtask.errors import ConfigurationError, HandlerTimeoutError, LeaseLostError, WorkerLostError
from streamtask.event import Event
from streamtask.middleware import Middleware, consume
from streamtask.steps import Collect, collected
from streamtask.telemetry import logs
from streamtask.transport.values import Done, Mark, Outcome
from streamtask.worker.begun import Begun
from streamtask.worker.blocking import as_coroutines_do
from streamtask.worker.checkpoints import Checkpoints
from streamtask.worker.group_values import Values
from streamtask.worker.isolation import Isolation
from streamtask.worker.leases import Leases
from streamtask.worker.provider import Provider
from streamtask.worker.timeouts import SoftTimeout, ThreadAlarm

log = logging.getLogger(__name__)

#: Crashes after which a suspect is given up that no process can be started for.
_POISON_LIMIT = 5

T = TypeVar("T")
AnyContext = Context | BatchContext | None
#: Answers whether a de-duplication mark stands: group, (stream, mark).
Seen = Callable[[str, tuple[str, str]], Awaitable[bool]]
#: Answers whether a task is cancelled.
IsCancelled = Callable[[Run], Awaitable[bool]]


class Executor:
    """Runs handlers: on the loop, in threads, in child processes. One instance a worker."""

    def __init__(
        self,
        app: Application,
        broker: Broker,
        leases: Leases,
        seen: Seen,
        is_cancelled: IsCancelled,
        *,
        values: Values,
        isolation: Isolation,
        checkpoints: Checkpoints,
        provider: Provider,
        middleware: tuple[Middleware, ...] = (),
        threads: int,
    ) -> None:
        self._app = app
        self._broker = broker
        self.leases = leases
        self.seen = seen
        self._is_cancelled = is_cancelled
        self._values = values
        self.isolation = isolation
        self._checkpoints = checkpoints
        self._provider = provider
        #: The app's, around all handlers.
        self._middleware = middleware
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="streamtask-handler")
        self._counting = threading.Lock()
        self._in_threads = 0

    async def execute(self, run: Run) -> Outcome:
        """Run a handler to its outcome.

        Raises:
            LeaseLostError: the lease was lost meanwhile; there is nothing to settle.
        """
        delivery, envelope = run.delivery, run.envelope
        logs.bind((envelope, delivery))
        try:
            if run.flow is not None and run.flow.collect is not None:
                run = await self._collected(run, run.flow.collect)
            event = self._broker.event(run)
            handler, context = run.handler, None
            mark = self._broker.mark(run, event)
            if (mark or handler.dump is not None) and (moot := await self._moot(run, mark)):
                return moot
            if (run.alone or handler.pool == "process") and (outcome := await self.apart(run, self._isolated(run))):
                return outcome
            if handler.wants_context or self._middleware:
                context = await self._context(run)
            if not handler.is_unbounded or self._middleware:
                call = self._around(run, event, context)
            else:
                call = handler.function(event) if context is None else handler.call(event, context)
            return self._broker.succeed(run, context, await call, mark)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its failure, SystemExit included
            return self._failed(run, error)

    async def go_on(self, run: Run, begun: Begun) -> Outcome:
        """The same of a handler that was called already: what is left of it."""
        try:
            return self._broker.succeed(run, begun.context, await begun.call, None)
        except BaseException as error:  # noqa: BLE001 - as above
            return self._failed(run, error)

    def _failed(self, run: Run, error: BaseException) -> Outcome:
        """What an error means to the event. Raised again: it is the end of the task that handles it."""
        if isinstance(error, asyncio.CancelledError):
            if self.leases.is_lost(run.delivery):
                raise LeaseLostError(run.delivery.entry_id, run.delivery.owner) from None
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise error
            # Nobody cancelled us: something that the handler awaited was cancelled, and it let that through.
        return self._broker.fail(run, error)

    async def _context(self, run: Run) -> Context:
        """What a handler is given beside its event, with what an earlier delivery of it has checkpointed."""
        delivery = run.delivery
        context = Context(run.envelope, delivery.attempt, self._app, delivery, self._checkpoints)
        if delivery.deliveries > 1:
            context.state = decode_state(await self._state(run))
        return context

    async def _collected(self, run: Run, collect: Collect) -> Run:
        """A call that takes the values of a group, with them. Raises `PayloadError` where some are gone."""
        envelope, values = run.envelope, await self._values(run.delivery.stream, collect.group)
        payload = msgspec.Raw(collected(envelope.payload_bytes, collect, values))
        return msgspec.structs.replace(run, envelope=msgspec.structs.replace(envelope, payload_json=payload))

    async def _moot(self, run: Run, mark: Mark | None) -> Outcome | None:
        """The outcome of a run that is not to be begun: a duplicate, or a task that nobody wants any more."""
        delivery = run.delivery
        if run.handler.is_task and await self._is_cancelled(run):
            return self._broker.cancel(run)
        if mark and not mark.replace and await self.seen(delivery.group, (delivery.stream, mark.name)):
            # Without effects the settle script finds the mark and acks: a duplicate.
            return Done(mark=mark)
        return None

    async def _state(self, run: Run) -> bytes | None:
        """What an earlier delivery has checkpointed, where there was one and the handler can ask for it."""
        if run.delivery.deliveries == 1 or not (run.handler.wants_context or self._middleware):
            return None
        return await self._checkpoints.load(run.delivery)

    async def _isolated(self, run: Run) -> Outcome:
        return await self.isolation.handle(run, self._checkpoints, await self._state(run))

    async def apart(self, run: Run, isolated: Awaitable[T]) -> T | None:
        """What becomes of a run in a child process; None where it has to run here."""
        if run.alone:
            log.warning("event.isolated", extra={"entry_id": run.delivery.entry_id, "crashes": run.delivery.crashes})
        try:
            return await isolated
        except ConfigurationError as error:
            if run.handler.pool == "process":
                raise
            if run.delivery.crashes >= _POISON_LIMIT:
                raise WorkerLostError(
                    f"{run.delivery.crashes} processes died while they may have been running it, "
                    f"and it cannot run in a process of its own: {error}"
                ) from error
            log.warning("event.not_isolated", extra={"entry_id": run.delivery.entry_id, "error": str(error)})
            return None

    def _around(self, run: Run, event: Event, context: Context | None) -> Awaitable[Any]:
        """The call with the middleware around it, whose time is its own: it sees what a timeout raises."""
        middleware = (*self._middleware, *run.handler.middleware)
        if context is None or not middleware:
            return self.within(run, event, context)
        return consume(middleware, event, context, lambda event: self.within(run, event, context))

    async def within(self, run: Run, event: Event | list[Event], context: AnyContext) -> Any:
        """What a handler returns within its time; the first run of a batch stands for all.

        What cannot be ended (a thread, an async handler that blocks or ignores its cancellation) is waited for, with
        its lease held, and has timed out all the same: nothing may run beside it.
        """
        hard = run.handler.timeout.hard
        call = self._call(run, event, context)
        if hard is None:
            return await call
        started = time.monotonic()
        if run.handler.pool == "thread":
            returned = await call
        else:
            try:
                async with asyncio.timeout(hard) as timer:
                    returned = await call
            except TimeoutError:
                if timer.expired():
                    raise HandlerTimeoutError(hard) from None
                raise
        if time.monotonic() - started > hard:
            raise HandlerTimeoutError(hard)
        return returned

    async def _call(self, run: Run, event: Event | list[Event], context: AnyContext) -> Any:
        handler, soft = run.handler, run.handler.timeout.soft
        if handler.is_async:
            coroutine = self._awaited(run, event, context)
            return await (coroutine if soft is None else SoftTimeout(coroutine, soft))
        in_time = self._in_thread if soft is None else functools.partial(self._in_thread_within, soft)
        if handler.dependencies is None:
            return await in_time(functools.partial(handler.call, event, context))
        return await self._provider.blocked(
            handler.dependencies,
            event,
            context,
            functools.partial(handler.call_with, event, context),
            blocking=self._in_thread,
            last=in_time,
            hard=handler.timeout.hard,
        )

    def _awaited(self, run: Run, event: Event | list[Event], context: AnyContext) -> Any:
        handler = run.handler
        if handler.dependencies is None:
            return handler.call(event, context)
        call = functools.partial(handler.call_with, event, context)
        return self._provider.awaited(handler.dependencies, event, context, call, blocking=self._in_thread)

    async def _in_thread_within(self, soft: float, call: Callable[[], Any]) -> Any:
        alarm = ThreadAlarm()
        timer = asyncio.get_running_loop().call_later(soft, alarm.ring)
        try:
            return await self._in_thread(functools.partial(alarm.run, call))
        finally:
            timer.cancel()

    def _in_thread(self, call: Callable[[], Any]) -> Awaitable[Any]:
        call = functools.partial(contextvars.copy_context().run, call)
        running = self._threads.submit(as_coroutines_do, call)
        with self._counting:
            self._in_threads += 1
        running.add_done_callback(self._thread_ended)
        return asyncio.wrap_future(running)

    def _thread_ended(self, _: Future[Any]) -> None:
        # Called in the thread.
        with self._counting:
            self._in_threads -= 1

    @property
    def threads_running(self) -> int:
        """Handlers that run in threads now, also those whose task was cancelled."""
        return self._in_threads

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
