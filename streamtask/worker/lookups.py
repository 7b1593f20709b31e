"""Asks the server whether something stands, all that is asked for in one turn of the loop in one round trip."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from streamtask.worker.outage import Outage

_Name = TypeVar("_Name")


class Lookups(Generic[_Name]):
    """Answers whether names of a place stand. Waits out a server that is away: not knowing must never pass for "no".

    `ask` asks for several names of one place.
    """

    def __init__(self, ask: Callable[[str, Sequence[_Name]], Awaitable[list[bool]]], outage: Outage) -> None:
        self._ask = ask
        self._outage = outage
        self._asked: dict[str, list[tuple[_Name, asyncio.Future[bool]]]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()

    async def stands(self, place: str, name: _Name) -> bool:
        """Whether a name stands in a place."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        asked = self._asked[place]
        asked.append((name, answer))
        if len(asked) == 1:
            task = asyncio.create_task(self._look_up(place))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def close(self) -> None:
        """Stop looking; who still waits is cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look_up(self, place: str) -> None:
        # One turn of the loop: whatever starts in this tick shares the round trip.
        await asyncio.sleep(0)
        asked = self._asked.pop(place)
        names = [name for name, _ in asked]
        try:
            found = await self._outage.outlast(lambda: self._ask(place, names))
            for (_, answer), stands in zip(asked, found, strict=True):
                if not answer.done():
                    answer.set_result(stands)
        finally:
            for _, answer in asked:
                answer.cancel()
