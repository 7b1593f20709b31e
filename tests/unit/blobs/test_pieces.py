"""Pieces are of bounded length, and never more of them than allowed are taken."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from streamtask.blobs import pieces
from streamtask.blobs.pieces import PIECE, cut, spooled
from streamtask.errors import BlobTooLargeError


async def source(*lengths: int) -> AsyncGenerator[bytes, None]:
    for n, length in enumerate(lengths):
        yield bytes([n % 256]) * length


async def lengths_of(cut_up: AsyncIterator[bytes]) -> list[int]:
    return [len(piece) async for piece in cut_up]


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
async def test_bytes_and_a_source_of_them_are_cut_alike(size: int) -> None:
    whole, rest = divmod(size, PIECE)
    expected = [PIECE] * whole + [rest] * bool(rest)
    assert await lengths_of(cut(bytes(size), limit=size)) == expected
    assert await lengths_of(cut(source(size), limit=size)) == expected
    thirds = size // 3, size // 3, size - 2 * (size // 3)
    assert await lengths_of(cut(source(*thirds), limit=size)) == expected


async def test_many_small_pieces_become_few_and_keep_their_order() -> None:
    given = [b"%07d" % n for n in range(300_000)]

    async def small() -> AsyncIterator[bytes]:
        for each in given:
            yield each

    cut_up = [piece async for piece in cut(small(), limit=1 << 30)]
    assert b"".join(cut_up) == b"".join(given)
    assert len(cut_up) == -(-7 * 300_000 // PIECE)


async def test_what_is_too_long_is_refused_before_it_is_taken() -> None:
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(1000)

    with pytest.raises(BlobTooLargeError, match=r"11000 bytes or more; the limit of this app is 10500"):
        await lengths_of(cut(endless(), limit=10_500))
    assert asked == 11
    with pytest.raises(BlobTooLargeError):
        await lengths_of(cut(bytes(10_501), limit=10_500))


async def test_what_comes_is_counted_whatever_was_said() -> None:
    with pytest.raises(BlobTooLargeError):
        async with spooled(source(10, 10, 10), limit=29):
            pytest.fail("it was opened")


async def test_a_long_blob_is_on_the_disk_and_a_short_one_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_IN_MEMORY", 100)
    for size, is_on_disk in ((100, False), (101, True)):
        async with spooled(source(50, size - 50), limit=1000) as file:
            assert file._rolled is is_on_disk  # type: ignore[attr-defined] # of SpooledTemporaryFile
            assert file.read() == bytes(50) + b"\x01" * (size - 50)
            assert file.seek(-1, 2) == size - 1
            assert file.seekable()
        assert file.closed
