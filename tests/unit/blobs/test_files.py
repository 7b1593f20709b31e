"""Files: only those below the folder, however the way out is laid; whole or not there."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from streamtask.blobs import files
from streamtask.blobs.files import FileStore
from streamtask.errors import (
    BlobError,
    BlobMissingError,
    BlobRefusedError,
    BlobTooLargeError,
    StreamtaskError,
    TransportError,
)
from tests.chaos.leaks import open_files

LIMIT = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "blobs"
    made.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"secret")
    return made


@pytest.fixture
def store(folder: Path) -> FileStore:
    return FileStore(folder, max_bytes=LIMIT)


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def read(store: FileStore, name: str) -> bytes:
    async with store.open(name) as file:
        return file.read()


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


async def test_a_file_comes_back_as_it_was_stored(store: FileStore, folder: Path) -> None:
    await store.put("a/b/c.wav", pieces(b"abc", b"", b"def"), ttl=1.0)

    assert await read(store, "a/b/c.wav") == b"abcdef"
    assert everything(folder) == ["a/b/c.wav"]
    async with store.open("a/b/c.wav") as file:
        assert file.seek(-2, os.SEEK_END) == 4
        assert file.read(1) == b"e"
        assert file.tell() == 5
        assert file.seek(1) == 1
        assert file.read() == b"bcdef"
        assert file.seekable()


@pytest.mark.parametrize(
    ("lay", "name"),
    [
        (lambda folder: (folder / "x").symlink_to(folder.parent / "secret"), "x"),
        (lambda folder: (folder / "x").symlink_to("../secret"), "x"),
        (lambda folder: (folder / "d").symlink_to(folder.parent / "outside"), "d/x"),
        (lambda folder: (folder / "d").symlink_to("/"), "d/etc/passwd"),
        (lambda folder: (folder / "x").symlink_to("y") or (folder / "y").symlink_to("../secret"), "x"),
        (lambda folder: (folder / "x").symlink_to("x"), "x"),
        (lambda folder: (folder / "d").symlink_to("."), "d"),
        (lambda folder: (folder / "x").symlink_to("/proc/self/environ"), "x"),
        (lambda folder: (folder / "x").symlink_to("/dev/zero"), "x"),
        (lambda folder: (folder / "x").mkdir(), "x"),
        (lambda folder: os.mkfifo(folder / "x"), "x"),
        (lambda folder: _socket_at(folder / "x"), "x"),
    ],
    ids=["link", "relative link", "linked folder", "root", "two links", "circle", "itself", "proc", "device", "folder",
         "named pipe", "socket"],
)  # fmt: skip
async def test_what_leads_out_or_is_no_file_is_refused_and_never_waited_for(
    store: FileStore, folder: Path, lay: Callable[[Path], Any], name: str
) -> None:
    lay(folder)
    async with asyncio.timeout(5):
        with pytest.raises(BlobRefusedError, match="nothing was read"):
            await read(store, name)


def _socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


async def test_a_link_within_the_folder_is_followed(store: FileStore, folder: Path) -> None:
    await store.put("a/x", pieces(b"abc"), ttl=1.0)
    (folder / "b").symlink_to("a")
    (folder / "y").symlink_to(folder / "a" / "x")

    assert [await read(store, name) for name in ("b/x", "y")] == [b"abc", b"abc"]


async def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    store = FileStore(folder.parent / "link", max_bytes=LIMIT)
    await store.put("x", pieces(b"abc"), ttl=1.0)

    assert await read(store, "x") == b"abc"
    assert everything(folder) == ["x"]


@pytest.mark.parametrize("step", ["x", "d"])
async def test_a_link_that_is_laid_between_the_look_and_the_open_is_not_followed(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await store.put("d/x", pieces(b"abc"), ttl=1.0)
    look = FileStore._steps

    def look_and_swap(self: FileStore, path: Path) -> Any:
        found = look(self, path)
        place = folder / "d" if step == "d" else folder / "d" / "x"
        place.rename(folder / "before")
        place.symlink_to(folder.parent / ("outside" if step == "d" else "secret"))
        return found

    monkeypatch.setattr(FileStore, "_steps", look_and_swap)
    with pytest.raises(BlobError):
        await read(store, "d/x")


@pytest.mark.parametrize("name", ["never", "never/x", "x/below-a-file", "n" * 300, "deep/" * 100 + "x"])
async def test_what_is_not_there_is_missing(store: FileStore, name: str) -> None:
    await store.put("x", pieces(b"abc"), ttl=1.0)
    with pytest.raises(BlobMissingError, match="no blob"):
        await read(store, name)
    await store.delete(name)


async def test_a_folder_that_is_not_there_is_trouble_of_the_store_and_is_not_made(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "unmounted", max_bytes=LIMIT)
    for call in (read(store, "x"), store.delete("x"), store.put("x", pieces(b"a"), ttl=1.0)):
        with pytest.raises(TransportError, match="unmounted"):
            await call
    assert everything(tmp_path) == []


async def test_a_file_that_may_not_be_read_is_trouble_of_the_store(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "x").write_bytes(b"abc")

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(TransportError, match="Permission denied"):
        await read(store, "x")


async def test_a_file_that_is_too_large_is_refused_by_its_size(store: FileStore, folder: Path) -> None:
    (folder / "x").write_bytes(bytes(LIMIT))
    assert len(await read(store, "x")) == LIMIT
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BlobTooLargeError, match=rf"{1 << 40} bytes or more; the limit of this app is {LIMIT}"):
        await read(store, "huge")


async def test_a_file_that_grows_while_it_is_read_ends_where_it_did(store: FileStore, folder: Path) -> None:
    (folder / "x").write_bytes(b"abc")
    async with store.open("x") as file:
        with (folder / "x").open("ab") as writer:
            writer.write(bytes(10 * LIMIT))
        assert file.read() == b"abc"
        assert file.seek(0, os.SEEK_END) == 3
        assert file.seek(100) == 100
        assert file.read() == b""


async def test_a_file_that_is_replaced_or_deleted_while_it_is_read_is_read_to_its_end(store: FileStore) -> None:
    await store.put("x", pieces(b"before"), ttl=1.0)
    async with store.open("x") as file:
        await store.put("x", pieces(b"after"), ttl=1.0)
        await store.delete("x")
        assert file.read() == b"before"
    with pytest.raises(BlobMissingError):
        await read(store, "x")


async def test_nothing_is_seen_before_it_is_whole_and_nothing_is_left_of_what_failed(
    store: FileStore, folder: Path
) -> None:
    await store.put("a/x", pieces(b"before"), ttl=1.0)

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        assert await read(store, "a/x") == b"before"
        raise ConnectionResetError("the client has gone")

    with pytest.raises(ConnectionResetError):
        await store.put("a/x", broken(), ttl=1.0)
    assert await read(store, "a/x") == b"before"
    assert everything(folder) == ["a/x"]


async def test_a_put_that_is_cancelled_leaves_nothing_and_no_open_file(store: FileStore, folder: Path) -> None:
    before = open_files(os.getpid())
    begun = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield b"half"
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put("a/x", stuck(), ttl=1.0))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert everything(folder) == []
    assert open_files(os.getpid()) == before


async def test_no_file_stays_open_whatever_becomes_of_it(store: FileStore, folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "huge").write_bytes(bytes(LIMIT + 1))
    before = open_files(os.getpid())
    await store.put("a/x", pieces(b"abc"), ttl=1.0)
    await store.put("a/b/x", pieces(b"abc"), ttl=1.0)
    assert await read(store, "a/b/x") == b"abc"
    for name in ("d", "huge", "never", "a/never/x", "a/x/x"):
        with pytest.raises(BlobError):
            await read(store, name)
    with pytest.raises(BlobError):
        await store.put("a/x/x", pieces(b"abc"), ttl=1.0)
    await store.delete("a/x")
    assert open_files(os.getpid()) == before


async def test_a_disk_that_is_full_is_trouble_of_the_store_and_nothing_is_left(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(TransportError, match="No space left"):
        await store.put("x", pieces(b"abc"), ttl=1.0)
    assert everything(folder) == []


@pytest.mark.parametrize("lay", [lambda path: path.symlink_to("../outside"), lambda path: path.write_bytes(b"a file")])
async def test_nothing_is_written_through_a_link_or_below_a_file(
    store: FileStore, folder: Path, lay: Callable[[Path], Any]
) -> None:
    lay(folder / "d")
    with pytest.raises(BlobRefusedError, match="d is no folder; nothing was stored"):
        await store.put("d/y", pieces(b"abc"), ttl=1.0)
    assert everything(folder.parent / "outside") == ["x"]


async def test_a_link_in_the_place_of_a_file_is_replaced_and_deleted_itself(store: FileStore, folder: Path) -> None:
    (folder / "x").symlink_to(folder.parent / "secret")
    await store.put("x", pieces(b"abc"), ttl=1.0)
    assert (folder / "x").read_bytes() == b"abc"
    (folder / "y").symlink_to(folder.parent / "secret")
    await store.delete("y")
    assert everything(folder) == ["x"]
    assert (folder.parent / "secret").read_bytes() == b"secret"


async def test_a_folder_is_not_deleted(store: FileStore, folder: Path) -> None:
    await store.put("a/x", pieces(b"abc"), ttl=1.0)
    with pytest.raises(StreamtaskError):
        await store.delete("a")
    assert everything(folder) == ["a/x"]


async def test_two_who_write_one_file_at_once_leave_one_whole_file(store: FileStore, folder: Path) -> None:
    await asyncio.gather(*(store.put("x", pieces(*[b"%d" % n] * 50), ttl=1.0) for n in range(9)))

    assert await read(store, "x") in {b"%d" % n * 50 for n in range(9)}
    assert everything(folder) == ["x"]
