"""The Redis transport on a cluster: what belongs to several slots is done for each of them by itself.

One slot's node that is away must not hold up what the others can do, and no script reaches from one slot into another:
emits that would have to go by the outbox.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from streamtask.errors import PublishError, TransportError
from streamtask.transport.redis import keys
from streamtask.transport.redis.addresses import cluster_of
from streamtask.transport.redis.client import Caller
from streamtask.transport.redis.cluster import Cluster, ClusterWire
from streamtask.transport.redis.commands import Targets, emits_of
from streamtask.transport.redis.hashslots import slot_of
from streamtask.transport.redis.outbox import RedisOutbox
from streamtask.transport.redis.transport import RedisTransport
from streamtask.transport.values import Delivery, Durability, Outcome, Outgoing, Verdict

#: Seconds for which a publish is sent again while slots move or a node is replaced: a program waits for it.
_PATIENT = 5.0
#: And what workers send: they try again by themselves, and others wait behind it.
_BRISK = 0.5


class ClusterTransport(RedisTransport):
    """streamtask on a Redis Cluster."""

    def __init__(self, url: str, *, durability: Durability = "none") -> None:
        self._cluster = Cluster(*cluster_of(url))
        # One replica: a master that is replaced while it lives hears of it from the others before it says yes again.
        super().__init__(url, durability=1 if durability == "replica" else durability)
        self._relayed = RedisOutbox(self._wire, self.publish)
        self.outbox = self._relayed

    def _wires(self, url: str) -> tuple[Callable[[], Caller], Callable[[], Caller]]:  # noqa: ARG002 - has been read
        return partial(ClusterWire, self._cluster, patience=_BRISK), partial(
            ClusterWire, self._cluster, patience=_PATIENT
        )

    def together(self, streams: Sequence[str]) -> list[list[str]]:
        """See `Transport.together`."""
        return [[streams[index] for index in indexes] for indexes in _by_slot(streams)]

    async def publish(self, items: Sequence[Outgoing]) -> list[str | Exception]:
        """See `Transport.publish`. Items for one slot keep their order."""
        streams = {item.stream for item in items}
        new = streams - self._known
        # Not named in the same pipeline: the list of streams is on a node of its own, which may be away.
        self._known |= new
        try:
            return await self._publish_by_slot(items)
        finally:
            self._known -= new
            await self._name_streams(streams)

    async def _publish_by_slot(self, items: Sequence[Outgoing]) -> list[str | Exception]:
        parts = _by_slot([item.stream for item in items])
        if len(parts) == 1:
            return await super().publish(items)
        results: list[str | Exception] = [""] * len(items)

        async def publish(indexes: list[int]) -> None:
            part = [items[index] for index in indexes]
            try:
                found = await super(ClusterTransport, self).publish(part)
            except TransportError as error:
                found = [_unsure(item, error) for item in part]
            for index, result in zip(indexes, found, strict=True):
                results[index] = result

        await asyncio.gather(*map(publish, parts))
        return results

    async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> list[Verdict | TransportError]:
        """See `Transport.settle`."""
        verdicts: list[Verdict | TransportError] = [Verdict.SETTLED] * len(settlements)
        parts = _by_slot([delivery.stream for delivery, _ in settlements])

        async def settle(indexes: list[int]) -> None:
            part = [settlements[index] for index in indexes]
            found: Sequence[Verdict | TransportError]
            try:
                found = await super(ClusterTransport, self).settle(part)
            except TransportError as error:
                found = [error] * len(part)
            for index, verdict in zip(indexes, found, strict=True):
                verdicts[index] = verdict

        try:
            await asyncio.gather(*map(settle, parts))
        finally:
            # Also where it is unknown whether the outbox was written to.
            self._look_for_emits(settlements)
        return verdicts

    async def marked(self, group: str, names: Sequence[tuple[str, str]]) -> list[bool]:
        """See `Transport.marked`."""
        parts = _by_slot([stream for stream, _ in names])
        found = [False] * len(names)
        answers = await asyncio.gather(
            *(super(ClusterTransport, self).marked(group, [names[index] for index in indexes]) for indexes in parts)
        )
        for indexes, answer in zip(parts, answers, strict=True):
            for index, stands in zip(indexes, answer, strict=True):
                found[index] = stands
        return found

    async def _name_streams(self, streams: set[str]) -> None:
        # What cannot be noted now is noted with the next event.
        with suppress(TransportError):
            await super()._name_streams(streams)

    def _targets(self, cause: str) -> Targets:
        return Targets(keys.outbox(cause), partial(self._is_elsewhere, cause))

    @staticmethod
    def _is_elsewhere(cause: str, stream: str) -> bool:
        return slot_of(keys.stream(cause)) != slot_of(keys.stream(stream))

    def _look_for_emits(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> None:
        for delivery, outcome in settlements:
            if any(self._is_elsewhere(delivery.stream, emit.stream) for emit in emits_of(outcome)):
                self._relayed.put(delivery.stream)


def _by_slot(streams: Sequence[str]) -> list[list[int]]:
    """Places of streams of one slot, together."""
    parts: dict[int, list[int]] = defaultdict(list)
    for index, stream in enumerate(streams):
        parts[slot_of(keys.stream(stream))].append(index)
    return list(parts.values())


def _unsure(item: Outgoing, error: TransportError) -> PublishError:
    return PublishError(
        f"it is unknown whether the event is stored ({error}); publish again with event_id=error.event_id",
        event_id=item.event_id,
    )
