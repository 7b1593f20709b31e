"""A memory that knows in which order everything came, over all of its streams."""

from __future__ import annotations

from collections.abc import Sequence

from streamtask.redact import MaskedUrl
from streamtask.testing.clock import FrozenClock
from streamtask.transport.connect import Connector
from streamtask.transport.memory import MemoryStore, MemoryTransport
from streamtask.transport.memory.log import EntryId, id_text
from streamtask.transport.memory.schedule import MemorySchedule
from streamtask.transport.values import DeadLetter, Delivery


class RecordingStore(MemoryStore):
    """A `MemoryStore` that keeps what has arrived, in the order in which it has."""

    def __init__(self) -> None:
        super().__init__()
        #: As a reader without a group gets them.
        self.arrived: list[Delivery] = []

    def append_fields(self, stream: str, fields: Sequence[bytes], event_id: str, now: float) -> EntryId:
        """Put an entry as it is into a stream."""
        entry_id = super().append_fields(stream, fields, event_id, now)
        self.arrived.append(Delivery(stream, "", id_text(entry_id), "", fields))
        return entry_id

    @property
    def letters(self) -> list[DeadLetter]:
        """The dead letters of all streams, those of one stream oldest first."""
        with self.lock:
            return [letter for state in self.streams.values() for letter in state.dead.values()]


class MemoryConnector(Connector):
    """Opens transports to one memory, which go by one clock."""

    def __init__(self, clock: FrozenClock) -> None:
        super().__init__(MaskedUrl("memory://"))
        self.store = RecordingStore()
        self._clock = clock
        self.schedule = MemorySchedule(self.store, clock.now)

    async def promote(self) -> float | None:
        """Append the delayed events that are due; seconds until the next one is."""
        return await self.schedule.promote(sorted(self.store.streams))

    def open(self) -> MemoryTransport:
        """A transport to the memory."""
        return MemoryTransport(self.store, clock=self._clock.now)
