"""Blobs that the broker keeps beside the streams, with a TTL."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import BinaryIO

from streamtask.blobs.pieces import PIECE, check, spooled
from streamtask.errors import BlobMissingError, TransportError
from streamtask.transport.port import Storage
from streamtask.transport.values import StoredBlob

#: Seconds for which a part stands that nothing is added to: its writer has died, or its source has.
_PAUSE = 600.0


class SharedStore:
    """Blobs by name, in the storage of the app's own broker."""

    def __init__(self, storage: Callable[[], Storage], *, max_bytes: int) -> None:
        self._storage = storage
        self._max_bytes = max_bytes

    async def put(self, name: str, pieces: AsyncIterator[bytes], *, ttl: float) -> None:
        """Store a blob; what stood under its name is replaced when it is whole."""
        storage, part, size = self._storage(), secrets.token_hex(8), 0
        try:
            async for piece in pieces:
                await self._append(storage, name, part, piece, size)
                size += len(piece)
            if not size:
                # An empty blob is one, too.
                await self._append(storage, name, part, b"", 0)
        except BaseException:
            with suppress(TransportError):
                await storage.discard(name, part)
            raise
        # From here on it may be visible, whatever comes back: a part that is not runs out by itself.
        if not await storage.commit(name, StoredBlob(part, size), ttl=ttl):
            raise _lost(name)

    @staticmethod
    async def _append(storage: Storage, name: str, part: str, piece: bytes, offset: int) -> None:
        if not await storage.append(name, part, piece, offset=offset, ttl=_PAUSE):
            raise _lost(name)

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[BinaryIO]:
        """A copy of a blob."""
        storage = self._storage()
        blob = await storage.find(name)
        if blob is None:
            raise _missing(name)
        check(blob.size, self._max_bytes)
        async with spooled(self._pieces(storage, name, blob), limit=self._max_bytes) as file:
            yield file

    async def delete(self, name: str) -> None:
        """Remove a blob."""
        await self._storage().remove(name)

    @staticmethod
    async def _pieces(storage: Storage, name: str, blob: StoredBlob) -> AsyncGenerator[bytes, None]:
        for offset in range(0, blob.size, PIECE):
            wanted = min(PIECE, blob.size - offset)
            piece = await storage.piece(name, blob.part, offset=offset, size=wanted)
            if len(piece) != wanted:
                if await storage.find(name) in (blob, None):
                    raise _missing(name)
                raise TransportError(f"the blob redis:///{name} was replaced while it was read; read it again")
            yield piece


def _missing(name: str) -> BlobMissingError:
    return BlobMissingError(
        f"there is no blob redis:///{name}, or not any more: it was never stored here, was deleted, or its ttl is over"
    )


def _lost(name: str) -> TransportError:
    return TransportError(
        f"the blob redis:///{name} is not stored: the server has lost what had been sent of it, or its source paused "
        f"for more than {_PAUSE:g} s; send it again"
    )
