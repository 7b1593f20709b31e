"""A file of audio → steps: the turns of one block each, read ahead in a thread while the last ones are transcribed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamtask_contrib.audio.activity import Turn, TurnFinder, TurnOptions
from streamtask_contrib.audio.decoding import BLOCK, SAMPLE_RATE, AudioFile

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """What one block brought."""

    turns: list[Turn]
    #: Sample from which a new reading would find all turns that come after these.
    resume_at: int


class Reading:
    """The steps of one file, from sample `at` on, and what they took."""

    def __init__(self, file: AudioFile, options: TurnOptions, *, at: int = 0) -> None:
        self.file = file
        self._finder = TurnFinder(options, at=at)
        self._at = at
        #: Seconds spent so far.
        self.decode = 0.0
        self.vad = 0.0

    def steps(self) -> Iterator[Step]:
        """One for each block; the last one has the turn that ends with the sound, too. Blocking."""
        blocks = self.file.blocks(skip=self._at)
        while (block := self._timed("decode", lambda: next(blocks, None))) is not None:
            is_last = block.shape[1] < BLOCK * SAMPLE_RATE
            yield self._step(block[0], is_last=is_last)
            if is_last:
                return
        yield self._step(np.zeros(0, np.float32), is_last=True)

    def _step(self, samples: NDArray[np.float32], *, is_last: bool) -> Step:
        end = self._finder.finish if is_last else lambda: ()
        turns = self._timed("vad", lambda: [*self._finder.feed(samples), *end()])
        return Step(turns, self._finder.resume_at)

    def _timed(self, stage: str, call: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            return call()
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - began)


class ReadAhead(AsyncIterator[T]):
    """The items of a blocking iterator, each made in a thread, and the next one while this one is used.

    Use it with `async with`: at its end no thread works on the iterator any more.
    """

    def __init__(self, items: Iterator[T], threads: Executor) -> None:
        self._items = items
        self._threads = threads
        self._next: asyncio.Future[tuple[T] | None] | None = None

    async def __aenter__(self) -> Self:
        self._next = self._begin()
        return self

    async def __anext__(self) -> T:
        assert self._next is not None  # noqa: S101 - it was entered
        item = await asyncio.shield(self._next)
        if item is None:
            raise StopAsyncIteration
        self._next = self._begin()
        return item[0]

    async def __aexit__(self, *_: object) -> None:
        if self._next is not None:
            # Also when we are cancelled: what is read must not be closed under the thread.
            await asyncio.wait([self._next])
            # Asked for, so that nobody complains: who used the items has stopped, for a reason of its own.
            self._next.exception()

    def _begin(self) -> asyncio.Future[tuple[T] | None]:
        return asyncio.get_running_loop().run_in_executor(self._threads, self._take)

    def _take(self) -> tuple[T] | None:
        for item in self._items:
            return (item,)
        return None
