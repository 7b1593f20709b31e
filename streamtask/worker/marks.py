"""Looks de-duplication marks up, all that are asked for in one turn of the loop in one round trip."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from streamtask.transport.port import Transport
from streamtask.worker.outage import Outage


class Marks:
    """Answers whether a mark stands. Waits out a server that is away: not knowing must never pass for "no"."""

    def __init__(self, transport: Transport, outage: Outage) -> None:
        self._transport = transport
        self._outage = outage
        self._asked: dict[str, list[tuple[str, str, asyncio.Future[bool]]]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()

    async def stands(self, group: str, stream: str, mark: str) -> bool:
        """Whether effects under this mark are committed."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        asked = self._asked[group]
        asked.append((stream, mark, answer))
        if len(asked) == 1:
            task = asyncio.create_task(self._look_up(group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def close(self) -> None:
        """Stop looking; who still waits is cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look_up(self, group: str) -> None:
        # One turn of the loop: whatever starts in this tick shares the round trip.
        await asyncio.sleep(0)
        asked = self._asked.pop(group)
        names = [(stream, mark) for stream, mark, _ in asked]
        try:
            found = await self._outage.outlast(lambda: self._transport.marked(group, names))
            for (_, _, answer), stands in zip(asked, found, strict=True):
                if not answer.done():
                    answer.set_result(stands)
        finally:
            for _, _, answer in asked:
                answer.cancel()
