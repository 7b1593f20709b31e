"""What runs handlers in a test: the executor of a worker and what it needs, for as long as a block lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from streamtask.app import App
from streamtask.broker import Broker
from streamtask.lifespan import Lifespans
from streamtask.middleware import around_consume
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Transport
from streamtask.worker.batching import BatchExecutor
from streamtask.worker.cancellations import Cancellations
from streamtask.worker.checkpoints import Checkpoints
from streamtask.worker.executor import Executor
from streamtask.worker.group_values import values_from
from streamtask.worker.isolation import Isolation
from streamtask.worker.leases import Leases
from streamtask.worker.limits import children
from streamtask.worker.lookups import Lookups
from streamtask.worker.outage import Outage
from streamtask.worker.provider import Provider
from streamtask.worker.slots import Running


class Executors(NamedTuple):
    """What runs the handlers of one event, and those of many."""

    single: Executor
    batches: BatchExecutor


@asynccontextmanager
async def executors_of(
    app: App,
    broker: Broker,
    transport: Transport,
    *,
    cancellations: Cancellations,
    checkpoints: Checkpoints | None = None,
    threads: int = 1,
) -> AsyncIterator[Executors]:
    """The executors of the app's handlers, within its worker lifespans.

    Raises:
        ConfigurationError, StreamtaskError: a worker lifespan or a dependency failed.
    """
    metrics = Metrics()
    handlers = broker.catalog.handlers(*((sub.stream, sub.group) for sub in broker.catalog.subscriptions()))
    modules = {handler.function.__module__ for handler in handlers}
    async with AsyncExitStack() as stack:
        lifespans = Lifespans(app, app.worker_lifespans)
        await lifespans.enter()
        stack.push_async_callback(lifespans.leave)
        isolation = Isolation(app, children=children(handlers), modules=modules)
        stack.push_async_callback(isolation.close)
        checkpoints = checkpoints or Checkpoints(transport, Outage("checkpoint", metrics))
        stack.callback(checkpoints.close)
        marks: Lookups[tuple[str, str]] = Lookups(transport.marked, Outage("marks", metrics))
        stack.push_async_callback(marks.close)
        stack.push_async_callback(cancellations.close)
        provider = Provider(app, app.dependency_overrides, asyncio.to_thread)
        stack.push_async_callback(provider.close)
        await provider.prepare(each.dependencies for each in handlers if each.dependencies is not None)
        executor = Executor(
            app,
            broker,
            Leases(),
            marks.stands,
            cancellations.has,
            values=values_from(transport, Outage("workflows", metrics)),
            isolation=isolation,
            checkpoints=checkpoints,
            provider=provider,
            middleware=around_consume(app.middleware),
            threads=threads,
        )
        stack.callback(executor.close)
        yield Executors(executor, BatchExecutor(app, broker, executor))


def cancellations_of(transport: Transport, running: Callable[[], Iterable[Running]]) -> Cancellations:
    """What finds out which tasks are cancelled, of those that `running` names, too."""
    return Cancellations(transport, Outage("cancellations", Metrics()), running)
