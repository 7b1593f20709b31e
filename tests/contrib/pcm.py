"""Raw samples for tests that need something loud, and the quiet of a room; no library is needed for them."""

from __future__ import annotations

import functools
import math
import random
import struct
from collections.abc import Iterator

RATE = 16_000


@functools.cache
def tone(seconds: float, *, rate: int = RATE, loudness: float = 0.2) -> bytes:
    """Something loud, with the dips that speech has."""
    values = (
        loudness * math.sin(2 * math.pi * 200 * n / rate) * (0.55 + 0.45 * math.sin(2 * math.pi * 4 * n / rate))
        for n in range(round(seconds * rate))
    )
    return _pcm(values)


@functools.cache
def quiet(seconds: float, *, rate: int = RATE, loudness: float = 0.0003) -> bytes:
    """The noise of a room."""
    noise = random.Random(0)
    return _pcm(noise.gauss(0, loudness) for _ in range(round(seconds * rate)))


def _pcm(values: Iterator[float]) -> bytes:
    samples = [round(value * 32767) for value in values]
    return struct.pack(f"<{len(samples)}h", *samples)
