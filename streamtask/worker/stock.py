"""What is here of each stream: taken in, and without an outcome yet. Counts, and decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from streamtask.transport.values import Delivery
from streamtask.worker.lanes import Place


class Stock:
    """Counts deliveries by stream and group, and those of them that limited handlers have started.

    `counts`: whether some stream has room of its own, for which what is here of it has to be known; nobody counts
    where none has. `changed` is called when there may be more room.
    """

    def __init__(self, *, counts: bool, changed: Callable[[], None]) -> None:
        self.counts = counts
        self._changed = changed
        self.held: Counter[Place] = Counter()
        self.begun: Counter[Place] = Counter()

    def hold(self, deliveries: Sequence[Delivery]) -> None:
        """They are here until they `leave`."""
        self.held.update([(delivery.stream, delivery.group) for delivery in deliveries])

    def leave(self, delivery: Delivery) -> None:
        """It has its outcome."""
        self.held[delivery.stream, delivery.group] -= 1

    def begin(self, delivery: Delivery) -> None:
        """A limited handler has started on it."""
        self.begun[delivery.stream, delivery.group] += 1
        self._changed()

    def end(self, delivery: Delivery) -> None:
        """And has ended."""
        self.begun[delivery.stream, delivery.group] -= 1
