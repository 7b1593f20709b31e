"""Reading through gates: `ordered_by`, and so many at a time for each key. What opens them again is the settle script.

Nobody waits inside Redis for a gate: an entry that is not let through is queued in the step that reads it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from streamtask.transport.redis import commands, keys
from streamtask.transport.redis.client import Caller, Script
from streamtask.transport.redis.line import Argument
from streamtask.transport.values import Delivery, Subscription

#: Entries of a group that may queue: one busy key must not park a backlog without end.
MOST_QUEUED = 1000
#: Seconds between two looks at gates that are shut: others may have opened them.
_SHUT = 0.3


class RedisGates:
    """`Gates` on Redis."""

    def __init__(self, wire: Caller, blocking: Callable[..., Awaitable[Any]]) -> None:
        """`blocking`: sends a command that may block for `wait` seconds, on a connection of its own."""
        self._wire = wire
        self._blocking = blocking
        self._fetch = Script("fetch_gated", gated=True)
        self._let_in: set[tuple[str, str]] = set()
        self._some = asyncio.Event()
        #: By (stream, group): set by each settlement of what may have gone through a gate.
        self._left: dict[tuple[str, str], asyncio.Event] = defaultdict(asyncio.Event)

    async def fetch(self, subscription: Subscription, owner: str, *, count: int, wait: float) -> list[Delivery]:
        """See `Gates.fetch`."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait
        stream, group = subscription.stream, subscription.group
        names = [keys.stream(stream), keys.retry(stream, group), keys.history(stream, group)]
        most = "" if subscription.limit is None else subscription.limit
        args: list[Argument] = [group, owner, count, MOST_QUEUED, most, *commands.gates(subscription.gates)]
        some_left = self._left[stream, group]
        while True:
            some_left.clear()
            found, queued, position = await self._wire.run(self._fetch, names, args)
            if found:
                return [_delivery(stream, group, owner, entry) for entry in found]
            left = deadline - clock()
            if queued:
                continue
            if left <= 0:
                return []
            if position:
                # Whatever comes wakes every worker that waits here; the script gives it to one of them.
                block = max(1, round(left * 1000))
                await self._blocking(
                    "XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", keys.stream(stream), position, wait=left
                )
            else:
                await _wait(some_left, min(left, _SHUT))

    async def news(self, *, within: float) -> set[tuple[str, str]]:
        """See `Gates.news`."""
        await _wait(self._some, within)
        self._some.clear()
        found, self._let_in = self._let_in, set()
        return found

    def settled(self, stream: str, group: str, *, let_in: bool) -> None:
        """What may have gone through a gate was settled; `let_in`: another one is through, and due."""
        self._left[stream, group].set()
        if let_in:
            self._let_in.add((stream, group))
            self._some.set()


async def _wait(event: asyncio.Event, within: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            await event.wait()


def _delivery(stream: str, group: str, owner: str, found: Sequence[Any]) -> Delivery:
    entry_id, fields, gated = found
    return Delivery(stream, group, entry_id.decode(), owner, fields, kept=bool(gated))
