"""Reading through gates, in memory. What becomes of them when an entry is settled is `StreamState`'s."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from streamtask.transport.memory.log import Entry
from streamtask.transport.memory.settlement import delivery_of
from streamtask.transport.memory.store import At, Ledger, MemoryStore, StreamState
from streamtask.transport.values import Delivery, Gate, Subscription

#: Entries of a group that may queue: one busy key must not park a backlog without end.
MOST_QUEUED = 1000

#: Looks until something is found, or for so many seconds.
Look = Callable[[], list[Delivery]]
Until = Callable[[Look, Sequence[str], float], Awaitable[list[Delivery]]]


class MemoryGates:
    """See `port.Gates`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float], until_found: Until) -> None:
        self._store = store
        self._clock = clock
        self._until_found = until_found
        self._let_in: set[tuple[str, str]] = set()
        self._some = asyncio.Event()

    async def fetch(self, subscription: Subscription, owner: str, *, count: int, wait: float) -> list[Delivery]:
        """New entries that are let through; the others are queued."""
        stream, group = subscription.stream, subscription.group

        def look() -> list[Delivery]:
            self._store.group(stream, group)
            state = self._store.stream(stream)
            while room := _room(state.ledger(group), subscription, count):
                entries = state.log.read(group, owner, room, self._clock())
                found = [each for each in entries if self._is_through(state, subscription, each)]
                if found or not entries:
                    return [delivery_of(state, stream, group, entry) for entry in found]
            return []

        return await self._until_found(look, [stream], wait)

    def _is_through(self, state: StreamState, subscription: Subscription, entry: Entry) -> bool:
        ledger = state.ledger(subscription.group)
        come_to(ledger, subscription, entry)
        if state.enter(subscription.group, entry.id, self._clock()):
            return True
        # It will be delivered once more, and that is nobody's fault.
        ledger.counts_of(entry.id).uncharged += 1
        return False

    async def news(self, *, within: float) -> set[tuple[str, str]]:
        """See `port.Gates`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._some.wait()
        self._some.clear()
        found, self._let_in = self._let_in, set()
        return found

    def let_in(self, stream: str, group: str) -> None:
        """A settlement has let entries through."""
        self._let_in.add((stream, group))
        self._some.set()


def _room(ledger: Ledger, subscription: Subscription, count: int) -> int:
    queued = sum(map(len, ledger.queued.values()))
    room = min(count, MOST_QUEUED - queued)
    if subscription.limit is not None:
        room = min(room, subscription.limit - queued - sum(map(len, ledger.through.values())))
    return max(0, room)


def come_to(ledger: Ledger, subscription: Subscription, entry: Entry) -> None:
    """Note which gate an entry has come to, if any."""
    only = entry.field(b"only")
    if only is not None and only != subscription.group.encode():
        return
    found = _key(entry, subscription.gates)
    if found is not None:
        gate, key = found
        ledger.at[entry.id] = At((gate.name, key), gate.limit, gate.ordered)


def _key(entry: Entry, gates: Sequence[Gate]) -> tuple[Gate, str] | None:
    """The gate of an entry and its key; None: it goes through none. As `gates.lua` has it."""
    kind = entry.field(b"content_type") or b"application/json"
    body = entry.field(b"envelope")
    if body is None or entry.field(b"content_encoding") is not None or not kind.startswith(b"application/json"):
        return gates[0], ""
    try:
        envelope = json.loads(body)
    except ValueError:
        return gates[0], ""
    if not isinstance(envelope, dict) or not isinstance(envelope.get("event_type"), str):
        return gates[0], ""
    gate = next((each for each in gates if envelope.get("event_type") in each.types), None)
    if gate is None:
        return None
    value: object = envelope.get("payload") if gate.path else None
    for name in gate.path:
        value = value.get(name) if isinstance(value, dict) else None
    return gate, _text(value)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{float(value):.17g}"
    return value if isinstance(value, str) else ""
