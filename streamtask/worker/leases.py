"""Leases: which deliveries this process holds, and what to do when one is lost. Talks to no transport."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from streamtask.transport.values import Delivery


class Leases:
    """Held deliveries. Written on the event loop, read by the keeper's thread (`snapshot` is one atomic copy)."""

    def __init__(self) -> None:
        self._held: set[Delivery] = set()
        #: Those of them whose lease is known to be lost; to be looked at only.
        self.lost: set[Delivery] = set()
        #: Held while entries are on their way from the server to `hold`: whoever gives back what is ours on the server
        #: and not here waits for it, or would give back what is about to run.
        self.arriving = asyncio.Lock()

    def hold(self, deliveries: Iterable[Delivery]) -> None:
        """From now on the keeper renews them."""
        self._held.update(deliveries)

    def drop(self, deliveries: Iterable[Delivery]) -> None:
        """Settled or handed back."""
        self._held.difference_update(deliveries)
        if self.lost:
            self.lost &= self._held

    def lose(self, delivery: Delivery) -> bool:
        """Another consumer owns it now; whether it was still held."""
        if delivery not in self._held:
            return False
        self.lost.add(delivery)
        return True

    def is_lost(self, delivery: Delivery) -> bool:
        """Whether the lease is known to be lost."""
        return delivery in self.lost

    def snapshot(self) -> list[Delivery]:
        """What is held now, in order: a set has another each time, and no simulated run would happen again."""
        return sorted(self._held, key=_place)

    def ids(self, stream: str, group: str) -> list[str]:
        """Entry ids held in one group."""
        return [held.entry_id for held in self._held if held.stream == stream and held.group == group]


def _place(delivery: Delivery) -> tuple[str, str, str]:
    return delivery.stream, delivery.group, delivery.entry_id
