"""One worker process: wires the duties together, holds the slots, and drains at the end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from streamtask.broker import Broker
from streamtask.context import Application
from streamtask.errors import ConfigurationError, LeaseLostError, TransportError
from streamtask.settings import Retention, WorkerSettings
from streamtask.transport.port import (
    Dead,
    Delivery,
    Done,
    Outcome,
    Registered,
    Release,
    Retry,
    Skip,
    Subscription,
    Transport,
    TypeVersion,
    Verdict,
)
from streamtask.worker.executor import Executor
from streamtask.worker.fetcher import Fetcher
from streamtask.worker.flow import Flow
from streamtask.worker.janitor import Janitor
from streamtask.worker.keeper import Keeper
from streamtask.worker.leases import Leases
from streamtask.worker.parent import SupervisorLink
from streamtask.worker.probes import Health
from streamtask.worker.reclaimer import Reclaimer
from streamtask.worker.settler import Settler
from streamtask.worker.started import StartedTable

log = logging.getLogger(__name__)

#: Seconds that a fetched entry may wait for a slot before it goes back.
_UNSTARTED = 1.0


def new_owner() -> str:
    """A name that no other process, and no later process with our id, has."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class Worker:
    """Consumes events until it is stopped. `start`, then `stop`; or `run` for both."""

    def __init__(
        self,
        app: Application,
        broker: Broker,
        open_transport: Callable[[], Transport],
        settings: WorkerSettings,
        retention: Retention,
        *,
        supervisor: SupervisorLink | None = None,
    ) -> None:
        self.owner = new_owner()
        self._supervisor = supervisor
        self._started = StartedTable.attach(supervisor.started_fd) if supervisor else None
        self.health = Health(time.monotonic())
        self._app = app
        self._broker = broker
        self._open = open_transport
        self._settings = settings
        self._retention = retention
        self._subscriptions = broker.subscriptions(settings.groups, settings.streams)
        if not self._subscriptions:
            raise ConfigurationError(
                f"app {app.name!r} has no handlers for groups {list(settings.groups) or 'all'} and streams "
                f"{list(settings.streams) or 'all'}; nothing to consume"
            )
        self._places = {(sub.stream, sub.group): index for index, sub in enumerate(self._subscriptions)}
        self._interest: dict[tuple[str, str], frozenset[TypeVersion]] = {}
        self._queue: deque[tuple[float, Delivery]] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._running: dict[str, int] = defaultdict(int)
        self._slots: list[asyncio.Task[None]] = []
        self._duties: list[asyncio.Task[None]] = []
        self._fetchers: list[Fetcher] = []
        self._leases = Leases()
        self._flow = Flow(settings.concurrency)
        self._stopping = False

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Connect, register the groups, and begin to consume."""
        loop = asyncio.get_running_loop()
        self._transport = await asyncio.to_thread(self._open)
        await self._transport.connect()
        for sub in self._subscriptions:
            self._registered(sub, await self._transport.register(sub))
        if self._supervisor:
            self._supervisor.introduce(self.owner, self._app.url, list(self._places))
        self._keeper = Keeper(
            self._open,
            self.owner,
            self._leases,
            lease=self._settings.lease,
            info=self._info,
            on_lost=lambda lost: loop.call_soon_threadsafe(self._lose, lost),
            on_beat=self._beat,
        )
        self._keeper.start()
        await self._keeper.first_beat()
        self._executor = Executor(self._app, self._broker, self._leases, self._seen, self._settings.concurrency)
        self._settler = Settler(self._transport, self._settled, self._trouble)
        self._duty("settler", self._settler.run())
        self._slots = [
            asyncio.create_task(self._slot(i), name=f"streamtask-slot-{i}") for i in range(self._settings.concurrency)
        ]
        self._start_readers()
        if self._supervisor:
            self._supervisor.ready()
        log.info("worker.started", extra={"owner": self.owner, "groups": sorted({s.group for s in self._subscriptions})})

    def _start_readers(self) -> None:
        for group in dict.fromkeys(sub.group for sub in self._subscriptions):
            fetcher = Fetcher(
                self._transport,
                self.owner,
                [sub for sub in self._subscriptions if sub.group == group],
                flow=self._flow,
                leases=self._leases,
                health=self.health,
                take=self._take,
                saturated=self._saturated,
            )
            self._fetchers.append(fetcher)
            self._duty(f"fetcher-{group}", fetcher.run())
        reclaimer = Reclaimer(
            self._transport,
            self.owner,
            self._subscriptions,
            flow=self._flow,
            leases=self._leases,
            keeper=self._keeper,
            lease=self._settings.lease,
            take=self._take,
            expire=self._expire,
        )
        self._duty("reclaimer", reclaimer.run())
        self._duty("unstarted", self._hand_back_unstarted())
        janitor = Janitor(self._transport, self._subscriptions, self._retention, self._registered)
        self._duty("janitor", janitor.run())

    def _duty(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        self._duties.append(asyncio.create_task(coroutine, name=f"streamtask-{name}"))

    async def stop(self) -> None:
        """No new reads; what runs may end within the grace; the rest goes back, uncharged."""
        self._stopping = True
        self.health.stopping()
        settler, *readers = self._duties
        await _cancel(readers)
        for _, delivery in self._queue:
            self._outcome(delivery, Release())
        self._queue.clear()
        end = time.monotonic() + self._settings.shutdown_timeout
        while any(self._running.values()) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await _cancel(self._slots)
        try:
            async with asyncio.timeout(5):
                await self._settler.drained()
                for delivery in self._leases.snapshot():
                    log.warning("handler.interrupted", extra={"stream": delivery.stream, "entry_id": delivery.entry_id})
                for sub in self._subscriptions:
                    await self._transport.recovery.hand_back(sub.stream, sub.group, self.owner, started=())
                await self._keeper.stop()
                await self._transport.recovery.retire(self.owner, self._subscriptions)
        except (TransportError, TimeoutError) as error:
            log.warning("worker.left_entries", extra={"owner": self.owner, "error": str(error)})
            await self._keeper.stop()
        await _cancel([settler])
        self._executor.close()
        await self._transport.close()
        log.info("worker.stopped", extra={"owner": self.owner})

    async def burst_done(self) -> None:
        """Wait until nothing is ready, pending or due for retry."""
        while True:
            await asyncio.sleep(0.05)
            if self._flow.held or not all(fetcher.empty for fetcher in self._fetchers):
                continue
            try:
                stats = [
                    found
                    for sub in self._subscriptions
                    for found in await self._transport.stats(sub.stream, sub.group)
                ]
            except TransportError:
                continue
            if all(found.pending == 0 and found.lag == 0 for found in stats):
                return

    # ── deliveries ────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, deliveries: list[Delivery]) -> None:
        """From the fetcher or the reclaimer: hold them and wake as many slots."""
        now = time.monotonic()
        self._flow.took(len(deliveries))
        for delivery in deliveries:
            self._leases.hold(delivery)
            self._queue.append((now, delivery))
        for _ in range(min(len(deliveries), len(self._waiters))):
            self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _slot(self, number: int) -> None:
        """One of `concurrency` long-lived tasks: takes a delivery, runs it, again."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                waiter = loop.create_future()
                self._waiters.append(waiter)
                await waiter
            _, delivery = self._queue.popleft()
            if self._started is None:
                await self._run(delivery)
                continue
            self._started.mark(number, self._places[delivery.stream, delivery.group], delivery.entry_id)
            try:
                await self._run(delivery)
            finally:
                self._started.clear(number)

    async def _run(self, delivery: Delivery) -> None:
        group = delivery.group
        self._running[group] += 1
        started = time.perf_counter()
        handling = asyncio.ensure_future(
            self._executor.execute(delivery, self._interest.get((delivery.stream, group), frozenset()))
        )
        self._leases.on_lost(delivery, handling.cancel)
        try:
            outcome = await handling
        except LeaseLostError:
            self._lost(delivery)
            return
        except asyncio.CancelledError:
            handling.cancel()
            if self._stopping:
                self._outcome(delivery, Release())
            raise
        finally:
            self._running[group] -= 1
        self._outcome(delivery, outcome, time.perf_counter() - started)

    def _outcome(self, delivery: Delivery, outcome: Outcome, seconds: float | None = None) -> None:
        self._flow.left(seconds)
        self._settler.put(delivery, outcome)

    def _settled(self, delivery: Delivery, outcome: Outcome, verdict: Verdict) -> None:
        fields = {"stream": delivery.stream, "group": delivery.group, "entry_id": delivery.entry_id}
        self._leases.drop(delivery)
        if verdict is Verdict.LOST:
            log.warning("lease_lost", extra=fields)
        elif verdict is Verdict.DUPLICATE:
            log.info("deduplicated", extra=fields)
        elif isinstance(outcome, Dead):
            log.error("event.dead", extra={**fields, "reason": outcome.reason, "error": outcome.error})
        elif isinstance(outcome, Retry):
            log.warning("event.retry", extra={**fields, "delay": outcome.delay, "error": outcome.error})
        elif isinstance(outcome, Skip) and outcome.event_type:
            log.debug("event.skipped", extra={**fields, "skipped_type": outcome.event_type})

    def _trouble(self, error: TransportError) -> None:
        log.warning("settle.failed", extra={"error": str(error)})

    def _lost(self, delivery: Delivery) -> None:
        self._flow.left()
        self._settled(delivery, Done(), Verdict.LOST)

    def _lose(self, lost: list[Delivery]) -> None:
        for delivery in lost:
            self._leases.lose(delivery)

    def _expire(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self._flow.took(1)
            self._leases.hold(delivery)
            interest = self._interest.get((delivery.stream, delivery.group), frozenset())
            self._outcome(delivery, self._broker.expired(delivery, interest))

    async def _hand_back_unstarted(self) -> None:
        """What waits here for a slot another worker may have free (rule 9)."""
        while True:
            await asyncio.sleep(_UNSTARTED / 2)
            late = time.monotonic() - _UNSTARTED
            while self._queue and self._queue[0][0] < late:
                self._outcome(self._queue.popleft()[1], Release())

    def _saturated(self, stream: str, group: str) -> bool:
        return False

    # ── what the duties ask and tell ──────────────────────────────────────────────────────────────────────────

    async def _seen(self, group: str, stream: str, mark: str) -> bool:
        while True:
            try:
                [seen] = await self._transport.marked(group, [(stream, mark)])
            except TransportError:
                await asyncio.sleep(0.1)
            else:
                return seen

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

    def _beat(self, ok: bool) -> None:
        now = time.monotonic()
        self.health.keeper_turned(now)
        if ok:
            self.health.beat_ok(now)

    def _info(self) -> bytes:
        return msgspec.json.encode(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "supervisor_pid": self._supervisor.supervisor_pid if self._supervisor else None,
                "groups": sorted({sub.group for sub in self._subscriptions}),
                "running": sum(self._running.values()),
            }
        )


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
