"""Anomalies in the log: a line when one begins, a line when it is over."""

from __future__ import annotations

import logging

from streamtask import Router
from streamtask_contrib.events import AnomalyDetected

log = logging.getLogger(__name__)


def router() -> Router:
    """The sink, in the group `alert-log`."""
    routes = Router()

    @routes.on(AnomalyDetected, group="alert-log", start="latest")
    async def write(anomaly: AnomalyDetected) -> None:
        level = logging.INFO
        if anomaly.state == "detected":
            level = logging.ERROR if anomaly.severity == "critical" else logging.WARNING
        log.log(
            level,
            "anomaly.detected" if anomaly.state == "detected" else "anomaly.recovered",
            extra={
                "kind": anomaly.kind,
                "subject": anomaly.subject,
                "severity": anomaly.severity,
                "evidence": anomaly.evidence,
                "anomaly_id": anomaly.anomaly_id,
            },
        )

    return routes
