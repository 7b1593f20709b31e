"""What handlers have come to, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamtask.transport.memory.log import parse_id
from streamtask.transport.memory.settlement import holds
from streamtask.transport.memory.store import Counts, MemoryStore
from streamtask.transport.values import Delivery, Progress


class MemoryCheckpoints:
    """See `port.Checkpoints`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def save(self, delivery: Delivery, state: bytes, number: int) -> bool:
        """Keep a state, behind the fence, where no later one of this delivery is kept."""
        with self._store.lock:
            counts, saved = self._of(delivery), (delivery.deliveries, number)
            if counts is not None and counts.saved < saved:
                counts.state, counts.saved = state, saved
            return counts is not None

    async def load(self, delivery: Delivery) -> bytes | None:
        """The state that was saved last."""
        with self._store.lock:
            counts = self._store.find(delivery.stream).known(delivery.group).counts.get(parse_id(delivery.entry_id))
            return counts.state if counts is not None else None

    async def report(self, reports: Sequence[tuple[Delivery, str, Progress]]) -> None:
        """Keep how far each is, behind the fence."""
        with self._store.lock:
            for delivery, event_id, progress in reports:
                counts = self._of(delivery)
                if counts is not None:
                    counts.progress = progress
                    self._store.tell_progress(delivery.stream, event_id, progress, self._clock())

    def _of(self, delivery: Delivery) -> Counts | None:
        """What is kept of an entry, to be changed; None where the lease is lost."""
        state = self._store.find(delivery.stream)
        if not holds(state.log.groups.get(delivery.group), delivery):
            return None
        return state.ledger(delivery.group).counts_of(parse_id(delivery.entry_id))
