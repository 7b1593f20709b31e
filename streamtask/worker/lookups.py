"""Asks the server whether something stands: while one round trip is on its way, the next one grows."""

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
        #: By place, what asks there now.
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def stands(self, place: str, name: _Name) -> bool:
        """Whether a name stands in a place."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked[place].append((name, answer))
        if place not in self._tasks:
            self._tasks[place] = asyncio.create_task(self._look_up(place))
        return await answer

    async def close(self) -> None:
        """Stop looking; who still waits is cancelled."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_up(self, place: str) -> None:
        """Ask until nothing is asked for any more."""
        asked: list[tuple[_Name, asyncio.Future[bool]]] = []
        try:
            # One turn of the loop: whatever starts in this tick shares the round trip.
            await asyncio.sleep(0)
            while asked := self._asked.pop(place, []):
                await self._answer(place, asked)
        finally:
            del self._tasks[place]
            for _, answer in (*asked, *self._asked.pop(place, [])):
                answer.cancel()

    async def _answer(self, place: str, asked: list[tuple[_Name, asyncio.Future[bool]]]) -> None:
        names = [name for name, _ in asked]
        found = await self._outage.outlast(lambda: self._ask(place, names))
        for (_, answer), stands in zip(asked, found, strict=True):
            if not answer.done():
                answer.set_result(stands)
