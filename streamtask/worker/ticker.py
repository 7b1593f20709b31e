"""Rules: every worker publishes their ticks, at the server's time; a slot is taken by whoever is first.

There is no leader, so none can be lost: each worker waits for the next moment of each rule, and all but one find it
taken (`Schedule.tick`). What has passed while no worker lived is made up for as the rule says, by the first that comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import NamedTuple

from streamtask import envelope as envelopes
from streamtask.broker import Broker
from streamtask.errors import TransportError
from streamtask.rules import Rule
from streamtask.telemetry.metrics import Metrics
from streamtask.timetable import moment_of, passed
from streamtask.transport.port import Schedule, Transport
from streamtask.transport.values import RuleText, Slot, Standing
from streamtask.worker.outage import Outage

log = logging.getLogger(__name__)

#: The longest pause between two looks, in seconds: the server's clock may be set, and another server take its place.
_LONGEST = 5.0
#: The pause after trouble, and after a slot that another worker has taken, in seconds.
_TROUBLE = 1.0
_TAKEN = 0.05
#: A moment that passed so shortly before a worker started, in ms, is its own: it stands in for one that has just ended.
_GRACE = 2000
#: Ticks that are made up for, at most.
MOST = 1000


class Ticker:
    """Publishes the ticks of the rules of one stream. An engine without a schedule is left alone."""

    def __init__(
        self, transport: Transport, broker: Broker, stream: str, rules: Sequence[Rule], metrics: Metrics
    ) -> None:
        self._transport = transport
        self._broker = broker
        self._stream = stream
        self._rules = [_Watched(stream, rule) for rule in rules]
        self._metrics = metrics
        self._outage = Outage("rules", metrics, stream=stream)
        #: This worker has not named its rules yet.
        self._is_new = True

    async def run(self) -> None:
        """Publish what is due, until cancelled."""
        while self._transport.schedule is not None:
            wait = _TROUBLE
            try:
                wait = await self._look(self._transport.schedule)
                self._outage.over()
            except TransportError as error:
                self._outage.failed(error)
            await asyncio.sleep(wait)
        await asyncio.Event().wait()

    async def _look(self, schedule: Schedule) -> float:
        """Publish what is due now; seconds until the next look."""
        return min(_LONGEST, await self.look(schedule))

    async def look(self, schedule: Schedule) -> float:
        """Publish what is due now; seconds until something may be."""
        loop = asyncio.get_running_loop()
        standings = await schedule.stand([each.named for each in self._rules], new=self._is_new)
        looked_at = loop.time()
        self._is_new = False
        due = [each.due(standing) for each, standing in zip(self._rules, standings, strict=True)]
        if any(due):
            slots = [self._slot(each, step) for each, steps in zip(self._rules, due, strict=True) for step in steps]
            taken = await schedule.tick(slots)
            self._tell(slots, taken)
            if not all(taken):
                return _TAKEN
        waits = [each.next_ms - standing.now_ms for each, standing in zip(self._rules, standings, strict=True)]
        return max(0.0, min(waits) / 1000 - (loop.time() - looked_at))

    def _slot(self, watched: _Watched, step: _Step) -> Slot:
        rule, item = watched.named.rule, None
        if step.ticks:
            event_id = envelopes.tick_id(self._stream, rule, step.at)
            item = self._broker.outgoing(watched.rule.event(step.at), event_id, envelopes.new_trace_id())
        return Slot(stream=self._stream, rule=rule, at_ms=step.at, known_ms=step.known, item=item)

    def _tell(self, slots: Sequence[Slot], taken: Sequence[bool]) -> None:
        ours = [slot for slot, is_ours in zip(slots, taken, strict=True) if is_ours]
        if published := sum(slot.item is not None for slot in ours):
            self._metrics.published(self._stream, published)
        names = {slot.rule for slot in ours}
        for watched in self._rules:
            if watched.missed and watched.named.rule in names:
                log.warning("rule.missed", extra={"rule": watched.named.rule, **watched.missed})


class _Step(NamedTuple):
    """A moment of a rule that is due."""

    at: int
    #: The slot before it.
    known: int
    #: Whether it is published, or passed over.
    ticks: bool


class _Watched:
    """One rule, as this worker knows it. Moments are in ms, by the server's clock."""

    def __init__(self, stream: str, rule: Rule) -> None:
        self.rule = rule
        self.named = RuleText(stream, rule.task.name, rule.table.text)
        #: What was missed at the last look, for the log.
        self.missed: dict[str, object] = {}
        #: The first moment that is not due yet.
        self.next_ms = 0
        self._since = -1
        self._begun = 0
        #: When this worker first looked.
        self._lives_since: int | None = None

    def due(self, standing: Standing) -> list[_Step]:
        """What is to be published or passed over now, in order."""
        now = standing.now_ms
        if self._lives_since is None:
            self._lives_since = now
        # 0: a newer version of the program has put another text there. Ours goes on until we end; a moment that both
        # have is one slot.
        self._begun = standing.begun_ms or self._begun or now
        since = max(standing.last_ms, self._begun)
        self.missed = {}
        if since != self._since:
            self._since, self.next_ms = since, self.rule.table.after(since)
        if self.next_ms > now:
            return []
        first, wants_all = self.next_ms, self.rule.missed == "all"
        found = passed(self.rule.table, since, now, most=MOST + 1 if wants_all else 1)
        self.next_ms, self._since = self.rule.table.after(now), -1
        ticks = self.rule.missed != "skip" or found[-1] > self._lives_since or now - found[-1] <= _GRACE
        chosen = found[-MOST:] if wants_all else found[-1:]
        if first != found[-1] or not ticks:
            self.missed = {
                "since": moment_of(first).isoformat(),
                "until": moment_of(found[-1]).isoformat(),
                "ticks": len(chosen) if ticks else 0,
            }
        known = [standing.last_ms, *chosen]
        return [_Step(at, before, ticks) for before, at in zip(known, chosen, strict=False)]
