"""Who lives, and what the dead left behind, in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from streamtask.transport.memory.gates import come_to
from streamtask.transport.memory.log import EntryId, id_text
from streamtask.transport.memory.settlement import delivery_of, take
from streamtask.transport.memory.store import PARKED, QUEUED, RESERVED, WAITING, MemoryStore, StreamState
from streamtask.transport.values import Claimed, Delivery, Subscription

#: Waiting entries past their deadline that one claim takes at most.
_EXPIRED_AT_ONCE = 100


class MemoryRecovery:
    """See `port.Recovery`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def beat(self, owner: str, info: bytes, *, ttl: float) -> str:
        """Say that the owner lives, for `ttl` seconds."""
        with self._store.lock:
            now = self._clock()
            self._store.beats.put(owner, (info, now), now + ttl, now)
            return self._store.run_id

    async def retire(self, owner: str, subscriptions: Sequence[Subscription]) -> None:
        """Remove the owner's beat, and its consumers where they hold nothing."""
        with self._store.lock:
            self._store.beats.drop(owner)
            for subscription in subscriptions:
                group = self._store.find(subscription.stream).log.groups.get(subscription.group)
                if group is not None and not group.held_by(owner):
                    group.consumers.pop(owner, None)

    async def claim(self, subscription: Subscription, owner: str, *, count: int) -> Claimed:
        """Take parked entries that are due, and waiting ones that are handled here or have waited too long."""
        with self._store.lock:
            self._store.group(subscription.stream, subscription.group)
            return _Claim(self._store.stream(subscription.stream), subscription, owner, self._clock()).run(count)

    async def lost_owners(self, stream: str, group: str, *, lease: float) -> dict[str, str]:
        """Owners that hold entries and should not: "dead" or "stale"."""
        with self._store.lock:
            now = self._clock()
            lost: dict[str, str] = {}
            for pending in self._store.group(stream, group).pending.values():
                if pending.owner in RESERVED:
                    continue
                if not self._store.alive(pending.owner, now):
                    lost[pending.owner] = "dead"
                elif now - pending.renewed_at >= lease:
                    lost[pending.owner] = "stale"
            return lost

    async def hand_back(
        self,
        stream: str,
        group: str,
        owner: str,
        *,
        started: Collection[str] | None = None,
        keep: Collection[str] = (),
        idle: float = 0.0,
    ) -> int:
        """Park, due now, what the owner holds; what had not been started is not charged."""
        with self._store.lock:
            now = self._clock()
            pending = self._store.group(stream, group).pending
            state = self._store.stream(stream)
            parked = 0
            for entry_id in self._store.group(stream, group).held_by(owner):
                if id_text(entry_id) in keep or now - pending[entry_id].renewed_at < idle:
                    continue
                if started is not None and id_text(entry_id) not in started:
                    state.ledger(group).counts_of(entry_id).uncharged += 1
                state.park(group, entry_id, now, now)
                parked += 1
            return parked

    async def mend(self, stream: str, group: str) -> int:
        """Index again what the pending list says is parked or waiting; returns how many were missing.

        Until when an entry was parked is lost with the index: it is due at once. What type a waiting one waits for
        stands in its envelope, which engines do not read: it is parked, and its next owner decides again.
        """
        with self._store.lock:
            now = self._clock()
            pending = self._store.group(stream, group).pending
            state = self._store.stream(stream)
            ledger = state.ledger(group)
            indexed = ledger.parked.keys() | {entry_id for index in ledger.waiting.values() for entry_id in index}
            indexed |= {entry_id for queue in ledger.queued.values() for entry_id in queue}
            missing = [id_ for id_, held in pending.items() if held.owner in RESERVED and id_ not in indexed]
            for entry_id in missing:
                at = ledger.at.get(entry_id)
                if pending[entry_id].owner == QUEUED and at is not None:
                    ledger.queued.setdefault(at.gate, set()).add(entry_id)
                else:
                    state.park(group, entry_id, now, now)
            return len(missing) + _mend_gates(state, group, now)


def _mend_gates(state: StreamState, group: str, now: float) -> int:
    """Take those out of the gates that are gone, and let through who queued behind them; returns how many."""
    ledger, pending = state.ledger(group), state.log.groups[group].pending
    mended = 0
    for gate, inside in list(ledger.through.items()):
        gone = inside - pending.keys()
        mended += len(gone)
        inside.difference_update(gone)
        mended += state.admit(group, gate, now)
    return mended + sum(state.admit(group, gate, now) for gate in list(ledger.queued))


class _Claim:
    """One claim of one worker."""

    def __init__(self, state: StreamState, subscription: Subscription, owner: str, now: float) -> None:
        self._state = state
        self._subscription = subscription
        self._owner = owner
        self._now = now
        self._ledger = state.ledger(subscription.group)
        self._taken: list[Delivery] = []
        self._expired: list[Delivery] = []
        self._gone: list[str] = []

    def run(self, count: int) -> Claimed:
        """Parked entries first, then waiting ones, while there is room."""
        self._take(self._ledger.parked, PARKED, self._now, count, self._taken)
        for kind in sorted(self._ledger.waiting):
            index = self._ledger.waiting[kind]
            if kind in self._subscription.handles:
                self._take(index, WAITING, float("inf"), count - len(self._taken), self._taken)
            else:
                # They need no slot: they are given up.
                self._take(index, WAITING, self._now, _EXPIRED_AT_ONCE - len(self._expired), self._expired)
            if not index:
                del self._ledger.waiting[kind]
        return Claimed(deliveries=self._taken, gone=self._gone, expired=self._expired, next_due=self._next_due())

    def _may_pass(self, entry_id: EntryId) -> bool:
        """Whether its gate lets an entry through, or it has none; else it is queued."""
        if not self._subscription.gates:
            return True
        entry = self._state.log.get(entry_id)
        if entry is not None and entry_id not in self._ledger.at:
            come_to(self._ledger, self._subscription, entry)
        return self._state.enter(self._subscription.group, entry_id, self._now)

    def _next_due(self) -> float | None:
        if self._ledger.waiting.keys() & self._subscription.handles:
            return 0.0
        return max(0.0, min(self._ledger.parked.values()) - self._now) if self._ledger.parked else None

    def _take(self, index: dict[EntryId, float], reserved: str, until: float, room: int, into: list[Delivery]) -> None:
        subscription = self._subscription
        due = sorted((moment, entry_id) for entry_id, moment in index.items() if moment <= until)
        for _, entry_id in due[: max(0, room)]:
            del index[entry_id]
            pending = self._state.log.groups[subscription.group].pending.get(entry_id)
            # The index may be behind the pending list, which is the truth.
            if pending is None or pending.owner != reserved:
                continue
            if into is self._taken and not self._may_pass(entry_id):
                continue
            entry = take(self._state, subscription.group, entry_id, self._owner, self._now)
            if entry is None:
                self._gone.append(id_text(entry_id))
            else:
                into.append(delivery_of(self._state, subscription.stream, subscription.group, entry))
