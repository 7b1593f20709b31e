"""Gathering: what a batch handler takes at once comes together here, until it is enough or has waited long enough.

A batch holds events of one handler and one stream. It begins with its first event; what comes once it is ready begins
another. Nothing in here takes a slot, runs or settles: `Slots` asks what is ready.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import msgspec

from streamtask.broker import Run
from streamtask.handler import Batch


class _Open(msgspec.Struct, eq=False):
    """A batch that grows."""

    runs: list[Run]
    size: int
    timer: asyncio.TimerHandle | None = None


class Gathering:
    """Batches that grow, and those that are ready. `ripe` is called when one has become so by its time."""

    def __init__(self, ripe: Callable[[], None]) -> None:
        self._ripe = ripe
        self._loop = asyncio.get_running_loop()
        self._open: dict[tuple[int, str], _Open] = {}
        #: Those that are, with the moment since when.
        self.ready: deque[tuple[float, list[Run]]] = deque()

    def add(self, run: Run, batch: Batch, arrived: float) -> bool:
        """Take in what came at a moment (monotonic); whether it has joined others."""
        key = id(run.handler), run.delivery.stream
        found = self._open.get(key)
        if found is None:
            found = self._open[key] = _Open([run], batch.size)
            if batch.size == 1:
                self._close(key)
            else:
                left = arrived + batch.wait - time.monotonic()
                found.timer = self._loop.call_later(max(0.0, left), self._time_is_up, key)
            return False
        found.runs.append(run)
        if len(found.runs) == found.size:
            self._close(key)
        return True

    def next(self, may: Callable[[Run], bool]) -> list[Run] | None:
        """Take out the batch that has been ready for longest, of those that may run."""
        for index, (_, runs) in enumerate(self.ready):
            if may(runs[0]):
                del self.ready[index]
                return runs
        return None

    def waits(self, stream: str, group: str) -> bool:
        """Whether a batch of this stream is ready and has no slot."""
        return any(_is_of(runs, stream, group) for _, runs in self.ready)

    def space(self, stream: str, group: str) -> int:
        """How many events of this stream join a batch that grows, whichever handlers they are for."""
        return min(
            (each.size - len(each.runs) for each in self._open.values() if _is_of(each.runs, stream, group)), default=0
        )

    def overdue(self, seconds: float) -> list[list[Run]]:
        """Take out what has been ready for so long without a slot."""
        late, found = time.monotonic() - seconds, []
        while self.ready and self.ready[0][0] <= late:
            found.append(self.ready.popleft()[1])
        return found

    def close(self) -> list[list[Run]]:
        """Take out all there is."""
        for key in list(self._open):
            self._close(key)
        found = [runs for _, runs in self.ready]
        self.ready.clear()
        return found

    def _time_is_up(self, key: tuple[int, str]) -> None:
        self._close(key)
        self._ripe()

    def _close(self, key: tuple[int, str]) -> None:
        """Let nothing join it any more."""
        ended = self._open.pop(key)
        if ended.timer is not None:
            ended.timer.cancel()
        self.ready.append((time.monotonic(), ended.runs))


def _is_of(runs: list[Run], stream: str, group: str) -> bool:
    return runs[0].delivery.stream == stream and runs[0].delivery.group == group
