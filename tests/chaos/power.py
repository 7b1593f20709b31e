"""A server whose power can be cut: it is killed, and what it had not synced is cut off its files.

It stands for a disk that keeps what it says it has. The server tells by itself what it has synced, through a library
that is loaded into it (`synced.c`).
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers import RedisServer, ServerBinary

_SOURCE = Path(__file__).with_name("synced.c")
#: Where this machine has a C compiler.
COMPILER = shutil.which("cc")


class FrailServer(RedisServer):
    """A server with a plug. What it has synced is known from its first start on."""

    def __init__(self, binary: ServerBinary) -> None:
        self._notes = Path(tempfile.mkdtemp(prefix="st-synced-"))
        library = self._notes / "synced.so"
        assert COMPILER is not None
        subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, _SOURCE, "-ldl"], check=True, timeout=60)
        env = binary.env | {"LD_PRELOAD": str(library), "SYNCED": str(self._notes)}
        super().__init__(dataclasses.replace(binary, env=env))

    def cut_power(self) -> int:
        """Kill it, and cut off what it had not synced; how many bytes that were."""
        self.kill()
        lost = 0
        for file in (self.folder / "appendonlydir").iterdir():
            found = file.stat()
            note = self._notes / str(found.st_ino)
            kept = int(note.read_text()) if note.exists() else 0
            if kept < found.st_size:
                lost += found.st_size - kept
                with file.open("r+b") as cut:
                    cut.truncate(kept)
        return lost

    def close(self) -> None:
        """See `RedisServer.close`."""
        super().close()
        shutil.rmtree(self._notes, ignore_errors=True)
