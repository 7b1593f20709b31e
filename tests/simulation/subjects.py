"""The engines that are held against the model, each with what the model has to know of it behind the port's back."""

from __future__ import annotations

from typing import Any, Protocol

from streamtask.transport.port import Transport
from streamtask.transport.redis import keys
from streamtask.transport.values import Delivery
from tests.conformance.engines import MemoryEngine, RedisEngine
from tests.servers import RedisServer


class Subject(Protocol):
    """An engine under test."""

    async def transport(self) -> Transport:
        """A connection."""

    async def close(self) -> None:
        """Close every connection."""

    def age(self, delivery: Delivery, seconds: float) -> None:
        """Make it so that the delivery was last renewed that long ago."""

    def lose_group(self, stream: str, group: str) -> None:
        """The group vanishes."""

    def lose_indexes(self, stream: str, group: str) -> None:
        """The indexes of parked, waiting and queued entries vanish."""

    def pending(self, stream: str, group: str) -> dict[str, tuple[str, int]]:
        """Owner and delivery count of each pending entry, as the server has them."""

    def silence(self, owner: str) -> None:
        """The owner's beat ends."""

    def forget_scripts(self) -> None:
        """The server forgets the scripts it was sent."""

    def restart(self) -> None:
        """The server process ends in order, and another one begins with its data."""


class MemorySubject(MemoryEngine):
    """memory://"""

    def pending(self, stream: str, group: str) -> dict[str, tuple[str, int]]:
        pending = self._store.streams[stream].log.groups[group].pending
        return {f"{ms}-{sequence}": (held.owner, held.deliveries) for (ms, sequence), held in pending.items()}

    def silence(self, owner: str) -> None:
        self._store.beats.drop(owner)

    def forget_scripts(self) -> None:
        """It has none."""

    def restart(self) -> None:
        """It ends with the program."""


class RedisSubject(RedisEngine):
    """A real server, with an append-only file."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server)
        self._server = server

    def pending(self, stream: str, group: str) -> dict[str, tuple[str, int]]:
        found: list[dict[str, Any]] = self.client.xpending_range(keys.stream(stream), group, "-", "+", 1000)
        return {each["message_id"].decode(): (each["consumer"].decode(), each["times_delivered"]) for each in found}

    def silence(self, owner: str) -> None:
        self.client.delete(keys.beat(owner))

    def forget_scripts(self) -> None:
        self.client.script_flush()

    def restart(self) -> None:
        self._server.restart()
        self.client = self._server.client()
