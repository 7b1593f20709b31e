"""Telling of trouble that lasts: when a duty begins to fail, every ten seconds while it does, and when it is over."""

from __future__ import annotations

import logging
import math
import time

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

#: Seconds between two lines about the same trouble.
TOLD_EVERY = 10.0


class Outage:
    """The trouble of one duty (`fetch`, `settle`...). Every failure is counted; few are logged."""

    def __init__(self, duty: str, metrics: Metrics, **fields: object) -> None:
        self._duty = duty
        self._metrics = metrics
        self._fields = fields
        self._since: float | None = None
        self._is_told = False
        self._told_at = -math.inf

    def failed(self, error: TransportError) -> None:
        """The duty failed, and will try again."""
        self._metrics.transport_error(self._duty)
        now = time.monotonic()
        if self._since is None:
            self._since = now
        # Not more often either where it fails, works and fails again.
        if now - self._told_at < TOLD_EVERY:
            return
        self._is_told, self._told_at = True, now
        seconds = round(now - self._since, 1)
        log.warning("%s.failed", self._duty, extra={**self._fields, "error": str(error), "failing_for": seconds})

    def over(self) -> None:
        """The duty succeeded."""
        if self._since is None:
            return
        seconds, self._since = round(time.monotonic() - self._since, 1), None
        if self._is_told:
            self._is_told = False
            log.info("%s.works_again", self._duty, extra={**self._fields, "failed_for": seconds})
