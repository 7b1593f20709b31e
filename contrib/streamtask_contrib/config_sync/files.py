"""Files that others read and write: read when they are whole, replaced as a whole, with the rights that they have."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

#: Seconds for which a file has to stay as it is before it is believed: an editor may be in the middle of writing it.
SETTLED: Final = 0.1
#: How often it is read for that.
_TRIES: Final = 20


class UnsettledError(OSError):
    """A file is being written all the time."""


async def read(path: Path, known: bytes | None, limit: int) -> bytes:
    """What is in a file, `limit` bytes of it at most. Raises `OSError`.

    `known`: what it held last; anything else has to stay for a moment before it is believed.
    """
    for _ in range(_TRIES):
        content = await asyncio.to_thread(_beginning, path, limit)
        if content == known:
            return content
        known = content
        await asyncio.sleep(SETTLED)
    raise UnsettledError(None, "it does not stay as it is")


def _beginning(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)


def replace(path: Path, content: bytes, check: Callable[[], None] = lambda: None) -> None:
    """Put content in the place of a file, or where none is. Raises `OSError`.

    Whoever reads it sees the old or the new, also after a crash. Mode and owner stay as they are; a new file is its
    owner's alone. A link stays a link. `check`: called in the last moment; what it raises leaves all as it is.
    """
    path = path.resolve()
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            _take_over(path, file.fileno())
            file.flush()
            os.fsync(file.fileno())
        check()
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    _sync_folder(path.parent)


def _take_over(path: Path, handle: int) -> None:
    """Give an open file the mode and, as far as this process may, the owner of another."""
    try:
        stands = path.stat()
    except FileNotFoundError:
        return
    with contextlib.suppress(PermissionError):
        os.fchown(handle, stands.st_uid, stands.st_gid)
    os.fchmod(handle, stat.S_IMODE(stands.st_mode))


def _sync_folder(folder: Path) -> None:
    # Without it the new name may be gone after a power cut, and with it the new content.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
