"""A bot's side of a driver, for tests: goes to a meeting, writes down what happens, and compares what it hears."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import streamtask_contrib
from numpy.typing import NDArray
from streamtask_contrib.bot.drivers.port import RATE, Admitted, Driver, Ended, Happening, Heard, Joined, Left

from tests.chaos.workers import until
from tests.stalls import Stalls

#: Seconds that anything may take on a busy machine.
PATIENCE = 40.0
Samples = NDArray[np.int16]


class Listening:
    """Joins when it is entered, and closes the driver at the end."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.happened: list[Happening] = []
        self._stalls = Stalls()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.driver.join()
        except BaseException:
            await self.driver.close()
            raise
        self._task = asyncio.create_task(self._listen())
        self._stalls.__enter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stalls.__exit__()
        await self.driver.close()
        if self._task is not None:
            await asyncio.wait_for(self._task, PATIENCE)

    async def _listen(self) -> None:
        async for happening in self.driver.happenings():
            self.happened.append(happening)

    async def until(self, condition: Callable[[], object], within: float = PATIENCE) -> None:
        """Wait until it is so."""
        await until(condition, within)

    async def over(self) -> None:
        """Wait until the driver says no more."""
        assert self._task is not None
        await asyncio.wait_for(asyncio.shield(self._task), PATIENCE)

    # ── what was told ─────────────────────────────────────────────────────────────────────────────────────────────

    def all(self, *kinds: type) -> list[Any]:
        """What happened of these kinds."""
        return [each for each in self.happened if isinstance(each, kinds)]

    @property
    def is_admitted(self) -> bool:
        return bool(self.all(Admitted))

    @property
    def ended(self) -> list[str]:
        return [each.reason for each in self.all(Ended)]

    @property
    def faults(self) -> list[str]:
        return [each.reason for each in self.all(Ended) if each.is_fault]

    @property
    def present(self) -> list[str]:
        """Names of those who are there, in the order in which they came."""
        here: dict[str, str] = {}
        for each in self.all(Joined, Left):
            if isinstance(each, Joined):
                here[each.participant] = each.name
            else:
                del here[each.participant]
        return list(here.values())

    def blocks(self, name: str) -> list[Heard]:
        """What was heard of everybody of this name, while it was theirs."""
        names: dict[str, str] = {}
        blocks = []
        for each in self.all(Joined, Heard):
            if isinstance(each, Joined):
                names[each.participant] = each.name
            elif names[each.participant] == name:
                blocks.append(each)
        return blocks

    def samples(self, name: str) -> Samples:
        """All of it, as it came."""
        return np.frombuffer(b"".join(each.pcm for each in self.blocks(name)), "<i2")

    def seconds(self, name: str) -> float:
        """How much of it that is."""
        return sum(len(each.pcm) for each in self.blocks(name)) / 2 / RATE

    def placed(self, name: str) -> tuple[Samples, float]:
        """The samples where they belong in time, silence in between, and when they begin."""
        blocks = self.blocks(name)
        begin = blocks[0].at
        whole = np.zeros(round((blocks[-1].at - begin) * RATE) + len(blocks[-1].pcm) // 2 + 1, np.int16)
        for block in blocks:
            place = round((block.at - begin) * RATE)
            heard = np.frombuffer(block.pcm, "<i2")
            whole[place : place + len(heard)] = heard
        return whole, begin

    def gaps(self, name: str) -> list[float]:
        """Seconds between the end of a block and the next; below 0: they overlap."""
        blocks = self.blocks(name)
        between = [after.at - before.at - len(before.pcm) / 2 / RATE for before, after in pairwise(blocks)]
        return [round(gap, 4) for gap in between if abs(gap) > 0.0005]

    def lost(self, name: str, least: float = 0.0) -> list[float]:
        """Gaps longer than `least`; for what is missing because this machine stood still nobody is to blame."""
        return [gap for gap in self.gaps(name) if abs(gap) > least + 2 * self._stalls.disturbed]


def measured(**figures: object) -> None:
    """Say what a test measured."""
    print("MEASURED", *(f"{name}={value}" for name, value in figures.items()))  # noqa: T201 - what it is for


# ── sounds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def channels() -> tuple[Samples, Samples]:
    """Two people, each in a channel of the demo's meeting."""
    path = Path(streamtask_contrib.__file__).parent / "demo" / "meeting-stereo.wav"
    with wave.open(str(path)) as file:
        both = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    return both[:, 0].copy(), both[:, 1].copy()


def as_wav(samples: Samples) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setparams((1, 2, RATE, 0, "NONE", ""))
        written.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def noise(seconds: float, *, seed: int) -> Samples:
    """Sound that is like nothing but itself."""
    return (np.random.default_rng(seed).normal(size=round(seconds * RATE)) * 3000).astype(np.int16)


def likeness_by_parts(heard: Samples, said: Samples, *, seconds: float = 2.0) -> float:
    """How alike the parts of what was said are to their places in what was heard, at the median.

    A connection stretches pauses, and more so on a busy machine: of the whole, not all then fits in one place.
    """
    size = round(seconds * RATE)
    parts = [said[place : place + size].astype(float) for place in range(0, len(said), size)]
    loud = [part for part in parts if len(part) == size and np.abs(part).mean() > 100]
    return float(np.median([_best(heard.astype(float), part) for part in loud]))


def _best(heard: NDArray[np.float64], part: NDArray[np.float64]) -> float:
    size = 1 << (len(heard) + len(part) - 1).bit_length()
    products = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(part, size)), size)[: len(heard) - len(part)]
    sums = np.concatenate([[0.0], np.cumsum(heard**2)])
    energies = (sums[len(part) :] - sums[: -len(part)])[: len(products)]
    return float(np.max(np.abs(products) / np.sqrt(np.maximum(energies * (part**2).sum(), 1.0))))


def likeness(heard: Samples, said: Samples) -> tuple[float, float]:
    """How alike they are at best (1: the same), and at which second of `heard` `said` begins there."""
    one, other = heard.astype(float), said.astype(float)
    size = 1 << (len(one) + len(other) - 1).bit_length()
    products = np.fft.irfft(np.fft.rfft(one, size) * np.conj(np.fft.rfft(other, size)), size)
    place = int(np.argmax(np.abs(products)))
    whole = float(np.sqrt((one**2).sum() * (other**2).sum())) or 1.0
    return abs(float(products[place])) / whole, (place if place < size / 2 else place - size) / RATE
