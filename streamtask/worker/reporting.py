"""What was settled → the log and the metrics. Changes nothing."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable

from streamtask.errors import HandlerTimeoutError
from streamtask.telemetry.metrics import Metrics, SettledAs
from streamtask.transport.values import (
    DONE,
    Cancelled,
    Dead,
    Done,
    Outcome,
    Outgoing,
    Release,
    Retry,
    Skip,
    Verdict,
    Wait,
)
from streamtask.worker.settler import Settlement
from streamtask.worker.slots import Running

log = logging.getLogger(__name__)

_TIMED_OUT = f"{HandlerTimeoutError.__name__}:"
_COUNTED_AS: dict[type[Outcome], SettledAs] = {
    Done: "done",
    Cancelled: "cancelled",
    Release: "released",
    Skip: "skipped",
    Wait: "waiting",
}


class Reporter:
    """Tells what became of each delivery."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def settled(self, settled: Iterable[tuple[Settlement, Verdict]]) -> None:
        """Outcomes were committed, or refused because the lease had been lost."""
        counted: defaultdict[tuple[str, str, str, SettledAs], list[float | None]] = defaultdict(list)
        emitted: list[Outgoing] = []
        debugging = log.isEnabledFor(logging.DEBUG)
        for settlement, verdict in settled:
            delivery, outcome, run = settlement.delivery, settlement.outcome, settlement.run
            event_type = "" if run is None else run.envelope.event_type
            if verdict is Verdict.SETTLED and type(outcome) is Done:
                counted[delivery.stream, delivery.group, event_type, "done"].append(settlement.seconds)
                if outcome is not DONE:
                    emitted += outcome.emits
                if debugging:
                    log.debug("event.done", extra={**_fields(settlement), "seconds": settlement.seconds})
            elif verdict is Verdict.LOST:
                self._metrics.lease_lost(delivery.stream, delivery.group)
                log.warning("lease_lost", extra=_fields(settlement))
            else:
                kind: SettledAs = "deduplicated" if verdict is Verdict.DUPLICATE else _counted_as(outcome)
                counted[delivery.stream, delivery.group, event_type, kind].append(settlement.seconds)
                if isinstance(outcome, Dead):
                    emitted += outcome.emits
                self._tell(settlement, verdict)
        for labels, runs in counted.items():
            self._metrics.settled(*labels, runs)
        for stream, n in Counter([emit.stream for emit in emitted]).items():
            self._metrics.published(stream, n)

    def _tell(self, settlement: Settlement, verdict: Verdict) -> None:
        """What is not a plain success is worth a line."""
        outcome = settlement.outcome
        if verdict is Verdict.DUPLICATE:
            log.info("deduplicated", extra=_fields(settlement))
        elif isinstance(outcome, Cancelled):
            log.info("task.cancelled", extra=_fields(settlement))
        elif isinstance(outcome, Dead):
            self._metrics.dead(settlement.delivery.stream, settlement.delivery.group, outcome.reason)
            log.error("event.dead", extra={**_fields(settlement), "reason": outcome.reason, "error": outcome.error})
        elif isinstance(outcome, Retry):
            log.warning("event.retry", extra={**_fields(settlement), "delay": outcome.delay, "error": outcome.error})
        elif isinstance(outcome, Skip) and outcome.event_type:
            log.debug("event.skipped", extra={**_fields(settlement), "skipped_type": outcome.event_type})

    def runs_long(self, running: Running, seconds: float) -> None:
        """A handler without a timeout has been running for `seconds`."""
        log.warning(
            "handler.runs_long",
            extra={
                **_fields(Settlement(running.run.delivery, Release(), running.run)),
                "handler": running.run.handler.name,
                "seconds": round(seconds),
                "hint": "it has no timeout; its lease is renewed for as long as it runs",
            },
        )


def _fields(settlement: Settlement) -> dict[str, object]:
    delivery, run = settlement.delivery, settlement.run
    fields: dict[str, object] = {
        "stream": delivery.stream,
        "group": delivery.group,
        "entry_id": delivery.entry_id,
        "attempt": delivery.attempt,
    }
    if run is not None:
        envelope = run.envelope
        fields |= {"event_id": envelope.event_id, "event_type": envelope.event_type, "trace_id": envelope.trace_id}
    return fields


def _counted_as(outcome: Outcome) -> SettledAs:
    if isinstance(outcome, Retry):
        if not outcome.failed:
            return "retry_later"
        return "timeout" if outcome.error.startswith(_TIMED_OUT) else "retry"
    if isinstance(outcome, Dead):
        return "rejected" if outcome.reason == "rejected" else "dead"
    return _COUNTED_AS[type(outcome)]
