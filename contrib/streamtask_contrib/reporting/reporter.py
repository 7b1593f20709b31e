"""The reporter of one process: looks at what it has counted, asks the checks, publishes, and says when it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Literal

from streamtask import App, Event, Router, StreamtaskError
from streamtask_contrib.duties import running
from streamtask_contrib.events import ServiceHealthReport, UsageMetrics
from streamtask_contrib.reporting.figures import Counts, counts, quantiles, resident_bytes, runs

log = logging.getLogger(__name__)

#: Answers None, or "", where all is well, and else what is wrong, in a line for people.
Check = Callable[[], Awaitable[str | None]]

#: Seconds between two reports of usage, and over which the durations of handlers are told.
_USAGE_EVERY = 60.0
_WINDOW = 60.0
#: Seconds that a check, a publish, and the last word may take.
_CHECK, _PUBLISH, _LAST = 5.0, 5.0, 2.0
#: Seconds between two looks at the event loop, and how late it may come to be well.
_LOOK, _LATE = 0.25, 1.0


def router(service: str, *, every: float = 10.0, checks: Sequence[Check] = ()) -> Router:
    """What makes each worker process of an app report itself: `app.include(router("billing"))`.

    `every`: seconds between two reports. `checks`: coroutine functions that say what is wrong, if anything is; one that
    raises, or does not answer within five seconds, is something that is wrong.
    """
    routes = Router()

    @routes.worker_lifespan
    async def reporting(app: App) -> AsyncIterator[None]:
        async with Reporter(app, service, every=every, checks=checks).running():
            yield

    return routes


class Reporter:
    """Reports one process: for programs that run no worker, which have no lifespan to do so."""

    def __init__(
        self,
        app: App,
        service: str,
        *,
        every: float = 10.0,
        checks: Sequence[Check] = (),
        without_worker: bool = False,
    ) -> None:
        """`app`: connected while it runs. `without_worker`: report also while no worker runs in this process.

        The children of `pool="process"` have the lifespans of their app, and none of its worker: they are no service.
        """
        if every <= 0:
            raise ValueError(f"every is in seconds and above 0, got {every}")
        self._app = app
        self._service = service
        self._every = every
        self._checks = tuple(checks)
        self._without_worker = without_worker
        self.instance = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(2)}"
        self._began = time.monotonic()
        #: What was counted before, oldest first: the last minute's, for what is told of it.
        self._earlier = deque([(self._began, Counts())])
        #: What was counted when usage was last told.
        self._used = (datetime.now(UTC), Counts())
        self._latest = 0.0
        self._has_reported = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Report until the end, and then that it ends."""
        # An app may have had a worker before, whose reporter has told of that.
        before = self._counted() or Counts()
        self._earlier = deque([(time.monotonic(), before)])
        self._used = (datetime.now(UTC), before)
        try:
            async with running(self._watch_loop(), self._report(), ended="reporting.ended"):
                yield
        finally:
            if self._has_reported:
                await self._end()

    # ── the duties ────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch_loop(self) -> None:
        """Note how late the event loop comes: what blocks it blocks every handler."""
        while True:
            due = time.monotonic() + _LOOK
            await asyncio.sleep(_LOOK)
            self._latest = max(self._latest, time.monotonic() - due)

    async def _report(self) -> None:
        while True:
            now = self._counted()
            if now is not None and now.running is None and not self._without_worker:
                await asyncio.sleep(_LOOK)
                continue
            if now is not None:
                await self._tell(now)
            await asyncio.sleep(self._every)

    async def _tell(self, now: Counts) -> None:
        figures = self._figures(now)
        troubles = [trouble for trouble in await asyncio.gather(*map(_asked, self._checks)) if trouble]
        if figures["loop_lag_seconds"] > _LATE:
            troubles.append(f"the event loop stood still for {figures['loop_lag_seconds']:.1f} s")
        await self._publish(self._health("degraded" if troubles else "ok", troubles, figures), _PUBLISH)
        self._has_reported = True
        if datetime.now(UTC) - self._used[0] >= timedelta(seconds=_USAGE_EVERY):
            await self._tell_usage(now, _PUBLISH)

    async def _tell_usage(self, now: Counts, within: float) -> None:
        moment = datetime.now(UTC)
        since, before = self._used
        usage = UsageMetrics(
            service=self._service,
            instance=self.instance,
            since=since,
            until=moment,
            amounts={
                "handled_events": now.handled - before.handled,
                "failed_events": now.failed - before.failed,
                "dead_events": now.dead - before.dead,
            }
            | {name: amount - before.amounts.get(name, 0.0) for name, amount in now.amounts.items()},
        )
        # What could not be told is told with the next: the span grows.
        if await self._publish(usage, within):
            self._used = (moment, now)

    async def _end(self) -> None:
        now = self._counted()
        if now is not None:
            await self._tell_usage(now, _LAST)
            await self._publish(self._health("down", ["it ended in order"], self._figures(now)), _LAST)

    # ── what is told ──────────────────────────────────────────────────────────────────────────────────────────

    def _counted(self) -> Counts | None:
        """What stands in the registry; None where it cannot be read: the service goes on whatever its collectors do."""
        try:
            return counts(self._app.metrics.registry)
        except Exception as error:  # noqa: BLE001 - collectors are anybody's
            log.warning("reporting.failed", extra={"service": self._service, "error": repr(error)})
            return None

    def _figures(self, now: Counts) -> dict[str, float]:
        moment = time.monotonic()
        while len(self._earlier) > 1 and self._earlier[1][0] <= moment - _WINDOW:
            self._earlier.popleft()
        since, before = self._earlier[0]
        self._earlier.append((moment, now))
        span = max(moment - since, _LOOK)
        figures = {
            "uptime_seconds": moment - self._began,
            "loop_lag_seconds": self._latest,
            "handled_events": now.handled,
            "failed_events": now.failed,
            "dead_events": now.dead,
            "handled_events_per_second": (now.handled - before.handled) / span,
            "failed_events_per_second": (now.failed - before.failed) / span,
            "recent_runs": runs(before, now),
        }
        self._latest = 0.0
        if now.running is not None:
            figures["running_events"] = now.running
        if (memory := resident_bytes()) is not None:
            figures["resident_bytes"] = memory
        if (durations := quantiles(before, now, (0.5, 0.95))) is not None:
            figures["handler_p50_seconds"], figures["handler_p95_seconds"] = durations
        return figures

    def _health(
        self, status: Literal["ok", "degraded", "down"], troubles: list[str], figures: dict[str, float]
    ) -> ServiceHealthReport:
        return ServiceHealthReport(
            service=self._service, instance=self.instance, status=status, details=troubles, figures=figures
        )

    async def _publish(self, event: Event, within: float) -> bool:
        """Publish, or leave it: whether it is stored. The next one says more than this one said late."""
        try:
            async with asyncio.timeout(within):
                await self._app.publish(event)
        except (StreamtaskError, TimeoutError) as error:
            log.warning("reporting.unpublished", extra={"service": self._service, "error": str(error) or "no answer"})
            return False
        return True


async def _asked(check: Check) -> str | None:
    """What a check says; that it fails is something to say, too."""
    name = getattr(check, "__name__", repr(check))
    try:
        async with asyncio.timeout(_CHECK):
            said = await check()
            return str(said) if said else None
    except TimeoutError:
        return f"the check {name} has not answered within {_CHECK:g} s"
    except Exception as error:  # noqa: BLE001 - a check is anything
        return f"the check {name} failed: {type(error).__name__}: {error}"
