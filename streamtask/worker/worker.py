"""One worker process: wires the duties together, and drains at the end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import msgspec

from streamtask import failpoints
from streamtask.broker import Broker, Run
from streamtask.context import Application
from streamtask.errors import ConfigurationError, LeaseLostError, StreamtaskError, TransportError
from streamtask.handler import Handler
from streamtask.lifespan import Lifespan, Lifespans
from streamtask.middleware import Middleware, around_consume
from streamtask.rules import Rule
from streamtask.settings import Retention, WorkerSettings
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Transport
from streamtask.transport.values import (
    Dead,
    Delivery,
    Done,
    Outcome,
    Registered,
    Release,
    Subscription,
    TypeVersion,
    Verdict,
)
from streamtask.worker.batching import BatchExecutor, together
from streamtask.worker.cancellations import Cancellations
from streamtask.worker.checkpoints import Checkpoints
from streamtask.worker.executor import Executor
from streamtask.worker.fetcher import Fetcher
from streamtask.worker.flow import Flow
from streamtask.worker.group_values import values_from
from streamtask.worker.health import Health
from streamtask.worker.isolation import Isolation
from streamtask.worker.janitor import Janitor
from streamtask.worker.keeper import Keeper
from streamtask.worker.leases import Leases
from streamtask.worker.limits import children, limit_of
from streamtask.worker.lookups import Lookups
from streamtask.worker.outage import Outage
from streamtask.worker.pacing import Pacing
from streamtask.worker.parent import SupervisorLink
from streamtask.worker.provider import Provider
from streamtask.worker.reclaimer import Reclaimer
from streamtask.worker.relay import Relay
from streamtask.worker.reporting import Reporter
from streamtask.worker.room import Room
from streamtask.worker.settler import Settlement, Settler
from streamtask.worker.slots import Running, Slots
from streamtask.worker.started import StartedTable
from streamtask.worker.ticker import Ticker
from streamtask.worker.timekeeper import Timekeeper

log = logging.getLogger(__name__)

#: Seconds that a delivery may wait here for a slot before it goes back; it is looked at twice in that time.
_UNSTARTED = 0.6
#: Seconds after which a handler without a timeout is told about.
_RUNS_LONG = 600.0
#: Seconds between two looks whether a burst is done, and how many have to find nothing: while we ask about one stream,
#: a handler elsewhere may emit into one that we have asked about before.
_QUIET = 0.05
_QUIET_LOOKS = 2
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
        self._subscriptions = broker.subscriptions(settings.groups, settings.streams)
        if not self._subscriptions:
            raise ConfigurationError(
                f"app {app.name!r} has no handlers for groups {list(settings.groups) or 'all'} and streams "
                f"{list(settings.streams) or 'all'}; nothing to consume"
            )
        self._places = {(sub.stream, sub.group): index for index, sub in enumerate(self._subscriptions)}
        handlers = broker.handlers(*self._places)
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
                if broker.handler(stream, group, rule.task.name) is not None:
                    self._rules[stream].append(rule)
        self._prepared = False
        most = max(handler.batch.size if handler.batch else 1 for handler in handlers)
        started = settings.concurrency * most
        self._started = StartedTable.attach(supervisor.started_fd, slots=started) if supervisor else None
        self._pacing = Pacing(broker, handlers, self._outcome)
        interest = self._interest = dict[tuple[str, str], frozenset[TypeVersion]]()
        self._has_tasks = any(handler.is_task for handler in handlers)
        self._duties: list[asyncio.Task[None]] = []
        self._fetchers: list[Fetcher] = []
        self._leases = Leases()
        self._flow = Flow(settings.concurrency, aside=lambda: self._slots.paced)
        self._slots = Slots(
            settings.concurrency,
            plan=lambda delivery: broker.plan(delivery, interest),
            settle=self._outcome,
            handle=self._handle if all(map(_is_plain, handlers)) else self._handler,
            limit=limit_of,
            pace=self._pacing.stands_aside if self._pacing.paces else None,
            changed=self._flow.changed,
            shared=self._flow.shared,
            failed=partial(self._fail, "slots"),
        )
        self._room = Room(
            broker,
            self._subscriptions,
            self._pacing.paces,
            flow=self._flow,
            slots=self._slots,
            short=self._short,
        )
        self._reporter = Reporter(self.metrics)
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
        if self._supervisor:
            self._supervisor.introduce(self.owner, self._app.url, list(self._places))
        self._keeper = self._make_keeper()
        self._keeper.start()
        await self._keeper.first_beat()
        self._marks: Lookups[tuple[str, str]] = Lookups(self._transport.marked, Outage("marks", self.metrics))
        outage = Outage("cancellations", self.metrics)
        self._cancellations = Cancellations(self._transport, outage, lambda: self._slots.running)
        self._checkpoints = Checkpoints(self._transport, Outage("checkpoint", self.metrics))
        self._executor = Executor(
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
        self._batches = BatchExecutor(self._app, self._broker, self._executor)
        self._settler = Settler(self._transport, self._settled, Outage("settle", self.metrics))
        self._duty("settler", self._settler.run())
        self._duty("progress", self._checkpoints.run())
        for name, asking in self._pacing.start(self._transport.rates, self._slots, self.metrics, self._flow.changed):
            self._duty(name, asking)
        self._start_readers()
        self.metrics.watch_in_flight(self._in_flight)
        if self._supervisor:
            self._supervisor.ready()
        log.info("worker.started", extra={"owner": self.owner, "groups": self._groups()})

    def _make_keeper(self) -> Keeper:
        loop = asyncio.get_running_loop()
        return Keeper(
            self._open,
            self.owner,
            self._leases,
            lease=self._settings.lease,
            info=self._info,
            on_lost=lambda lost: loop.call_soon_threadsafe(self._lose, lost),
            on_beat=self._beat,
            metrics=self.metrics,
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
        )
        self._duty("reclaimer", self._reclaimer.run())
        self._duty("look-round", self._look_round())
        if self._has_tasks:
            self._duty("cancellations", self._cancellations.run())
        janitor = Janitor(self._transport, self._subscriptions, self._retention, self.metrics, self._registered)
        self._duty("janitor", janitor.run())
        self._duty("relay", self._relay.run())
        self._duty("timekeeper", Timekeeper(self._transport, self._subscriptions, self.metrics).run())
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
        """No new reads; what runs may end within the grace; the rest goes back, uncharged."""
        self._stopping = True
        self.health.stopping()
        settler, progress, *readers = self._duties
        await _cancel(readers)
        for delivery in self._slots.close():
            self._pacing.leave(delivery)
            self._outcome(delivery, Release())
        self._pacing.close()
        running = len(self._slots.running)
        if running:
            grace = self._settings.shutdown_timeout
            log.info("worker.draining", extra={"owner": self.owner, "running": running, "grace": grace})
            await self._drain(grace)
        await self._marks.close()
        await self._cancellations.close()
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await self._settler.drained()
                if failpoints.armed:
                    failpoints.reached("while_stopping")
                await self._relay.finish()
                for sub in self._subscriptions:
                    await self._transport.recovery.hand_back(sub.stream, sub.group, self.owner, started=())
                await self._keeper.stop()
                await self._transport.recovery.retire(self.owner, self._subscriptions)
        except (TransportError, TimeoutError) as error:
            log.warning("worker.left_entries", extra={"owner": self.owner, "error": str(error)})
            await self._keeper.stop()
        await _cancel([settler, progress])
        self._checkpoints.close()
        self._executor.close()
        await self._put_away()
        await self._transport.close()
        self.metrics.unwatch_in_flight(self._in_flight)
        log.info("worker.stopped", extra={"owner": self.owner})

    async def _drain(self, grace: float) -> None:
        hurry = asyncio.create_task(self._hurry.wait())
        idle = asyncio.create_task(self._slots.idle(grace))
        await asyncio.wait((hurry, idle), return_when=asyncio.FIRST_COMPLETED)
        await _cancel([hurry, idle])
        for running in self._slots.running:
            for run in running.runs:
                log.warning(
                    "handler.interrupted",
                    extra={
                        "handler": run.handler.name,
                        "event_id": run.envelope.event_id,
                        "stream": run.delivery.stream,
                        "entry_id": run.delivery.entry_id,
                    },
                )
            running.cancel()
        await self._slots.idle(_LAST_WORDS / 2)

    async def burst_done(self) -> None:
        """Wait until nothing is ready, pending or due for retry."""
        quiet = 0
        while quiet < _QUIET_LOOKS:
            await asyncio.sleep(_QUIET)
            taken = self._flow.taken
            try:
                idle = not self._flow.held and await self._all_handled()
            except TransportError:
                idle = False
            quiet = quiet + 1 if idle and taken == self._flow.taken else 0

    async def _all_handled(self) -> bool:
        for sub in self._subscriptions:
            for stats in await self._transport.stats(sub.stream, sub.group):
                unread = stats.lag if stats.lag is not None else not all(fetcher.empty for fetcher in self._fetchers)
                if stats.pending or unread:
                    return False
        return await self._relay.is_done()

    # ── taking in ─────────────────────────────────────────────────────────────────────────────────────────────

    def _short(self) -> Collection[tuple[str, str]]:
        """Of which streams more is due than there was room for."""
        return self._reclaimer.short

    def _take(self, deliveries: list[Delivery], *, due: bool) -> None:
        """From a fetcher or the reclaimer: hold them until they are settled."""
        self._flow.took(len(deliveries), due=due)
        self._hold(deliveries)
        if failpoints.armed:
            failpoints.reached("before_handler")
        self._slots.put(deliveries, self._room.took(deliveries, due=due))

    def _hold(self, deliveries: list[Delivery]) -> None:
        self._leases.hold(deliveries)
        if self._room.counts:
            self._room.hold(deliveries)

    def _expire(self, deliveries: list[Delivery]) -> None:
        """From the reclaimer: these have waited too long for a worker that handles them."""
        self._flow.took(len(deliveries), due=True)
        self._hold(deliveries)
        for delivery in deliveries:
            self._outcome(delivery, self._broker.expired(delivery, self._interest))

    async def _look_round(self) -> None:
        """What waits here for a slot another worker may have free (rule 9); and who runs for long is told once."""
        while True:
            await asyncio.sleep(_UNSTARTED / 2)
            now = time.monotonic()
            self.health.loop_turned(now)
            overdue = self._slots.overdue(_UNSTARTED)
            if overdue:
                self._flow.stalled()
            for delivery in overdue:
                self._pacing.leave(delivery)
                self._outcome(delivery, Release())
            for running in self._slots.running:
                timeout = running.run.handler.timeout
                if not running.told and timeout.hard is None and now - running.since >= _RUNS_LONG:
                    running.told = True
                    self._reporter.runs_long(running, now - running.since)

    # ── handling and settling ─────────────────────────────────────────────────────────────────────────────────

    def _handler(self, running: Running) -> Coroutine[Any, Any, None]:
        handler = running.run.handler
        if handler.batch is not None:
            return self._handle_batch(running)
        return (self._handle if handler.rate_limit is None else self._handle_limited)(running)

    async def _handle(self, running: Running) -> None:
        """One handler in one slot, from its start to the outcome on its way."""
        run = running.run
        delivery = run.delivery
        if delivery in self._leases.lost:
            # While it waited for a slot.
            self._lost(run)
            return
        if self._started is not None:
            self._started.mark(running.number, self._places[delivery.stream, delivery.group], delivery.entry_id)
        try:
            outcome = await self._executor.execute(run)
        except LeaseLostError:
            self._lost(run)
        except asyncio.CancelledError as error:
            self._interrupted(running, error)
            if running.cancelled:
                raise
        else:
            if failpoints.armed:
                failpoints.reached("after_effect")
            if running.revoked:
                # Whatever it has come to meanwhile.
                outcome = self._broker.cancel(run)
            self._outcome(delivery, outcome, run, time.monotonic() - running.since)
        finally:
            if self._started is not None:
                self._started.clear(running.number)

    def _interrupted(self, running: Running, error: asyncio.CancelledError) -> None:
        """A handler ended with its cancellation: its own, its sender's, or ours."""
        run, seconds = running.run, time.monotonic() - running.since
        if not running.cancelled:
            # It has cancelled itself: handed back, it would do so again, for ever and uncharged.
            self._outcome(run.delivery, self._broker.fail(run, error), run, seconds)
        elif running.revoked:
            self._outcome(run.delivery, self._broker.cancel(run), run, seconds)
        else:
            self._outcome(run.delivery, Release(), run)

    # ── batches ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _handle_batch(self, running: Running) -> None:
        """The same for a batch."""
        left = self._still_held(running)

        def settle(run: Run, outcome: Outcome) -> None:
            del left[run.delivery]
            self._slots.ends_early(running)
            self._outcome(run.delivery, outcome, run)

        if not left:
            return
        with self._noted(running, list(left)):
            try:
                ended = await self._batches.execute(list(left.values()), settle)
            except LeaseLostError:
                for run in left.values():
                    self._lost(run)
            except asyncio.CancelledError as error:
                for run in left.values():
                    self._outcome(run.delivery, Release() if running.cancelled else self._broker.fail(run, error), run)
                if running.cancelled:
                    raise
            else:
                if failpoints.armed:
                    failpoints.reached("after_effect")
                self._batch_outcome(ended, time.monotonic() - running.since)

    def _still_held(self, running: Running) -> dict[Delivery, Run]:
        """What of a batch was not lost while it waited for a slot."""
        held = {}
        for run in running.runs:
            if self._leases.is_lost(run.delivery):
                self._slots.ends_early(running)
                self._lost(run)
            else:
                held[run.delivery] = run
        return held

    @contextmanager
    def _noted(self, running: Running, deliveries: Sequence[Delivery]) -> Iterator[None]:
        """These are started, for whoever has to tell after our death."""
        if self._started is None:
            yield
            return
        rows = [running.number + place * self._settings.concurrency for place in range(len(deliveries))]
        for row, delivery in zip(rows, deliveries, strict=True):
            self._started.mark(row, self._places[delivery.stream, delivery.group], delivery.entry_id)
        try:
            yield
        finally:
            for row in rows:
                self._started.clear(row)

    def _batch_outcome(self, ended: Sequence[tuple[Run, Outcome]], seconds: float) -> None:
        settlements = []
        for place, (run, outcome) in enumerate(ended):
            # The handler has run once for all of them.
            took = None if place else seconds
            self._left(run.delivery, took)
            signed = self._signed(outcome) if isinstance(outcome, Dead) else outcome
            settlements.append(Settlement(run.delivery, signed, run, took))
        for settlement in together(settlements):
            self._settler.put(settlement)

    async def _handle_limited(self, running: Running) -> None:
        """The same for a handler that may start so often only: its time has come, or it waits for it here."""
        run = running.run
        wait = await self._pacing.turn(run)
        if wait is not None:
            self._outcome(run.delivery, Release(wait))
            return
        running.since = time.monotonic()
        self._room.begin(run.delivery)
        try:
            await self._handle(running)
        finally:
            self._room.end(run.delivery)

    # ── what becomes of it ────────────────────────────────────────────────────────────────────────────────────

    def _signed(self, dead: Dead) -> Dead:
        return msgspec.structs.replace(dead, worker=self.owner)

    def _lost(self, run: Run) -> None:
        self._left(run.delivery)
        self._settled([(Settlement(run.delivery, Done(), run), Verdict.LOST)])

    def _outcome(
        self, delivery: Delivery, outcome: Outcome, run: Run | None = None, seconds: float | None = None
    ) -> None:
        # As `_left` does; every delivery comes by here.
        if self._room.counts:
            self._room.leave(delivery)
        self._flow.left(seconds)
        if isinstance(outcome, Dead):
            outcome = self._signed(outcome)
        self._settler.put(Settlement(delivery, outcome, run, seconds))

    def _left(self, delivery: Delivery, seconds: float | None = None) -> None:
        if self._room.counts:
            self._room.leave(delivery)
        self._flow.left(seconds)

    def _settled(self, settled: Sequence[tuple[Settlement, Verdict]]) -> None:
        self._leases.drop([settlement.delivery for settlement, _ in settled])
        self._reporter.settled(settled)

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

    def _in_flight(self) -> dict[str, int]:
        groups = Counter({sub.group: 0 for sub in self._subscriptions})
        groups.update(running.run.delivery.group for running in self._slots.running)
        return dict(groups)

    def _info(self) -> bytes:
        return msgspec.json.encode(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "supervisor_pid": self._supervisor.supervisor_pid if self._supervisor else None,
                "groups": self._groups(),
                "running": len(self._slots.running),
            }
        )


def _is_plain(handler: Handler) -> bool:
    return handler.batch is None and handler.rate_limit is None


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
