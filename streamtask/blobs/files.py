"""Blobs as files below one folder: read in place, written beside and renamed, never through a way out of the folder.

A path is resolved, has to lie below the folder, and is then walked step by step without following a link, so that
nothing can be put in its way between the look and the open.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

from streamtask.blobs.pieces import PIECE, check
from streamtask.errors import BlobMissingError, BlobRefusedError, TransportError

_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Nor is a named pipe waited for: it is refused once it is open.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: What the system says of a path that has no file, and of one that is something else than a file.
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_NO_FILE = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})
#: And of a file system, or a share of one, that is full.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


class FileStore:
    """The files below one folder, by the path from it."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    async def put(self, name: str, pieces: AsyncIterator[bytes], *, ttl: float) -> None:  # noqa: ARG002 - files stay
        """Write a file; nothing of it is seen before it is whole."""
        file = _NewFile(partial(self._enter, make=True), name)
        try:
            await _in_thread(name, file.begin)
            async for piece in pieces:
                await _in_thread(name, file.write, piece)
            await _in_thread(name, file.commit)
        finally:
            await _in_thread(name, file.close)

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[BinaryIO]:
        """The file itself, no longer than it was when it was opened."""
        file = await _in_thread(name, self._open, name)
        try:
            yield file
        finally:
            await asyncio.to_thread(file.close)

    async def delete(self, name: str) -> None:
        """Remove a file."""
        with suppress(BlobMissingError):
            await _in_thread(name, self._delete, name)

    # ── in a thread ───────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, name: str) -> BinaryIO:
        *steps, last = self._steps((self._root() / name).resolve(strict=True))
        folder = self._enter(steps)
        try:
            file = os.open(last, _READ, dir_fd=folder)
        finally:
            os.close(folder)
        try:
            size = _size(file, name)
            check(size, self._max_bytes)
        except BaseException:
            os.close(file)
            raise
        return io.BufferedReader(_Bounded(io.FileIO(file), size), PIECE)

    def _delete(self, name: str) -> None:
        # The entry itself: of a link, the link.
        entry = self._root() / name
        *steps, last = self._steps(entry.parent.resolve(strict=True) / entry.name)
        folder = self._enter(steps)
        try:
            os.unlink(last, dir_fd=folder)
        finally:
            os.close(folder)

    def _steps(self, path: Path) -> Sequence[str]:
        """The way from the folder to a path that is resolved."""
        root = self._root()
        if path == root or not path.is_relative_to(root):
            raise BlobRefusedError(f"a link leads out of the folder for blobs, {root}; nothing was read")
        return path.relative_to(root).parts

    def _enter(self, steps: Sequence[str], *, make: bool = False) -> int:
        """Open a folder below ours, making it where that is asked for. No step may be a link."""
        folder = os.open(self._root(), _STEP)
        for step in steps:
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(step, dir_fd=folder)
                inner = os.open(step, _STEP, dir_fd=folder)
            except NotADirectoryError as error:
                if make:
                    raise BlobRefusedError(f"{step} is no folder; nothing was stored") from error
                raise
            finally:
                os.close(folder)
            folder = inner
        return folder

    def _root(self) -> Path:
        try:
            return self._folder.resolve(strict=True)
        except OSError as error:
            # A volume that is not mounted: nothing is known of the blobs in it.
            raise TransportError(f"the folder for blobs, {self._folder}, cannot be used: {error}") from error


class _NewFile:
    """A file that is being written, under another name until it is whole. Each method runs in a thread."""

    def __init__(self, enter: Callable[[Sequence[str]], int], name: str) -> None:
        self._enter = enter
        *self._steps, self._name = name.split("/")
        self._part = f".part-{secrets.token_hex(8)}"
        self._folder: int | None = None
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """Open it."""
        self._folder = self._enter(self._steps)
        self._file = os.fdopen(os.open(self._part, _WRITE, 0o640, dir_fd=self._folder), "wb")

    def write(self, piece: bytes) -> None:
        """Add to it."""
        assert self._file is not None  # noqa: S101 - it has begun
        self._file.write(piece)

    def commit(self) -> None:
        """Give it its name."""
        assert self._file is not None  # noqa: S101 - as above
        self._file.flush()
        # Renamed before its bytes are on the disk, a file is empty after a loss of power.
        os.fsync(self._file.fileno())
        os.replace(self._part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def close(self) -> None:
        """Let go of it; what was not committed is removed."""
        if self._folder is None:
            return
        try:
            if self._file is not None:
                self._file.close()
        finally:
            with suppress(FileNotFoundError):
                os.unlink(self._part, dir_fd=self._folder)
            os.close(self._folder)


async def _in_thread(
    path: str, call: Callable[_Given, _Answer], *args: _Given.args, **options: _Given.kwargs
) -> _Answer:
    """What a call for a path answers, its trouble as an error of ours."""
    called = asyncio.ensure_future(asyncio.to_thread(call, *args, **options))
    try:
        return await asyncio.shield(called)
    except asyncio.CancelledError:
        # Whoever tidies up must not close what the thread is still using.
        await asyncio.wait([called])
        raise
    except RuntimeError as error:
        # How Python before 3.13 says that links lead in a circle.
        raise _no_file(path) from error
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _no_file(path) from error
        if error.errno in _MISSING:
            raise BlobMissingError(f"there is no blob {path!a}, or not any more") from error
        if error.errno in _NO_ROOM:
            raise TransportError(
                f"the folder for blobs has no room for {path!a} ({error.strerror}): nothing was stored, and what had "
                "this name before stands; put it again when there is room"
            ) from error
        raise TransportError(f"the folder for blobs cannot be used for {path!a}: {error}") from error


def _size(file: int, name: str) -> int:
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise _no_file(name)
    return found.st_size


def _no_file(path: str) -> BlobRefusedError:
    return BlobRefusedError(f"{path!a} is no regular file; nothing was read")


class _Bounded(io.RawIOBase):
    """The first `size` bytes of a file, which may have grown since it was measured."""

    def __init__(self, file: io.FileIO, size: int) -> None:
        self._file = file
        self._size = size

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What comes next, as far as the buffer goes."""
        left = max(0, self._size - self._file.tell())
        return self._file.readinto(memoryview(buffer)[:left]) or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; the end is where it was measured."""
        if whence == os.SEEK_END:
            offset, whence = self._size + offset, os.SEEK_SET
        return self._file.seek(offset, whence)

    def close(self) -> None:
        """Close the file itself."""
        self._file.close()
        super().close()
