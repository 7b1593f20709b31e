"""One worker process: wires the duties together, and drains at the end."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import msgspec

from streamtask import failpoints
from streamtask.broker import Broker, Run
from streamtask.context import Application
from streamtask.errors import ConfigurationError, StreamtaskError, TransportError
from streamtask.lifespan import Lifespan, Lifespans
from streamtask.middleware import Middleware, around_consume
from streamtask.rules import Rule
from streamtask.settings import Retention, WorkerSettings
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Transport
from streamtask.transport.values import Delivery, Registered, Release, Subscription, TypeVersion
from streamtask.worker.batching import BatchExecutor
from streamtask.worker.burst import Burst
from streamtask.worker.cancellations import Cancellations
from streamtask.worker.checkpoints import Checkpoints
from streamtask.worker.drain import cancel_all, drain, hand_back_the_rest
from streamtask.worker.endings import Endings
from streamtask.worker.executor import Executor
from streamtask.worker.fetcher import Fetcher
from streamtask.worker.flow import Flow
from streamtask.worker.group_values import values_from
from streamtask.worker.handling import Handling
from streamtask.worker.health import Health
from streamtask.worker.inline import Inline
from streamtask.worker.isolation import Isolation
from streamtask.worker.janitor import Janitor
from streamtask.worker.keeper import Keeper
from streamtask.worker.leases import Leases
from streamtask.worker.limits import any_is_counted, children, limit_of, paces_of
from streamtask.worker.lookups import Lookups
from streamtask.worker.outage import Outage
from streamtask.worker.pacer import Pace
from streamtask.worker.pacing import Pacing
from streamtask.worker.parent import SupervisorLink
from streamtask.worker.provider import Provider
from streamtask.worker.reclaimer import Reclaimer
from streamtask.worker.relay import Relay
from streamtask.worker.reporting import Reporter
from streamtask.worker.room import Room
from streamtask.worker.rounds import ROUND, Rounds
from streamtask.worker.slots import Slots
from streamtask.worker.started import StartedTable
from streamtask.worker.stock import Stock
from streamtask.worker.ticker import Ticker
from streamtask.worker.timekeeper import Timekeeper

log = logging.getLogger(__name__)

#: Seconds that a delivery may wait here for a slot before it goes back; it is looked at twice in that time.
_UNSTARTED = 2 * ROUND
#: Seconds after which a handler without a timeout is told about.
_RUNS_LONG = 600.0
#: Seconds for what is left to do at the end once handlers have ended: settling, handing back.
_LAST_WORDS = 5.0


def new_owner() -> str:
    """A name that no other process, and no later process with our id, has."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class Worker:
    """Consumes events from `start` to `stop`."""

    def __init__(
        self,
        app: Application,
        broker: Broker,
        open_transport: Callable[[], Transport],
        settings: WorkerSettings,
        retention: Retention,
        *,
        lifespans: Sequence[Lifespan] = (),
        rules: Sequence[Rule] = (),
        middleware: Sequence[Middleware] = (),
        overrides: Mapping[Callable[..., Any], Callable[..., Any]] = MappingProxyType({}),
        metrics: Metrics | None = None,
        supervisor: SupervisorLink | None = None,
    ) -> None:
        self.owner = new_owner()
        self.health = Health(time.monotonic())
        self.metrics = metrics or Metrics()
        self._supervisor = supervisor
        self._app = app
        self._broker = broker
        self._open = open_transport
        self._settings = settings
        self._retention = retention
        self._lifespans = Lifespans(app, lifespans)
        self._middleware = around_consume(middleware)
        self._provider = Provider(app, overrides, asyncio.to_thread)
        self._subscriptions = broker.catalog.subscriptions(settings.groups, settings.streams)
        if not self._subscriptions:
            raise ConfigurationError(
                f"app {app.name!r} has no handlers for groups {list(settings.groups) or 'all'} and streams "
                f"{list(settings.streams) or 'all'}; nothing to consume"
            )
        self._places = {(sub.stream, sub.group): index for index, sub in enumerate(self._subscriptions)}
        handlers = broker.catalog.handlers(*self._places)
        self._plans = [each.dependencies for each in handlers if each.dependencies and each.pool != "process"]
        self._isolation = Isolation(
            app,
            children=children(handlers),
            modules={handler.function.__module__ for handler in handlers},
            max_memory=settings.max_memory,
        )
        #: By stream, those whose ticks this worker runs.
        self._rules: dict[str, list[Rule]] = defaultdict(list)
        for rule in rules:
            for stream, group in self._places:
                if broker.catalog.handler(stream, group, rule.task.name) is not None:
                    self._rules[stream].append(rule)
        self._prepared = False
        most = max(handler.batch.size if handler.batch else 1 for handler in handlers)
        started = settings.concurrency * most
        self._started = StartedTable.attach(supervisor.started_fd, slots=started) if supervisor else None
        self._handlers = handlers
        self._interest = dict[tuple[str, str], frozenset[TypeVersion]]()
        self._leases = Leases()
        self._rounds = Rounds(random.uniform(0, ROUND))  # noqa: S311 - spreads workers, hides nothing
        self._duties: list[asyncio.Task[None]] = []
        self._fetchers: list[Fetcher] = []
        self._connected = False
        self._stopping = False
        self._hurry = asyncio.Event()
        #: Set with the error of a duty that ended: this worker has to be replaced.
        self._failed: asyncio.Future[None] = asyncio.Future()

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def connect(self) -> None:
        """Connect and register the groups; part of `start`. After a TransportError it can be called again."""
        transport = await asyncio.to_thread(self._open)
        try:
            await transport.connect()
            for sub in self._subscriptions:
                self._registered(sub, await transport.register(sub))
        except BaseException:
            await transport.close()
            raise
        self._transport, self._connected = transport, True

    async def prepare(self) -> None:
        """Enter the worker lifespans, make what handlers share, start a child for the process pool. Part of `start`.

        May take minutes.

        Raises:
            ConfigurationError: no child process can be started for a handler, or what is made says what is wrong.
            StreamtaskError: a worker lifespan failed, or a dependency.
        """
        await self._lifespans.enter()
        try:
            await self._provider.prepare(self._plans)
            await self._isolation.prepare()
        except BaseException:
            await self._put_away()
            raise
        self._prepared = True

    async def start(self) -> None:
        """Prepare and connect, unless that has been done, and begin to consume.

        Raises:
            ConfigurationError, StreamtaskError: as `prepare`.
        """
        if not self._prepared:
            await self.prepare()
        try:
            if not self._connected:
                await self.connect()
            await self._begin()
        except BaseException:
            await self._put_away()
            raise

    async def _put_away(self) -> None:
        """Undo what `prepare` has done."""
        await self._isolation.close()
        await self._provider.close()
        await self._lifespans.leave()

    async def _begin(self) -> None:
        self.metrics.know(type_ for sub in self._subscriptions for type_, _ in sub.handles)
        paces = paces_of(self._handlers)
        self._make_endings(paces)
        self._make_slots(paces)
        if self._supervisor:
            self._supervisor.introduce(self.owner, self._app.url, list(self._places))
        self._keeper = self._make_keeper()
        self._keeper.start()
        await self._keeper.first_beat()
        self._duty("settler", self._endings.settler.run())
        self._duty("progress", self._checkpoints.run())
        for name, asking in self._pacing.start(self._transport.rates, self._slots, self.metrics, self._flow.changed):
            self._duty(name, asking)
        self._start_readers()
        self.metrics.watch_in_flight(self._in_flight)
        if self._supervisor:
            self._supervisor.ready()
        log.info("worker.started", extra={"owner": self.owner, "groups": self._groups()})

    def _make_endings(self, paces: Mapping[int, Pace]) -> None:
        """What counts and commits what has come to its end, and is told of by all that runs."""
        self._reporter = Reporter(self.metrics)
        self._flow = Flow(self._settings.concurrency, aside=lambda: self._slots.paced)
        is_counted = any_is_counted(self._broker.catalog, self._subscriptions, paces)
        self._stock = Stock(counts=is_counted, changed=self._flow.changed)
        self._endings = Endings(
            self.owner,
            self._transport,
            flow=self._flow,
            stock=self._stock,
            leases=self._leases,
            reporter=self._reporter,
            outage=Outage("settle", self.metrics),
        )
        self._pacing = Pacing(self._broker, self._handlers, paces, self._endings.put)

    def _make_slots(self, paces: Mapping[int, Pace]) -> None:
        """What runs handlers, and says how much more may be taken in."""
        broker, interest, flow = self._broker, self._interest, self._flow
        executor = self._executor = self._make_executor()
        self._inline = self._make_inline()
        handling = Handling(
            broker,
            executor,
            BatchExecutor(self._app, broker, executor),
            self._endings,
            pacing=self._pacing,
            leases=self._leases,
            stock=self._stock,
            shared=flow.shared,
            started=self._started,
            places=self._places,
            concurrency=self._settings.concurrency,
        )
        self._slots = Slots(
            self._settings.concurrency,
            plan=lambda delivery: broker.plan(delivery, interest),
            settle=self._endings.put,
            handle=handling.of(self._handlers),
            # Middleware is around all handlers.
            inline=None if self._middleware else self._inline,
            limit=limit_of,
            pace=self._pacing.stands_aside if paces else None,
            changed=flow.changed,
            shared=flow.shared,
            failed=partial(self._fail, "slots"),
        )
        self._room = Room(
            broker.catalog,
            self._subscriptions,
            paces,
            flow=flow,
            stock=self._stock,
            slots=self._slots,
            short=lambda: self._reclaimer.short,
        )

    def _make_inline(self) -> Inline:
        return Inline(
            self._app,
            self._broker,
            self._endings,
            self._checkpoints,
            leases=self._leases,
            started=self._started,
            places=self._places,
        )

    def _make_executor(self) -> Executor:
        self._marks: Lookups[tuple[str, str]] = Lookups(self._transport.marked, Outage("marks", self.metrics))
        outage = Outage("cancellations", self.metrics)
        self._cancellations = Cancellations(self._transport, outage, lambda: self._slots.running)
        self._checkpoints = Checkpoints(self._transport, Outage("checkpoint", self.metrics))
        return Executor(
            self._app,
            self._broker,
            self._leases,
            self._marks.stands,
            self._cancellations.has,
            values=values_from(self._transport, Outage("workflows", self.metrics)),
            isolation=self._isolation,
            checkpoints=self._checkpoints,
            provider=self._provider,
            middleware=self._middleware,
            threads=self._settings.concurrency,
        )

    def _make_keeper(self) -> Keeper:
        loop = asyncio.get_running_loop()
        is_uvloop = type(loop).__module__.startswith("uvloop")
        return Keeper(
            self._open,
            self.owner,
            self._leases,
            lease=self._settings.lease,
            info=self._info,
            on_lost=lambda lost: loop.call_soon_threadsafe(self._lose, lost),
            on_beat=self._beat,
            metrics=self.metrics,
            # A quarter less for each beat of an idle worker.
            new_loop=type(loop) if is_uvloop else None,
        )

    def _start_readers(self) -> None:
        self._relay = Relay(self._transport, self.owner, self._subscriptions, self.metrics)
        for index, subs in enumerate(self._readings()):
            fetcher = Fetcher(
                self._transport,
                self.owner,
                subs,
                flow=self._flow,
                leases=self._leases,
                health=self.health,
                lease=self._settings.lease,
                metrics=self.metrics,
                take=partial(self._take, due=False),
                room=self._room.new,
                lane=self._room.lane(subs[0]),
            )
            self._fetchers.append(fetcher)
            self._duty(f"fetcher-{index}", fetcher.run())
        self._reclaimer = Reclaimer(
            self._transport,
            self.owner,
            self._subscriptions,
            flow=self._flow,
            leases=self._leases,
            keeper=self._keeper,
            lease=self._settings.lease,
            metrics=self.metrics,
            take=partial(self._take, due=True),
            expire=self._expire,
            room=self._room.due,
            takes=self._room.in_slots,
            rounds=self._rounds,
        )
        self._duty("reclaimer", self._reclaimer.run())
        self._duty("look-round", self._look_round())
        if any(handler.is_task for handler in self._handlers):
            self._duty("cancellations", self._cancellations.run(self._rounds))
        janitor = Janitor(self._transport, self._subscriptions, self._retention, self.metrics, self._registered)
        self._duty("janitor", janitor.run())
        self._duty("relay", self._relay.run())
        self._duty("timekeeper", Timekeeper(self._transport, self._subscriptions, self.metrics, self._rounds).run())
        for stream, rules in self._rules.items():
            ticker = Ticker(self._transport, self._broker, stream, rules, self.metrics)
            self._duty(f"ticker-{stream}", ticker.run())

    def _readings(self) -> list[list[Subscription]]:
        """What is read together: streams of a group that one read can bring; those with own room or gates apart."""
        readings = []
        for group in dict.fromkeys(sub.group for sub in self._subscriptions):
            subs = [sub for sub in self._subscriptions if sub.group == group]
            apart = [sub for sub in subs if self._room.is_apart(sub)]
            free = [sub for sub in subs if sub not in apart]
            readings += [[sub] for sub in apart]
            by_name = {sub.stream: sub for sub in free}
            together = self._transport.together(list(by_name))
            readings += [[by_name[name] for name in names] for names in together if names]
        return readings

    def _duty(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine, name=f"streamtask-{name}")
        task.add_done_callback(self._duty_ended)
        self._duties.append(task)

    def _duty_ended(self, task: asyncio.Task[None]) -> None:
        """No duty ends by itself: a worker that had lost one would stop doing something without a word."""
        if not task.cancelled():
            self._fail(task.get_name(), task.exception())

    def _fail(self, duty: str, error: BaseException | None) -> None:
        if self._failed.done():
            return
        log.critical("worker.duty_failed", extra={"duty": duty, "owner": self.owner}, exc_info=error)
        self._failed.set_exception(StreamtaskError(f"{duty} failed: {error!r}; the worker has to be replaced"))
        # Whoever waits for it is told; who does not must not be told by the garbage collector.
        self._failed.exception()

    async def failed(self) -> None:
        """Return never; raise StreamtaskError when this worker cannot go on."""
        await asyncio.shield(self._failed)

    @property
    def still_running(self) -> int:
        """After `stop`: handlers that could not be ended. Threads cannot, nor what ignores its cancellation."""
        return len(self._slots.running) + self._executor.threads_running

    def hurry(self) -> None:
        """Give running handlers no more time: `stop` ends at once."""
        self._hurry.set()

    async def stop(self) -> None:
        """No new reads; what runs may end within the grace; the rest goes back, uncharged.

        Where this process has more memory than it may have, that is a crash of what runs in it, which may be what
        takes the memory: the third time it is alone, in a process of its own, and is not begun again for ever.
        """
        self._stopping = True
        self.health.stopping()
        settler, progress, *readers = self._duties
        await cancel_all(readers)
        for delivery in self._slots.close():
            self._pacing.leave(delivery)
            self._endings.put(delivery, Release())
        self._pacing.close()
        if self._slots.running:
            settings = self._settings
            await drain(
                self._slots,
                self.owner,
                grace=settings.shutdown_timeout,
                hurry=self._hurry,
                max_memory=settings.max_memory,
                last_words=_LAST_WORDS / 2,
            )
        await self._marks.close()
        await self._cancellations.close()
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await self._endings.settler.drained()
                if failpoints.armed:
                    failpoints.reached("while_stopping")
                await self._relay.finish()
                await hand_back_the_rest(self._slots, self._transport, self.owner, self._subscriptions)
                await self._keeper.stop()
                await self._transport.recovery.retire(self.owner, self._subscriptions)
        except (TransportError, TimeoutError) as error:
            log.warning("worker.left_entries", extra={"owner": self.owner, "error": str(error)})
            await self._keeper.stop()
        await cancel_all([settler, progress])
        self._checkpoints.close()
        self._executor.close()
        await self._put_away()
        await self._transport.close()
        self.metrics.unwatch_in_flight(self._in_flight)
        log.info("worker.stopped", extra={"owner": self.owner})

    async def burst_done(self) -> None:
        """Wait until nothing is ready, pending or due for retry."""
        await Burst(self._transport, self._subscriptions, self._flow, self._fetchers, self._relay).done()

    # ── taking in ─────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, deliveries: list[Delivery], *, due: bool) -> None:
        """From a fetcher or the reclaimer: hold them until they are settled."""
        self._flow.took(len(deliveries), due=due)
        self._hold(deliveries)
        if failpoints.armed:
            failpoints.reached("before_handler")
        self._slots.put(deliveries, self._room.took(deliveries, due=due))

    def _hold(self, deliveries: list[Delivery]) -> None:
        self._leases.hold(deliveries)
        if self._stock.counts:
            self._stock.hold(deliveries)

    def _expire(self, deliveries: list[Delivery]) -> None:
        """From the reclaimer: these have waited too long for a worker that handles them."""
        self._flow.took(len(deliveries), due=True)
        self._hold(deliveries)
        for delivery in deliveries:
            self._endings.put(delivery, self._broker.expired(delivery, self._interest))

    async def _look_round(self) -> None:
        """What waits here for a slot another worker may have free (rule 9); and who runs for long is told once."""
        while True:
            await self._rounds.next()
            now = time.monotonic()
            self.health.loop_turned(now)
            overdue = self._slots.overdue(_UNSTARTED)
            if overdue:
                self._flow.stalled()
            for delivery in overdue:
                self._pacing.leave(delivery)
                self._endings.put(delivery, Release())
            for running in self._slots.running:
                timeout = running.run.handler.timeout
                if not running.told and timeout.hard is None and now - running.since >= _RUNS_LONG:
                    running.told = True
                    self._reporter.runs_long(running, now - running.since)

    def _lose(self, lost: list[Delivery]) -> None:
        held = [delivery for delivery in lost if self._leases.lose(delivery)]
        if held:
            self._slots.cancel(self._leases.is_lost)

    # ── what the duties tell and ask ──────────────────────────────────────────────────────────────────────────

    def _registered(self, sub: Subscription, found: Registered) -> None:
        self._interest[sub.stream, sub.group] = found.interest
        for type_, first in found.skipped_before.items():
            log.warning(
                "events.were_skipped",
                extra={
                    "skipped_type": type_,
                    "first_id": first,
                    "bring_back": f"streamtask replay --stream {sub.stream} --group {sub.group} --since {first}",
                },
            )

    def _groups(self) -> list[str]:
        return sorted({sub.group for sub in self._subscriptions})

    def _beat(self, *, ok: bool) -> None:
        now = time.monotonic()
        self.health.keeper_turned(now)
        if ok:
            self.health.beat_ok(now)

    def _handled(self) -> list[Run]:
        """What is handled at this moment. Asked by other threads."""
        at_once = self._inline.running
        return [*(running.run for running in self._slots.running), *([] if at_once is None else [at_once])]

    def _in_flight(self) -> dict[str, int]:
        groups = Counter({sub.group: 0 for sub in self._subscriptions})
        groups.update(run.delivery.group for run in self._handled())
        return dict(groups)

    def _info(self) -> bytes:
        return msgspec.json.encode(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "supervisor_pid": self._supervisor.supervisor_pid if self._supervisor else None,
                "groups": self._groups(),
                "running": len(self._handled()),
            }
        )
