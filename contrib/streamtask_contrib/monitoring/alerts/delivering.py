"""What sinks that send have in common: which alerts, for how long they are tried, and in which order.

An alert is sent at least once, and a recovery not before its anomaly: while that waits to be tried again, so does the
recovery. Alerts of different anomalies do not wait for each other.
"""

from __future__ import annotations

from datetime import UTC, datetime

from streamtask import Backoff, Context, Records, Reject, Retry, RetryLater, StreamtaskError
from streamtask_contrib.events import AnomalyDetected
from streamtask_contrib.monitoring.anomalies import base_of, digest
from streamtask_contrib.monitoring.settings import MonitoringSettings

#: Tried again until it is too old: the number of attempts is no bound of its own.
RETRY = Retry(1_000_000, backoff=Backoff(base=1, cap=60))
#: Seconds after which a recovery looks again whether its anomaly was told; and for which it waits for one that nobody
#: has begun to tell: it may have been told before this sink was there.
_AGAIN, _UNKNOWN = 2.0, 30.0
_STATE = "state"


class AlertError(StreamtaskError):
    """An alert could not be delivered, and is tried again. Never names the address: that may be a secret."""


class Alert:
    """One anomaly, or its recovery, on its way to one sink."""

    def __init__(self, sink: str, event: AnomalyDetected, records: Records, settings: MonitoringSettings) -> None:
        self._event = event
        self._records = records
        self._settings = settings
        self._key = f"monitoring-told-{sink}-{digest(base_of(event.anomaly_id))}"
        self._ttl = 2 * settings.alert_for + _UNKNOWN

    @property
    def is_wanted(self) -> bool:
        """Whether it is bad enough."""
        return self._settings.alert_from == "warning" or self._event.severity == "critical"

    async def begin(self) -> set[str]:
        """Before each try: the addresses to which it has been delivered already.

        Raises:
            RetryLater: what it is the end of has not been told yet.
            Reject: it is too old to be tried any more.
        """
        standing = await self._records.read(self._key)
        age = (datetime.now(UTC) - self._event.detected_at).total_seconds()
        if age > self._settings.alert_for:
            await self.settled()
            raise Reject(f"not delivered within {self._settings.alert_for:.0f} s")
        if self._event.state == "detected":
            if _STATE not in standing:
                await self._records.write(self._key, {_STATE: b"begun"}, ttl=self._ttl)
        elif standing.get(_STATE) == b"begun" or (_STATE not in standing and age < _UNKNOWN):
            raise RetryLater("its anomaly has not been told yet", delay=_AGAIN)
        prefix = f"{self._event.state}-"
        return {field.removeprefix(prefix) for field in standing if field.startswith(prefix)}

    async def delivered(self, address: str) -> None:
        """It was delivered to one of several addresses, named so that it is no secret."""
        await self._records.write(self._key, {f"{self._event.state}-{address}": b"1"}, ttl=self._ttl)

    async def settled(self) -> None:
        """It was delivered, or never will be: its recovery may go."""
        if self._event.state == "detected":
            await self._records.write(self._key, {_STATE: b"settled"}, ttl=self._ttl)


def alert_of(sink: str, event: AnomalyDetected, ctx: Context, settings: MonitoringSettings) -> Alert:
    """An alert on its way to a sink."""
    return Alert(sink, event, ctx.app.records, settings)


def text_of(event: AnomalyDetected) -> tuple[str, str]:
    """A title and a text for people."""
    state = "over" if event.state == "recovered" else event.severity
    return f"[{state}] {event.kind}: {event.subject}", event.evidence
