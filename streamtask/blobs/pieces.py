"""Blobs as pieces of bounded length, on their way in and out, never more of them than are allowed."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from streamtask.errors import BlobTooLargeError

#: Bytes that are moved at once: short enough for a server not to stop over them, long enough to be quick.
PIECE = 1 << 20
#: Bytes of a blob that are held in memory while it is open; what is longer goes to a temporary file.
_IN_MEMORY = 8 << 20


async def cut(data: bytes | AsyncIterable[bytes], *, limit: int) -> AsyncGenerator[bytes, None]:
    """Pieces of a blob that is to be stored, of `PIECE` bytes but for the last.

    Raises:
        BlobTooLargeError: there are more than `limit` bytes.
    """
    if not isinstance(data, AsyncIterable):
        check(len(data), limit)
        for start in range(0, len(data), PIECE):
            yield bytes(data[start : start + PIECE])
        return
    waiting, seen = bytearray(), 0
    async for given in data:
        seen += len(given)
        check(seen, limit)
        waiting += given
        while len(waiting) >= PIECE:
            yield bytes(waiting[:PIECE])
            del waiting[:PIECE]
    if waiting:
        yield bytes(waiting)


def check(size: int, limit: int) -> None:
    """Raise BlobTooLargeError where a blob of (at least) this size is not allowed."""
    if size > limit:
        raise BlobTooLargeError(f"the blob has {size} bytes or more; the limit of this app is {limit} (max_bytes)")


@asynccontextmanager
async def spooled(pieces: AsyncGenerator[bytes, None], *, limit: int) -> AsyncIterator[BinaryIO]:
    """A file with these bytes, at its beginning; in memory while it is short.

    Raises:
        BlobTooLargeError: there are more than `limit` bytes, whatever had been said.
    """
    with SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        seen = 0
        # Closed here, not when somebody collects it: there is a connection behind it.
        async with aclosing(pieces):
            async for piece in pieces:
                seen += len(piece)
                check(seen, limit)
                if seen > _IN_MEMORY:
                    await to_thread(file.write, piece)
                else:
                    file.write(piece)
        file.seek(0)
        yield cast("BinaryIO", file)
