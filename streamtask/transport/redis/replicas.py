"""Writing that returns when replicas have it (WAIT): so many, or all that a failover may promote.

A primary that Sentinel has replaced, and that lives on, does not know it for some seconds. It sees one replica less,
the promoted one, and takes the word of the others for what none of them will keep. So a replica that is gone counts for
a while longer: until then a primary that was replaced has been told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

from streamtask.transport.redis.client import Caller
from streamtask.transport.redis.line import ServerError

log = logging.getLogger(__name__)

#: Seconds that the replicas may take; well below what a reply may.
_WITHIN = 1.0
#: Seconds for which the last look at the server holds.
_LOOK = 1.0
#: Seconds after which a replica that is gone was not promoted: Sentinel would have demoted this primary long before.
_GONE = 30.0


class Wanted(Protocol):
    """Says how many replicas have to confirm what is written now."""

    async def number(self) -> int:
        """At least 1."""


class OnReplicas:
    """The memory of replicas. See `Confirmation`."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted

    async def question(self) -> Sequence[str | int]:
        """See `Confirmation.question`."""
        return ["WAIT", await self._wanted.number(), round(_WITHIN * 1000)]

    def missing(self, question: Sequence[str | int], answer: Any) -> str:
        """See `Confirmation.missing`."""
        wanted = int(question[1])
        return "" if answer >= wanted else f"{answer} of {wanted} replicas confirmed it within {_WITHIN:g} s"


class Fixed:
    """So many."""

    def __init__(self, copies: int) -> None:
        self._copies = copies

    async def number(self) -> int:
        """See `Wanted.number`."""
        return self._copies


class AllReplicas:
    """All that the server has, and those that it had a short while ago; one at least."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._looked_at = -_LOOK
        #: Which history the server writes: another one after a promotion.
        self._history = b""
        self._most = 0
        #: Since when there are fewer.
        self._fewer_since: float | None = None

    async def number(self) -> int:
        """See `Wanted.number`. Raises TransportError where the server cannot be asked."""
        if time.monotonic() - self._looked_at >= _LOOK:
            try:
                told: bytes = await self._caller.call("INFO", "replication")
            except ServerError as error:
                # Not allowed to ask: what is known has to do.
                log.warning("replicas.unknown", extra={"error": str(error), "waits_for": max(1, self._most)})
            else:
                self.see(told, time.monotonic())
            self._looked_at = time.monotonic()
        return max(1, self._most)

    def see(self, told: bytes, now: float) -> None:
        """Take in what INFO says of replication."""
        facts = dict(line.split(b":", 1) for line in told.splitlines() if b":" in line)
        history = facts.get(b"master_replid", b"")
        online = sum(name.startswith(b"slave") and b"state=online" in fact for name, fact in facts.items())
        if history != self._history or online >= self._most:
            self._history, self._most, self._fewer_since = history, online, None
        elif self._fewer_since is None:
            self._fewer_since = now
        elif now - self._fewer_since >= _GONE:
            log.warning("replicas.gone", extra={"replicas": online, "before": self._most})
            self._most, self._fewer_since = online, None
