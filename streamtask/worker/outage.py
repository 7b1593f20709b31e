"""Trouble that lasts: told when it begins, every ten seconds, and when it is over; and how to wait for that."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

#: Seconds between two lines about the same trouble.
TOLD_EVERY = 10.0
#: Seconds between two tries.
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0

_Answer = TypeVar("_Answer")


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

    async def outlast(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """The server's answer, however long it is away."""
        delay = _FIRST_DELAY
        while True:
            try:
                answer = await ask()
            except TransportError as error:
                self.failed(error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
            else:
                self.over()
                return answer
