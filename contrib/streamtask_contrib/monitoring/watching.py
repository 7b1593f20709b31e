"""Who looks: one watcher at a time, by a lease; another takes over within seconds and goes on where it was.

Each look is one turn: see, judge, write down what has changed and tell it, write down where it stands. A turn ends
before the lease does. What a watcher that dies leaves behind: what is open (`anomalies.py`), how things stood at its
last look, and, once a minute, what is usual. So nothing is told twice or forgotten, and nothing has to be learned anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from streamtask import App, StreamtaskError
from streamtask_contrib.events import AnomalyDetected
from streamtask_contrib.leases import Lease
from streamtask_contrib.monitoring import bots, seeing
from streamtask_contrib.monitoring.anomalies import KEPT, Anomalies, digest, identity
from streamtask_contrib.monitoring.board import Board
from streamtask_contrib.monitoring.detection import Closed, Detector, Opened
from streamtask_contrib.monitoring.samples import Sample
from streamtask_contrib.monitoring.settings import MonitoringSettings

log = logging.getLogger(__name__)

#: The lease of whoever watches, and the records of how things stand and of what is usual.
LEASE, _MOMENTS, _USUAL = "monitoring-watch", "monitoring-moments", "monitoring-usual"
#: Seconds between two tries to become the watcher, or to stay it; and between two times that the usual is kept.
_TRY, _KEEP = 1.0, 60.0
#: No figure is told as larger.
_LARGEST = 1e12
#: What a broken record may raise when it is read.
_BROKEN = (ValueError, TypeError, KeyError, AttributeError)


class Watcher:
    """Watches while it holds the lease, and waits for it else. `run` it in each worker."""

    def __init__(self, app: App, settings: MonitoringSettings) -> None:
        self._app = app
        self._settings = settings
        self._limits = settings.limits()
        self._anomalies = Anomalies(app)
        holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._lease = Lease(app.records, LEASE, holder, ttl=settings.lease_ttl)
        self._watch: _Watch | None = None
        # Seconds of the epoch that no change of the system's clock moves.
        self._epoch = datetime.now(UTC).timestamp() - time.monotonic()

    async def run(self) -> None:
        """Watch until cancelled, and then leave it to others at once."""
        try:
            while True:
                await self._turn()
                await asyncio.sleep(self._pause())
        finally:
            await self._leave()

    def _pause(self) -> float:
        """Seconds until the lease is to be renewed, or the next look is due."""
        pause = min(_TRY, self._settings.lease_ttl / 4)
        if self._watch is None:
            return pause
        return min(pause, max(0.01, self._watch.due - self._epoch - time.monotonic()))

    async def _turn(self) -> None:
        try:
            if not await self._lease.take():
                self._watch = None
                return
            async with asyncio.timeout(self._lease.remaining):
                await self._look()
        except TimeoutError:
            log.warning("monitoring.too_slow", extra={"meaning": "a look took longer than the lease; again"})
        except StreamtaskError as error:
            log.warning("monitoring.interrupted", extra={"error": str(error)})
        except Exception:
            # A bug in one look must not end all looking; what was going on is begun anew from what is written down.
            log.exception("monitoring.failed")
            self._watch = None

    async def _look(self) -> None:
        now = self._epoch + time.monotonic()
        if self._watch is None:
            self._watch = await self._taken_over()
        if now >= self._watch.due:
            # From the end of the last one on: a slow broker is not asked without a pause.
            await self._watch.look(now)

    async def _taken_over(self) -> _Watch:
        log.info("monitoring.watching")
        watch = _Watch(self._app, self._settings, self._anomalies, Detector(self._limits))
        await watch.load()
        return watch

    async def _leave(self) -> None:
        if self._lease.remaining:
            try:
                async with asyncio.timeout(2.0):
                    await self._lease.release()
            except (StreamtaskError, TimeoutError) as error:
                log.info("monitoring.not_released", extra={"error": str(error)})


class _Watch:
    """One holding of the lease."""

    def __init__(self, app: App, settings: MonitoringSettings, anomalies: Anomalies, detector: Detector) -> None:
        self._app = app
        self._settings = settings
        self._limits = settings.limits()
        self._anomalies = anomalies
        self._detector = detector
        #: What was found and is not written down yet, in order.
        self._found: deque[tuple[AnomalyDetected, str] | Closed] = deque()
        #: Something may be written down and not published.
        self._is_untold = True
        #: Processes of bots for which recovery has been asked.
        self._asked: set[str] = set()
        self._kept_at = 0.0
        #: When the next look is.
        self.due = 0.0

    async def load(self) -> None:
        """Go on from what is written down."""
        for anomaly in await self._anomalies.known():
            if not anomaly.is_over:
                self._detector.adopt(anomaly.name, part_of=anomaly.part_of)
        for value in (await self._app.records.read(_USUAL)).values():
            self._load_usual(value)
        moments = (await self._app.records.read(_MOMENTS)).get("moments")
        if moments is not None:
            try:
                self._detector.load_moments(json.loads(moments))
            except _BROKEN as error:
                log.warning("monitoring.unreadable", extra={"what": "moments", "error": repr(error)})

    def _load_usual(self, value: bytes) -> None:
        try:
            written = json.loads(value)
            self._detector.load_usual(written["of"], written["subject"], written["usual"])
        except _BROKEN as error:
            log.warning("monitoring.unreadable", extra={"what": "what is usual", "error": repr(error)})

    async def look(self, now: float) -> None:
        """See, judge, tell, and write down where it stands."""
        sample = await seeing.look(self._app, now)
        for change in self._detector.look(sample):
            # The event is made once, so that it has one id however often it has to be told.
            self._found.append(change if isinstance(change, Closed) else (_event(change), change.part_of))
        # Judged is judged: the next look is due also where telling fails, which is made up for then.
        self.due = now + self._settings.interval
        await self._tell()
        await self._recover(sample)
        await self._keep(now)

    # ── telling ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _tell(self) -> None:
        if self._is_untold:
            await self._anomalies.publish()
            self._is_untold = False
        while self._found:
            # What raises has been written down, or has not: the next turn finds out.
            self._is_untold = True
            change = self._found[0]
            if isinstance(change, Closed):
                await self._end(change)
            else:
                event, part_of = change
                await self._anomalies.detected(event, part_of=part_of)
                log.info("monitoring.detected", extra={"kind": event.kind, "subject": event.subject})
            self._found.popleft()
            self._is_untold = False

    async def _end(self, change: Closed) -> None:
        for anomaly in await self._anomalies.known():
            if anomaly.name == (change.kind, change.subject) and not anomaly.is_over:
                await self._anomalies.recovered(
                    anomaly, observed=_bounded(change.observed), evidence=change.evidence, at=datetime.now(UTC)
                )
                log.info("monitoring.recovered", extra={"kind": change.kind, "subject": change.subject})

    async def _recover(self, sample: Sample) -> None:
        wanted = [request for bot in sample.bots if (request := bots.recovery(bot, self._limits)) is not None]
        for request in wanted:
            if request.request_id not in self._asked:
                # Named apart from the bot's statuses, which are "bot:number", too: a stream has one set of such keys.
                await self._app.publish(request, dedup_key=f"recovery:{request.request_id}")
                self._asked.add(request.request_id)
        self._asked &= {f"{bot.bot_id}:{bot.attempt}" for bot in sample.bots}

    # ── keeping ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self, now: float) -> None:
        moments = _written(self._detector.dump_moments())
        await self._app.records.write(_MOMENTS, {"moments": moments}, ttl=KEPT)
        if now - self._kept_at < _KEEP:
            return
        usual = {
            digest(of, subject): _written({"of": of, "subject": subject, "usual": usual})
            for of, subject, usual in self._detector.dump_usual()
        }
        gone = [field for field in await self._app.records.read(_USUAL) if field not in usual]
        if gone:
            await self._app.records.delete(_USUAL, gone)
        if usual:
            await self._app.records.write(_USUAL, usual, ttl=KEPT)
        await self._anomalies.renew()
        await Board(self._app.records).tidy()
        self._kept_at = now


def _event(opened: Opened) -> AnomalyDetected:
    finding = opened.finding
    return AnomalyDetected(
        anomaly_id=identity(secrets.token_hex(8), "detected"),
        kind=finding.kind,
        subject=finding.subject,
        severity=finding.severity,
        observed=_bounded(finding.observed),
        expected=_bounded(finding.expected),
        score=_bounded(finding.score),
        evidence=finding.evidence,
    )


def _bounded(figure: float) -> float:
    """A figure as JSON can hold it."""
    return 0.0 if math.isnan(figure) else min(max(figure, -_LARGEST), _LARGEST)


def _written(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
