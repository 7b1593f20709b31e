"""Clocks that are wrong, one for each program: `clock.c` stands between it and the machine's."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

from tests.chaos.preload import preloading
from tests.servers import ServerBinary

HOUR = 3600.0


class WrongClock:
    """The time of day of the programs that are started with its `environment`."""

    def __init__(self, library: Path, file: Path, *, ahead: float = 0.0) -> None:
        """`library`: of `clock.c`. `file`: of this clock alone. `ahead`: seconds."""
        self._file = file
        self._library = library
        file.write_bytes(bytes(8))
        self.set(ahead)

    def set(self, ahead: float) -> None:
        """Set it to so many seconds ahead of the machine's (negative: behind), at once."""
        self.ahead = ahead
        # In place and in one write: it is being looked at.
        with self._file.open("r+b", buffering=0) as file:
            file.write(struct.pack("=q", round(ahead * 1e6)))

    def move(self, seconds: float) -> None:
        """Set it so much ahead (negative: back) of what it shows."""
        self.set(self.ahead + seconds)

    @property
    def environment(self) -> dict[str, str]:
        """Of a program that is to have it."""
        return preloading(self._library, CLOCK_OFFSET=str(self._file))

    def of(self, binary: ServerBinary) -> ServerBinary:
        """A server program that has it."""
        return replace(binary, env=preloading(self._library, binary.env, CLOCK_OFFSET=str(self._file)))
