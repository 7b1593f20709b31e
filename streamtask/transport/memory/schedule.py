"""Events that are not due yet, and rules, in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from streamtask.transport.memory.store import MemoryStore, RuleState, fields_of
from streamtask.transport.values import KnownRule, Outgoing, RuleText, Slot, Standing

#: Milliseconds after which a worker says again that it has a rule, and after which one that nobody has is forgotten.
_SAID = 60_000
_FORGOTTEN = 30 * 86_400_000


class MemorySchedule:
    """See `port.Schedule`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def promote(self, streams: Sequence[str]) -> float | None:
        """Append what is due, soonest first; returns seconds until the next one."""
        with self._store.lock:
            now = self._clock()
            moments = []
            for stream in streams:
                state = self._store.find(stream)
                delayed = state.delayed
                for event_id, waiting in sorted(delayed.items(), key=lambda pair: (pair[1].due, pair[0])):
                    if waiting.due <= now:
                        self._store.append(waiting.item, now)
                        state.unschedule(event_id)
                    else:
                        moments.append(waiting.due)
                        break
            return min(moments) - now if moments else None

    async def scheduled(self, stream: str, *, limit: int) -> list[Mapping[str, object]]:
        """What waits, soonest first."""
        with self._store.lock:
            now = self._clock()
            waiting = sorted(self._store.find(stream).delayed.values(), key=lambda delayed: delayed.due)
            return [
                {
                    "event_id": delayed.item.event_id,
                    "event_type": _event_type(delayed.item),
                    "due_in_ms": max(0, round((delayed.due - now) * 1000)),
                    "fields": fields_of(delayed.item),
                }
                for delayed in waiting[:limit]
            ]

    async def cancel(self, stream: str, event_id: str) -> bool:
        """See `Schedule.cancel`."""
        with self._store.lock:
            return self._store.find(stream).unschedule(event_id)

    async def reschedule(
        self, stream: str, event_id: str, *, delay: float | None = None, at: datetime | None = None
    ) -> bool:
        """See `Schedule.reschedule`."""
        with self._store.lock:
            waiting = self._store.find(stream).delayed.get(event_id)
            if waiting is None:
                return False
            waiting.due = at.timestamp() if at is not None else self._clock() + (delay or 0.0)
            return True

    # ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def stand(self, rules: Sequence[RuleText], *, new: bool) -> list[Standing]:
        """See `Schedule.stand`."""
        with self._store.lock:
            return [self._stand(each, self._now_ms(), new=new) for each in rules]

    def _stand(self, named: RuleText, now: int, *, new: bool) -> Standing:
        known = self._store.stream(named.stream).rules
        state = known.get(named.rule)
        if state is None or (new and state.text != named.text):
            last = state.last if state is not None else 0
            state = known[named.rule] = RuleState(named.text, begun=now, seen=now, last=last)
            for rule in [rule for rule, other in known.items() if now - other.seen > _FORGOTTEN]:
                del known[rule]
        if state.text != named.text:
            return Standing(now, state.last, 0)
        if now - state.seen > _SAID:
            state.seen = now
        return Standing(now, state.last, state.begun)

    async def tick(self, slots: Sequence[Slot]) -> list[bool]:
        """See `Schedule.tick`."""
        with self._store.lock:
            return [self._take(slot) for slot in slots]

    def _take(self, slot: Slot) -> bool:
        state = self._store.stream(slot.stream).rules.get(slot.rule)
        if state is None or state.last != slot.known_ms or slot.at_ms > self._now_ms():
            return False
        state.last = slot.at_ms
        if slot.item is not None:
            self._store.append(slot.item, self._clock())
        return True

    async def rules(self, stream: str) -> list[KnownRule]:
        """See `Schedule.rules`."""
        with self._store.lock:
            return [
                KnownRule(
                    rule=rule,
                    text=state.text,
                    now_ms=self._now_ms(),
                    last_ms=state.last,
                    begun_ms=state.begun,
                    seen_ms=state.seen,
                )
                for rule, state in sorted(self._store.find(stream).rules.items())
            ]

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _event_type(item: Outgoing) -> str:
    """The type named in a JSON envelope; empty where the body is something else."""
    try:
        envelope = json.loads(item.body)
    except (ValueError, RecursionError):
        return ""
    return str(envelope.get("event_type", "")) if isinstance(envelope, dict) else ""
