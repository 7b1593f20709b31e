"""App: a name, a broker URL, handlers, and publishing. The one object that users hold."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from functools import partial
from typing import Any, Self, TypeVar, Unpack

from streamtask import envelope as envelopes
from streamtask.blobs import Blobs, BlobStores
from streamtask.broker import Broker
from streamtask.codec import Codec
from streamtask.context import PublishOptions
from streamtask.envelope import StoredEnvelope
from streamtask.errors import ConfigurationError, EnvelopeError
from streamtask.event import Event, describe
from streamtask.handler import Handler, make_handler
from streamtask.link import Link
from streamtask.middleware import Middleware, Together, around_publish, through
from streamtask.publisher import Publisher, check_due
from streamtask.records import Records
from streamtask.redact import mask_url
from streamtask.references import stream_name
from streamtask.router import Router
from streamtask.settings import CANCELLED_FOR, Retention, WorkerSettings
from streamtask.task import Task
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.connect import Connector
from streamtask.transport.port import Schedule, Storage, Transport
from streamtask.transport.values import Durability, Progress, Result
from streamtask.worker.parent import SupervisorLink
from streamtask.worker.worker import Worker
from streamtask.workflow import Plan

log = logging.getLogger(__name__)

_T = TypeVar("_T")


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
        self._link = Link(broker, durability)
        self._publisher = Publisher(self.broker, self.metrics)
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
        return self._link.url

    @property
    def address(self) -> str:
        """The URL by which other processes of this machine reach the broker in use; may start an embedded server."""
        return self.connector().address

    def use_broker(self, url: str) -> None:
        """Use another broker than the one given; before connecting."""
        self._link.use(url)

    def disconnect(self, sync: SyncApp) -> None:
        """Forget the connection: this is a copy of the app, for another event loop."""
        self._link, self._sync = self._link.apart(), sync

    @contextmanager
    def lent(self, connector: Connector) -> Iterator[None]:
        """Connected to another broker for a while, one that needs no waiting for; afterwards all is as it was.

        For tests: whoever is connected to its own broker must not use it meanwhile.
        """
        own = self._link, self._sync
        self._link, self._sync = Link.to(connector), None
        try:
            yield
        finally:
            if self._sync is not None:
                self._sync.close()
            self._link.stop_waiting()
            self._link, self._sync = own

    def cut_off(self, reason: str) -> None:
        """Refuse to connect, with this reason: in a child process that cannot reach the broker."""
        self._link.cut_off(reason)

    def connector(self) -> Connector:
        """What opens transports for this app."""
        return self._link.connector

    async def __aenter__(self) -> Self:
        """Connect. May be nested."""
        await self._link.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close what the outermost `async with` opened."""
        await self._link.close()

    @asynccontextmanager
    async def lifespan(self, _: object) -> AsyncIterator[None]:
        """For FastAPI and Starlette: `FastAPI(lifespan=app.lifespan)`."""
        async with self:
            yield

    @property
    def transport(self) -> Transport:
        """The open transport. Raises ConfigurationError where the app is not connected."""
        return self._link.transport

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
        return await self._publisher.store_one(
            self._link,
            self._publisher.outgoing(
                event,
                headers=headers,
                event_id=event_id,
                delay=delay,
                at=at,
                dedup_key=dedup_key,
                debounce_key=debounce_key,
                priority=priority,
            ),
        )

    async def _publish(self, event: Event, options: PublishOptions) -> str:
        return await self._publisher.store_one(self._link, self._publisher.outgoing(event, **options))

    async def publish_many(self, events: Sequence[Event], *, priority: str | None = None) -> list[str]:
        """Publish events in order, a round trip a few hundred; returns their event ids.

        `priority`: one that each of their classes declares.

        Raises:
            PublishError: `error.unsure` says which are not known to be stored. All others are; publish each of these
                again: `for place, id in error.unsure.items(): await app.publish(events[place], event_id=id)`.
        """
        options = PublishOptions() if priority is None else PublishOptions(priority=priority)
        publisher, store_all = self._publisher, partial(self._publisher.store_all, self._link)
        if around := around_publish(self.middleware):
            return await Together(around, publisher.outgoing, store_all).publish(events, options)
        items = [publisher.outgoing(event, **options) for event in events]
        await store_all(items)
        return [item.event_id for item in items]

    async def send_workflow(self, plan: Plan) -> None:
        """Keep what a workflow is made of and publish its first calls; for `Workflow.send`.

        Raises:
            PublishError: unknown whether all of them are stored, after several tries.
        """
        await self._publisher.send(self._link, plan)

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
        check_due(delay, at)
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
        return await self._link.results.wait(stream, event_id, timeout=timeout)

    async def progress_of(self, stream: str, event_id: str) -> AsyncIterator[Progress]:
        """How far an event's handler is, each time that it says so, until there is a result; for `Handle.progress`."""
        async for progress in self._link.results.progress(stream, event_id):
            yield progress

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
