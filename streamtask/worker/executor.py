"""One delivery → one outcome: decode, check for a duplicate, call the handler within its time, ask the broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from streamtask.broker import Broker, Run
from streamtask.context import Application, Context
from streamtask.errors import HandlerTimeoutError, LeaseLostError
from streamtask.event import Event
from streamtask.telemetry import logs
from streamtask.transport.port import Delivery, Done, Outcome, TypeVersion
from streamtask.worker.leases import Leases

#: Answers whether a de-duplication mark stands: (group, stream, mark).
Seen = Callable[[str, str, str], Awaitable[bool]]


class Executor:
    """Runs handlers. One instance a worker."""

    def __init__(self, app: Application, broker: Broker, leases: Leases, seen: Seen, threads: int) -> None:
        self._app = app
        self._broker = broker
        self._leases = leases
        self._seen = seen
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="streamtask-handler")

    async def execute(self, delivery: Delivery, interest: Collection[TypeVersion]) -> Outcome:
        """Run one delivery to its outcome.

        Raises:
            LeaseLostError: the lease was lost meanwhile; there is nothing to settle.
        """
        plan = self._broker.plan(delivery, interest)
        if not isinstance(plan, Run):
            return plan
        envelope = plan.envelope
        token = logs.bind(
            event_id=envelope.event_id,
            event_type=envelope.event_type,
            trace_id=envelope.trace_id,
            attempt=delivery.attempt,
            stream=delivery.stream,
            group=delivery.group,
        )
        try:
            return await self._handle(plan)
        finally:
            logs.unbind(token)

    async def _handle(self, run: Run) -> Outcome:
        delivery = run.delivery
        try:
            event = self._broker.event(run)
            mark = self._broker.mark(run, event)
            if mark and not mark.replace and await self._seen(delivery.group, delivery.stream, mark.name):
                # Without effects the settle script finds the mark and acks: a duplicate.
                return Done(mark=mark)
            context = Context(run.envelope, delivery.attempt, self._app)
            returned = await self._within(run, event, context)
            return self._broker.succeed(run, context, returned, mark)
        except asyncio.CancelledError:
            if self._leases.is_lost(delivery):
                raise LeaseLostError(delivery.entry_id, delivery.owner) from None
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its failure, SystemExit included
            return self._broker.fail(run, error)

    async def _within(self, run: Run, event: Event, context: Context) -> Any:
        handler = run.handler
        call = self._call(run, event, context)
        hard, soft = handler.timeout.hard, handler.timeout.soft
        if hard is None and soft is None:
            return await call
        if handler.pool == "thread":
            return await self._outlast(call, hard or soft or 0.0)
        timer = asyncio.timeout(hard)
        try:
            async with timer:
                return await call
        except TimeoutError:
            if timer.expired():
                raise HandlerTimeoutError(hard or 0.0) from None
            raise

    @staticmethod
    async def _outlast(call: Awaitable[Any], hard: float) -> Any:
        """A thread cannot be killed: its lease is held until it ends, and then the outcome is `timeout`."""
        started = time.monotonic()
        result = await call
        if time.monotonic() - started > hard:
            raise HandlerTimeoutError(hard)
        return result

    def _call(self, run: Run, event: Event, context: Context) -> Awaitable[Any]:
        handler = run.handler
        arguments = {handler.context: context} if handler.context else {}
        if handler.pool == "async":
            result: Awaitable[Any] = handler.function(event, **arguments)
            return result
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._threads, lambda: handler.function(event, **arguments))

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

