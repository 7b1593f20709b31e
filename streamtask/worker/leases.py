"""Leases: which deliveries this process holds, and what to do when one is lost. Talks to no transport."""

from __future__ import annotations

import asyncio

from streamtask.transport.port import Delivery

Key = tuple[str, str, str]


def key_of(delivery: Delivery) -> Key:
    """What names a delivery within one owner."""
    return delivery.stream, delivery.group, delivery.entry_id


class Leases:
    """Held deliveries. Written on the event loop, read by the keeper's thread (`snapshot` is one atomic copy)."""

    def __init__(self) -> None:
        self._held: dict[Key, Delivery] = {}
        self.lost: set[Key] = set()
        #: Held while entries are on their way from the server to `hold`: whoever gives back what is ours on the server
        #: and not here waits for it, or would give back what is about to run.
        self.arriving = asyncio.Lock()

    def hold(self, delivery: Delivery) -> None:
        """From now on the keeper renews it."""
        self._held[key_of(delivery)] = delivery

    def drop(self, delivery: Delivery) -> None:
        """Settled or handed back."""
        key = key_of(delivery)
        if self._held.get(key) is delivery:
            del self._held[key]
            if self.lost:
                self.lost.discard(key)

    def lose(self, delivery: Delivery) -> bool:
        """Another consumer owns it now; whether it was still held."""
        key = key_of(delivery)
        if self._held.get(key) is not delivery:
            return False
        self.lost.add(key)
        return True

    def is_lost(self, delivery: Delivery) -> bool:
        """Whether the lease is known to be lost."""
        return key_of(delivery) in self.lost

    def snapshot(self) -> list[Delivery]:
        """What is held now."""
        return list(self._held.values())

    def ids(self, stream: str, group: str) -> list[str]:
        """Entry ids held in one group."""
        return [entry_id for s, g, entry_id in list(self._held) if s == stream and g == group]
