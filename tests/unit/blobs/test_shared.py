"""Blobs in the broker: whole or not there; what goes while it is read is told apart from what is replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamtask.blobs import shared
from streamtask.blobs.pieces import PIECE
from streamtask.blobs.shared import SharedStore
from streamtask.errors import BlobMissingError, BlobTooLargeError, TransportError
from streamtask.transport.memory import MemoryStore
from streamtask.transport.memory.storage import MemoryStorage
from streamtask.transport.values import StoredBlob

LIMIT = 4 * PIECE


class Server:
    """A storage in memory, its clock, and what is done before one of its verbs."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.kept = MemoryStore()
        self.storage = MemoryStorage(self.kept, lambda: self.now)
        self.store = SharedStore(lambda: self.storage, max_bytes=LIMIT)

    def before(self, verb: str, act: Any) -> None:
        """Act once, before the next call of a verb."""
        real = getattr(self.storage, verb)

        async def first(*args: Any, **options: Any) -> Any:
            setattr(self.storage, verb, real)
            await act()
            return await real(*args, **options)

        setattr(self.storage, verb, first)

    @property
    def left(self) -> list[str]:
        """Parts that are kept."""
        return [key for key, _ in self.kept.parts.items(self.now)]

    async def read(self, name: str) -> bytes:
        async with self.store.open(name) as file:
            return file.read()


@pytest.fixture
def server() -> Server:
    return Server()


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


@pytest.mark.parametrize("data", [[], [b"abc"], [bytes(PIECE), b"abc"]])
async def test_a_blob_comes_back_as_it_was_stored(server: Server, data: list[bytes]) -> None:
    await server.store.put("b", pieces(*data), ttl=60.0)
    assert await server.read("b") == b"".join(data)


async def test_a_source_that_fails_leaves_what_stood_there_and_nothing_else(server: Server) -> None:
    await server.store.put("b", pieces(b"before"), ttl=60.0)

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        assert await server.read("b") == b"before"
        raise ConnectionResetError("the client has gone")

    with pytest.raises(ConnectionResetError):
        await server.store.put("b", broken(), ttl=60.0)
    assert await server.read("b") == b"before"
    assert len(server.left) == 1


async def test_a_source_that_pauses_too_long_is_told_so_and_nothing_is_stored(server: Server) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"half"
        server.now += shared._PAUSE + 1
        yield b"the rest"

    with pytest.raises(TransportError, match="source paused for more than 600 s; send it again"):
        await server.store.put("b", slow(), ttl=60.0)
    with pytest.raises(BlobMissingError):
        await server.read("b")


async def test_a_server_that_forgets_what_was_sent_has_nothing_committed(server: Server) -> None:
    async def forget() -> None:
        server.kept.parts.drop(server.left[0])

    server.before("commit", forget)
    with pytest.raises(TransportError, match="is not stored"):
        await server.store.put("b", pieces(b"abc"), ttl=60.0)
    assert await server.storage.find("b") is None


async def test_a_commit_without_a_reply_takes_nothing_back(server: Server) -> None:
    """Perhaps it was done: then its bytes have to stand."""
    real = server.storage.commit

    async def commit(*args: Any, **options: Any) -> bool:
        await real(*args, **options)
        raise TransportError("no reply in time")

    server.storage.commit = commit  # type: ignore[method-assign] # on purpose
    with pytest.raises(TransportError):
        await server.store.put("b", pieces(b"abc"), ttl=60.0)
    assert await server.read("b") == b"abc"


async def test_a_blob_that_is_over_is_missing(server: Server) -> None:
    await server.store.put("b", pieces(b"abc"), ttl=60.0)
    server.now += 61
    with pytest.raises(BlobMissingError, match="its ttl is over"):
        await server.read("b")


async def test_a_blob_that_is_too_large_is_refused_by_its_size(server: Server) -> None:
    await server.storage.append("b", "p", bytes(LIMIT + 1), offset=0, ttl=60.0)
    await server.storage.commit("b", StoredBlob("p", LIMIT + 1), ttl=60.0)
    server.storage.piece = None  # type: ignore[assignment, method-assign] # not asked for
    with pytest.raises(BlobTooLargeError):
        await server.read("b")


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("deleted", BlobMissingError),
        ("over", BlobMissingError),
        ("evicted", BlobMissingError),
        ("replaced long ago", TransportError),
    ],
)
async def test_what_goes_while_it_is_read_is_missing_and_what_is_replaced_is_read_again(
    server: Server, what: str, error: type[Exception]
) -> None:
    await server.store.put("b", pieces(b"abc"), ttl=60.0)

    async def act() -> None:
        if what == "evicted":
            server.kept.parts.drop(server.left[0])
        elif what == "over":
            server.now += 121
        elif what == "deleted":
            await server.store.delete("b")
        else:
            await server.store.put("b", pieces(b"abc"), ttl=600.0)
            server.now += 121

    server.before("piece", act)
    with pytest.raises(error):
        await server.read("b")


async def test_what_is_replaced_while_it_is_read_is_read_to_its_end(server: Server) -> None:
    await server.store.put("b", pieces(b"a" * PIECE, b"a" * PIECE), ttl=60.0)
    server.before("piece", lambda: server.store.put("b", pieces(b"b" * PIECE, b"b" * PIECE), ttl=60.0))

    assert await server.read("b") == b"a" * (2 * PIECE)
    assert await server.read("b") == b"b" * (2 * PIECE)
