"""App: a name, a broker URL, handlers, and publishing. The one object that users hold."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import math
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Self, TypeVar, Unpack

import msgspec

from streamtask import envelope as envelopes
from streamtask.blobs import Blobs, BlobStores
from streamtask.broker import Broker
from streamtask.codec import Codec
from streamtask.context import PublishOptions
from streamtask.envelope import StoredEnvelope
from streamtask.errors import ConfigurationError, EnvelopeError, EventRefusedError, PublishError, TransportError
from streamtask.event import Event, describe
from streamtask.handler import Handler, make_handler
from streamtask.middleware import Middleware, Together, around_publish, through
from streamtask.records import Records
from streamtask.redact import MaskedUrl, mask_url
from streamtask.references import stream_name
from streamtask.results import ResultReader
from streamtask.router import Router
from streamtask.settings import CANCELLED_FOR, Retention, WorkerSettings
from streamtask.task import Task
from streamtask.telemetry import logs
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.connect import Connector, broker_url
from streamtask.transport.port import Schedule, Storage, Transport
from streamtask.transport.values import Durability, Outgoing, Progress, Result
from streamtask.worker.parent import SupervisorLink
from streamtask.worker.worker import Worker
from streamtask.workflow import Plan

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Events that `publish_many` sends in one round trip.
_BATCH = 500
#: Seconds between the tries to send a workflow.
_PAUSES = (0.1, 0.5, 1.0, 2.0)


class App(Router):
    """An application, such as `App("orders", broker="redis://localhost:6379/0")`.

    `name` is the `source` of every envelope and the default group. `broker`: a URL; without one $STREAMTASK_BROKER,
    else a Redis server that streamtask starts and stops by itself. `codec`, `compress`, `accept`: the page on codecs.
    `durability`: `publish` returns when a "replica", so many of them, or the "disk" has the event, too. `blobs`: where
    large data is kept, and from where it is read. `middleware`: around all that the app publishes and handles; the
    first is outermost.
    """

    def __init__(
        self,
        name: str,
        *,
        broker: str | None = None,
        codec: str = "json",
        compress: str | None = None,
        accept: Collection[str] = (),
        max_event_bytes: int = envelopes.MAX_BYTES,
        retention: Retention | None = None,
        durability: Durability = "none",
        blobs: BlobStores | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        super().__init__(middleware=middleware)
        if not name:
            raise ConfigurationError("an app has a name: it is the `source` of its events")
        self.name = name
        plain = codec == "json" and compress is None and not accept
        self.broker = Broker(
            name,
            codec=None if plain else Codec(codec=codec, compress=compress, accept=accept, limit=max_event_bytes),
            limit=max_event_bytes,
        )
        self.retention = retention or Retention()
        #: For tests: what is called in the place of a dependency, `app.dependency_overrides[session] = fake`.
        self.dependency_overrides: dict[Callable[..., Any], Callable[..., Any]] = {}
        #: What this process has counted.
        self.metrics = Metrics()
        self.durability = durability
        self._stores = blobs or BlobStores()
        self._url = None if broker is None else MaskedUrl(broker)
        self._connector: Connector | None = None
        self._transport: Transport | None = None
        self._results: ResultReader | None = None
        self._users = 0
        self._cut_off = ""
        self._sync: SyncApp | None = None

    # ── handlers ──────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, handler: Handler) -> None:
        """Take a handler in."""
        handler.check_around(self.middleware)
        self.broker.catalog.add(handler)
        super().add(handler)

    def add_task(self, task: Task[Any, Any, Any, Any], middleware: Sequence[Middleware] = ()) -> None:
        """Take a task in, with what is around it."""
        event = task.bind(self)
        options = {
            "keeping": task.keeping,
            "dump": task.dump,
            "dependencies": task.dependencies,
            "read": task.argument,
            "fields": task.parameters,
            **task.options_of_task.handler,
        }
        self.add(make_handler(task.runner(), (event,), **options).within(middleware))
        super().add_task(task)

    def include(self, router: Router) -> None:
        """Take in the handlers, tasks and rules of a router with its middleware, and its worker lifespans."""
        for handler in router.handlers:
            self.add(handler.within(router.middleware))
        for task in router.tasks:
            self.add_task(task, router.middleware)
        for rule in router.rules:
            self.add_rule(rule)
        self.worker_lifespans += router.worker_lifespans

    # ── connecting ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def url(self) -> str:
        """The broker URL in use."""
        return broker_url(self._url)

    @property
    def address(self) -> str:
        """The URL by which other processes of this machine reach the broker in use; may start an embedded server."""
        return self.connector().address

    def use_broker(self, url: str) -> None:
        """Use another broker than the one given; before connecting."""
        if self._connector is not None:
            raise ConfigurationError("the app is connected already")
        self._url = MaskedUrl(url)

    def disconnect(self, sync: SyncApp) -> None:
        """Forget the connection: this is a copy of the app, for another event loop."""
        shared = self.connector()
        # A memory is shared; an embedded server has a user of its own here, which outlives `async with`.
        self._connector = shared if shared.scheme == "memory" else Connector(shared.url, durability=self.durability)
        self._transport, self._results, self._users, self._sync = None, None, 0, sync

    @contextmanager
    def lent(self, connector: Connector) -> Iterator[None]:
        """Connected to another broker for a while, one that needs no waiting for; afterwards all is as it was.

        For tests: whoever is connected to its own broker must not use it meanwhile.
        """
        own = self._url, self._connector, self._transport, self._results, self._users, self._sync
        self._url, self._connector, self._transport = MaskedUrl(connector.url), connector, connector.open()
        self._results, self._users, self._sync = None, 1, None
        try:
            yield
        finally:
            if self._sync is not None:
                self._sync.close()
            if self._results is not None:
                self._results.stop()
            self._url, self._connector, self._transport, self._results, self._users, self._sync = own

    def cut_off(self, reason: str) -> None:
        """Refuse to connect, with this reason: in a child process that cannot reach the broker."""
        self._cut_off = reason

    def connector(self) -> Connector:
        """What opens transports for this app."""
        if self._cut_off:
            raise ConfigurationError(self._cut_off)
        if self._connector is None:
            self._connector = Connector(self.url, durability=self.durability)
            if self._connector.scheme == "embedded":
                log.warning("broker.embedded", extra={"folder": self.url.partition("://")[2] or ".streamtask"})
        return self._connector

    async def __aenter__(self) -> Self:
        """Connect. May be nested."""
        if not self._users:
            transport = await asyncio.to_thread(self.connector().open)
            await transport.connect()
            if self._users:
                # Another task was faster.
                await transport.close()
            else:
                self._transport = transport
        self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close what the outermost `async with` opened."""
        self._users -= 1
        if not self._users:
            transport, self._transport = self._transport, None
            results, self._results = self._results, None
            if results is not None:
                await results.close()
            if transport is not None:
                await transport.close()
            if self._connector is not None and self._connector.scheme == "embedded":
                self._connector.close()

    @asynccontextmanager
    async def lifespan(self, _: object) -> AsyncIterator[None]:
        """For FastAPI and Starlette: `FastAPI(lifespan=app.lifespan)`."""
        async with self:
            yield

    @property
    def transport(self) -> Transport:
        """The open transport. Raises ConfigurationError where the app is not connected."""
        if self._transport is None:
            raise ConfigurationError("the app is not connected: use `async with app:` or `lifespan=app.lifespan`")
        return self._transport

    # ── what stands beside the streams ────────────────────────────────────────────────────────────────────────

    @property
    def blobs(self) -> Blobs:
        """What is too large for an event, by its URI."""
        return Blobs(self._stores, self._storage)

    @property
    def records(self) -> Records:
        """Small facts, fields under a key."""
        return Records(self._storage)

    def _storage(self) -> Storage:
        transport = self.transport
        if transport.storage is None:
            raise ConfigurationError(f"the engine {transport.capabilities.engine} keeps no blobs and no records")
        return transport.storage

    # ── publishing ────────────────────────────────────────────────────────────────────────────────────────────

    async def publish(
        self,
        event: Event,
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_key: str | None = None,
        debounce_key: str | None = None,
        event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        priority: str | None = None,
    ) -> str:
        """Publish an event; returns its event id.

        `delay`: seconds from now. `at`: a moment, with a time zone. `dedup_key`: published once within ten minutes; of
        a repeat, the id that is returned is that of the event which was published. `debounce_key`: takes the place of
        what waits in the stream under this key; needs a `delay`, goes without `dedup_key`.
        `event_id`: publish again after a `PublishError`, without doubling the event. `priority`: one that its class
        declares.

        Raises:
            ConfigurationError: its class does not declare the priority.
            PublishError: unknown whether it is stored; publish again with `event_id=error.event_id`.
        """
        if self.middleware:
            options = PublishOptions(
                delay=delay,
                at=at,
                dedup_key=dedup_key,
                debounce_key=debounce_key,
                event_id=event_id,
                headers=headers,
                priority=priority,
            )
            given: Any = {name: value for name, value in options.items() if value is not None}
            return await through(around_publish(self.middleware), event, given, self._publish)
        return await self._store_one(
            self._outgoing(
                event,
                headers=headers,
                event_id=event_id,
                delay=delay,
                at=at,
                dedup_key=dedup_key,
                debounce_key=debounce_key,
                priority=priority,
            )
        )

    async def _publish(self, event: Event, options: PublishOptions) -> str:
        return await self._store_one(self._outgoing(event, **options))

    async def _store_one(self, item: Outgoing) -> str:
        [stored] = await self._store([item])
        return item.event_id if item.dedup_key is None else stored

    async def publish_many(self, events: Sequence[Event], *, priority: str | None = None) -> list[str]:
        """Publish events in order, a round trip a few hundred; returns their event ids.

        `priority`: one that each of their classes declares.

        Raises:
            PublishError: `error.unsure` says which are not known to be stored. All others are; publish each of these
                again: `for place, id in error.unsure.items(): await app.publish(events[place], event_id=id)`.
        """
        options = PublishOptions() if priority is None else PublishOptions(priority=priority)
        if around := around_publish(self.middleware):
            return await Together(around, self._outgoing, self._store_all).publish(events, options)
        items = [self._outgoing(event, **options) for event in events]
        await self._store_all(items)
        return [item.event_id for item in items]

    async def _store_all(self, items: list[Outgoing]) -> list[str]:
        """Publish in batches, in order; what `_store` gives. A PublishError says which are not known to be stored."""
        stored: list[str] = []
        for start in range(0, len(items), _BATCH):
            try:
                stored += await self._store(items[start : start + _BATCH])
            except PublishError as error:
                unsure = {start + place: event_id for place, event_id in error.unsure.items()}
                unsent = range(start + _BATCH, len(items))
                error.unsure = unsure | {place: items[place].event_id for place in unsent}
                raise
        return stored

    def _outgoing(
        self,
        event: Event,
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_key: str | None = None,
        debounce_key: str | None = None,
        event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        priority: str | None = None,
    ) -> Outgoing:
        _check_due(delay, at)
        if debounce_key is not None:
            _check_debounce(debounce_key, delay, dedup_key)
        bound = logs.current()
        return self.broker.outgoing(
            event,
            event_id=event_id or envelopes.new_event_id(),
            trace_id=bound.trace_id if bound else envelopes.new_trace_id(),
            causation_id=bound.event_id if bound else None,
            headers=headers,
            delay=delay,
            at=at,
            dedup_key=dedup_key,
            debounce_key=debounce_key,
            again=bool(event_id),
            priority=priority,
        )

    async def _store(self, items: list[Outgoing]) -> list[str]:
        """Publish a batch; what the transport says of each. A PublishError says which are not known to be stored."""
        try:
            results = await self.transport.publish(items)
        except TransportError as error:
            self._count(items, failed=True)
            await self._revive()
            unknown = PublishError(
                f"it is unknown whether the event is stored ({error}); publish again with event_id=error.event_id",
                event_id=items[0].event_id,
            )
            unknown.unsure = {place: item.event_id for place, item in enumerate(items)}
            raise unknown from error
        failed = {place: result for place, result in enumerate(results) if isinstance(result, Exception)}
        if not failed:
            self._count(items, failed=False)
            return [result for result in results if isinstance(result, str)]
        for place, item in enumerate(items):
            self._count([item], failed=place in failed)
        refused = next(iter(failed.values()))
        if isinstance(refused, PublishError):
            refused.unsure = {place: items[place].event_id for place in failed}
        raise refused

    async def _revive(self) -> None:
        """Start an embedded server again that has died: nobody else would, for an app without a worker."""
        with contextlib.suppress(TransportError, ConfigurationError):
            await asyncio.to_thread(getattr, self.connector(), "address")

    def _count(self, items: list[Outgoing], *, failed: bool) -> None:
        count = self.metrics.publish_failed if failed else self.metrics.published
        if len(items) == 1:
            count(items[0].stream, 1)
            return
        for stream, n in Counter(item.stream for item in items).items():
            count(stream, n)

    async def send_workflow(self, plan: Plan) -> None:
        """Keep what a workflow is made of and publish its first calls; for `Workflow.send`.

        Raises:
            PublishError: unknown whether all of them are stored, after several tries.
        """
        bound = logs.current()
        trace_id = bound.trace_id if bound else envelopes.new_trace_id()
        items = list(self.broker.calls(plan.stream, plan.first, trace_id, bound.event_id if bound else None))
        for pause in (*_PAUSES, None):
            try:
                await self.transport.workflows.begin(plan.stream, plan.id, plan.definition, ttl=plan.ttl)
                await self._store_all(items)
            except EventRefusedError:
                raise
            except PublishError as error:
                if pause is None:
                    raise
                # Their ids are those of their places in the workflow: what is stored already is found.
                items = [msgspec.structs.replace(items[place], again=True) for place in error.unsure]
            except TransportError as error:
                if pause is None:
                    raise PublishError(
                        f"unknown whether all of the workflow is sent ({error}); its id is error.event_id",
                        event_id=plan.id,
                    ) from error
                await self._revive()
            else:
                return
            await asyncio.sleep(pause)

    async def cancel_workflow(self, stream: str, workflow: str, result: Result | None) -> bool:
        """Have no call of a workflow begun any more; for `WorkflowHandle.cancel`. False: it has a result."""
        return await self.transport.workflows.cancel(stream, workflow, result, ttl=CANCELLED_FOR)

    async def group_values(self, stream: str, group: str) -> dict[int, bytes]:
        """The values of a group of a workflow; for `WorkflowHandle.result`."""
        return await self.transport.workflows.values(stream, group)

    # ── what is scheduled ─────────────────────────────────────────────────────────────────────────────────────

    async def cancel_scheduled(self, event: type[Event] | str, event_id: str) -> bool:
        """Forget an event that was published for later; `event`: its class, or the name of its stream.

        False: it does not wait there (any more). Its `dedup_key`, if it has one, stays taken.

        Raises:
            TransportError: it is unknown whether it is forgotten; ask again.
        """
        schedule = self._schedule()
        return any([await schedule.cancel(stream, event_id) for stream in self._streams_of(event)])

    async def reschedule(
        self, event: type[Event] | str, event_id: str, *, delay: float | None = None, at: datetime | None = None
    ) -> bool:
        """Have an event that was published for later come at another time; `event`: its class, or its stream's name.

        `delay`: seconds from now. `at`: a moment, with a time zone. False: it does not wait there (any more).

        Raises:
            TransportError: it is unknown whether it is moved; ask again.
        """
        if delay is None and at is None:
            raise ValueError("when? Give delay or at")
        _check_due(delay, at)
        schedule = self._schedule()
        streams = self._streams_of(event)
        return any([await schedule.reschedule(stream, event_id, delay=delay, at=at) for stream in streams])

    def _streams_of(self, event: type[Event] | str) -> tuple[str, ...]:
        """Where an event may wait: with which priority is not asked."""
        return self.broker.catalog.lanes(stream_name(event)) if isinstance(event, str) else describe(event).lanes

    def _schedule(self) -> Schedule:
        transport = self.transport
        if transport.schedule is None:
            raise ConfigurationError(f"the engine {transport.capabilities.engine} keeps no events for later")
        return transport.schedule

    async def wait_for_result(self, stream: str, event_id: str, *, timeout: float | None) -> bytes:
        """What became of an event whose handler keeps that; for `Handle.result`.

        Raises:
            ResultTimeoutError: nothing has within `timeout` seconds; None: it waits for as long as it takes.
        """
        return await self._result_reader().wait(stream, event_id, timeout=timeout)

    async def progress_of(self, stream: str, event_id: str) -> AsyncIterator[Progress]:
        """How far an event's handler is, each time that it says so, until there is a result; for `Handle.progress`."""
        async for progress in self._result_reader().progress(stream, event_id):
            yield progress

    def _result_reader(self) -> ResultReader:
        if self._results is None:
            self._results = ResultReader(self.transport.results)
        return self._results

    async def cancel_task(self, stream: str, event_id: str, result: Result | None) -> bool:
        """Have a task not begun, or ended; for `Handle.cancel`. False: it has ended already."""
        cancel = self.transport.cancellations.cancel
        # In which lane it is, or is to be, is not known. The first that knows of it leaves a result.
        lanes = self.broker.catalog.lanes(stream)
        return any([await cancel(lane, event_id, result, ttl=CANCELLED_FOR) for lane in lanes])

    @property
    def sync(self) -> SyncApp:
        """The blocking twin, for Flask, Django, scripts and threads; safe after a fork."""
        if self._sync is None:
            self._sync = SyncApp(self)
        return self._sync

    # ── reading and working ───────────────────────────────────────────────────────────────────────────────────

    async def read(self, stream: str, *, after: str | datetime = "$") -> AsyncIterator[StoredEnvelope]:
        """Every event of a stream from here on, without a group: "$" new ones, "0" all, an id, or a moment.

        The `entry_id` of the last one that you have seen is where to go on: `after=entry_id`.
        """
        async with self:
            transport = await asyncio.to_thread(self.connector().open)
            await transport.connect()
            try:
                position = after
                if after == "$" and transport.inspection is not None:
                    position = (await transport.inspection.stream(stream)).last_id or "0"
                while True:
                    for delivery in await transport.read(stream, after=position, count=100, wait=1.0):
                        position = delivery.entry_id
                        try:
                            yield StoredEnvelope.of(self.broker.decode(delivery), position)
                        except EnvelopeError as error:
                            log.warning("read.undecodable", extra={"entry_id": position, "error": str(error)})
            finally:
                await transport.close()

    def make_worker(self, settings: WorkerSettings, *, supervisor: SupervisorLink | None = None) -> Worker:
        """A worker of this app that is not started."""
        open_transport = self.connector().open
        return Worker(
            self,
            self.broker,
            open_transport,
            settings,
            self.retention,
            lifespans=self.worker_lifespans,
            middleware=self.middleware,
            overrides=self.dependency_overrides,
            rules=self.rules,
            metrics=self.metrics,
            supervisor=supervisor,
        )

    @asynccontextmanager
    async def worker(self, **settings: Any) -> AsyncIterator[Worker]:
        """A worker inside this process: `async with app.worker(concurrency=50):`."""
        async with self:
            worker = self.make_worker(WorkerSettings(**settings))
            await worker.start()
            try:
                yield worker
            finally:
                await worker.stop()

    def __repr__(self) -> str:
        return f"App({self.name!r}, broker={mask_url(self.url)!r})"


def _check_debounce(key: str, delay: float | None, dedup_key: str | None) -> None:
    if not key:
        raise ValueError("debounce_key is a text that says what belongs together, got an empty one")
    if delay is None:
        raise ValueError("debounce_key needs a delay: the seconds after the last publish under the key")
    if dedup_key is not None:
        raise ValueError("give debounce_key or dedup_key, not both: one keeps the last event, the other the first")


class SyncApp:
    """Publishing without `await`, through a private event loop in a thread of its own."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._twin: App | None = None
        self._pid = os.getpid()

    def publish(self, event: Event, **options: Unpack[PublishOptions]) -> str:
        """See `App.publish`."""
        return self._wait(lambda twin: twin.publish(event, **options), "await app.publish(...)")

    def publish_many(self, events: Sequence[Event], *, priority: str | None = None) -> list[str]:
        """See `App.publish_many`."""
        return self._wait(lambda twin: twin.publish_many(events, priority=priority), "await app.publish_many(...)")

    def cancel_scheduled(self, event: type[Event] | str, event_id: str) -> bool:
        """See `App.cancel_scheduled`."""
        return self._wait(lambda twin: twin.cancel_scheduled(event, event_id), "await app.cancel_scheduled(...)")

    def reschedule(
        self, event: type[Event] | str, event_id: str, *, delay: float | None = None, at: datetime | None = None
    ) -> bool:
        """See `App.reschedule`."""
        return self._wait(
            lambda twin: twin.reschedule(event, event_id, delay=delay, at=at), "await app.reschedule(...)"
        )

    def wait_for_result(self, stream: str, event_id: str, *, timeout: float | None) -> bytes:
        """See `App.wait_for_result`."""
        return self._wait(
            lambda twin: twin.wait_for_result(stream, event_id, timeout=timeout), "await handle.result(...)"
        )

    def send_workflow(self, plan: Plan) -> None:
        """See `App.send_workflow`."""
        self._wait(lambda twin: twin.send_workflow(plan), "await workflow.send()")

    def cancel_workflow(self, stream: str, workflow: str, result: Result | None) -> bool:
        """See `App.cancel_workflow`."""
        return self._wait(lambda twin: twin.cancel_workflow(stream, workflow, result), "await handle.cancel()")

    def group_values(self, stream: str, group: str) -> dict[int, bytes]:
        """See `App.group_values`."""
        return self._wait(lambda twin: twin.group_values(stream, group), "await handle.result(...)")

    def cancel_task(self, stream: str, event_id: str, result: Result | None) -> bool:
        """See `App.cancel_task`."""
        return self._wait(lambda twin: twin.cancel_task(stream, event_id, result), "await handle.cancel()")

    def close(self) -> None:
        """Disconnect, and end the thread. Nothing may use it meanwhile; whoever does so later connects again."""
        loop, thread, twin = self._loop, self._thread, self._twin
        if loop is None or thread is None or twin is None or self._pid != os.getpid():
            return
        self._loop = self._thread = self._twin = None
        asyncio.run_coroutine_threadsafe(twin.__aexit__(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _wait(self, call: Callable[[App], Coroutine[Any, Any, _T]], instead: str) -> _T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise ConfigurationError(f"app.sync would block the running event loop; write `{instead}`")
        loop, twin = self._portal()
        return asyncio.run_coroutine_threadsafe(call(twin), loop).result()

    def _portal(self) -> tuple[asyncio.AbstractEventLoop, App]:
        """The loop of this process: a fork has the object but not its thread, and must not share its connection."""
        if self._pid != os.getpid():
            # Forked: another thread of the parent may have held the lock at that moment, and is not here to let go.
            self._lock, self._loop, self._pid = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._loop is None or self._twin is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=loop.run_forever, name="streamtask-sync", daemon=True)
                self._thread.start()
                twin = copy.copy(self._app)
                twin.disconnect(self)
                asyncio.run_coroutine_threadsafe(twin.__aenter__(), loop).result()
                self._loop, self._twin = loop, twin
            return self._loop, self._twin


def _check_due(delay: float | None, at: datetime | None) -> None:
    if delay is not None and at is not None:
        raise ValueError("give delay or at, not both")
    if delay is not None and not 0 <= delay < math.inf:
        raise ValueError(f"delay is in seconds, from 0, got {delay}")
    if at is not None and at.tzinfo is None:
        raise ValueError("at needs a time zone: datetime(..., tzinfo=UTC)")
