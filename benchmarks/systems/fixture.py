"""What every system's worker and publisher share: the server's URL, and a board on which handlers count.

The one module of ours that a peer's Python imports, so it needs the standard library only. A handler that ends counts
itself in memory that the harness maps too: that costs every system the same and no command to Redis.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from pathlib import Path

#: What every event carries.
PAYLOAD = {"i": 17}
#: Seconds that a handler of the kind `io` waits.
IO = 0.01
URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")
#: Handlers at once, as the harness asks for.
CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "100"))
#: What the worker will get to handle: noop, io, emit, park.
KIND = os.environ.get("BENCH_KIND", "noop")
_WORD = 8


class Board:
    """A mapped file: the first word says how many handlers have counted, word n when the n-th of them did (ns).

    One process counts at a time; its threads take turns.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path, events: int) -> Board:
        """A new board for so many events."""
        with path.open("wb") as file:
            file.truncate(_WORD * (events + 1))
        return cls(path)

    def reset(self) -> None:
        """Begin at nothing."""
        self._words[0] = 0

    def done(self) -> None:
        """Count one."""
        now = time.monotonic_ns()
        words = self._words
        with self._lock:
            count = words[0] + 1
            words[count] = now
            words[0] = count

    @property
    def count(self) -> int:
        """How many have counted."""
        return self._words[0]

    def at(self, number: int) -> int:
        """When the n-th counted, from 1: nanoseconds of the monotonic clock, which all processes share."""
        return self._words[number]


def _count() -> None:
    raise RuntimeError("$BENCH_BOARD is not set: the harness starts this")


board = Board(Path(os.environ["BENCH_BOARD"])) if "BENCH_BOARD" in os.environ else None
#: Called by every handler, once, at its end.
done = board.done if board else _count
