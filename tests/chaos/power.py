"""A server whose plug can be pulled: what it has not synced is gone, as on a disk that keeps nothing that it need not.

The worst case: a real disk, and the kernel before it, may have kept more. What is written to append-only files counts;
their names, once given, stay.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from tests.chaos.preload import preloading
from tests.servers import RedisServer, ServerBinary


class PluggedServer(RedisServer):
    """`library`: of `synced.c`."""

    def __init__(self, binary: ServerBinary, library: Path, *, appendfsync: str, sync_takes: float = 0.0) -> None:
        """`sync_takes`: seconds that every sync takes longer than it does."""
        super().__init__(binary, appendfsync=appendfsync)
        self._notes = self.folder / "synced"
        self._notes.touch()
        variables = {"SYNCED_NOTES": str(self._notes), "SYNCED_SLOWLY": str(round(sync_takes * 1000))}
        self.binary = replace(binary, env=preloading(library, binary.env, **variables))

    @property
    def seconds_since_sync(self) -> float:
        """Since the end of the last sync of any file."""
        return time.time() - self._notes.stat().st_mtime

    def pull_the_plug(self) -> int:
        """Kill the server, and take from its append-only files what was never synced; how many bytes that were."""
        self.kill()
        # The last note of a file counts: its number may have been another's before.
        synced = {int(inode): int(length) for inode, length in map(str.split, self._notes.read_text().splitlines())}
        cut = 0
        for file in (*self.folder.glob("appendonly.aof"), *self.folder.glob("appendonlydir/*")):
            there = file.stat()
            kept = min(synced.get(there.st_ino, 0), there.st_size)
            if kept < there.st_size:
                cut += there.st_size - kept
                with file.open("r+b") as opened:
                    opened.truncate(kept)
        return cut
