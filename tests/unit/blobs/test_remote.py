"""Blobs behind fsspec: sizes that lie, stores that are away, packages that are missing."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamtask.blobs import remote
from streamtask.blobs.remote import RemoteStore
from streamtask.errors import (
    BlobMissingError,
    BlobRefusedError,
    BlobTooLargeError,
    ConfigurationError,
    TransportError,
)
from tests.servers import free_port

fsspec = pytest.importorskip("fsspec", reason="the extra `blobs`")
memory = pytest.importorskip("fsspec.implementations.memory")

LIMIT = 1000


class OddFiles(fsspec.AbstractFileSystem):
    """A store that says one thing and gives another."""

    protocol = "odd"
    cachable = False
    #: What it says of every blob, what it gives, and what it raises.
    said: dict[str, Any]
    given: bytes
    error: Exception | None
    read: int

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if OddFiles.error is not None:
            raise OddFiles.error
        return {"name": path, "type": "file", **OddFiles.said}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        class Counted(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                piece = super().read(size)
                OddFiles.read += len(piece)
                return piece

        return Counted(OddFiles.given)


@pytest.fixture(autouse=True)
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("odd", OddFiles, clobber=True)
    OddFiles.said, OddFiles.given, OddFiles.error, OddFiles.read = {"size": 3}, b"abc", None, 0


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def read(store: RemoteStore, name: str) -> bytes:
    async with store.open(name) as file:
        return file.read()


@pytest.fixture
def store() -> RemoteStore:
    return RemoteStore("memory://bucket/prefix/", max_bytes=LIMIT)


@pytest.fixture
def odd_store() -> RemoteStore:
    return RemoteStore("odd://bucket/prefix/", max_bytes=LIMIT)


async def test_a_blob_comes_back_as_it_was_stored_and_is_deleted(store: RemoteStore) -> None:
    await store.put("a/b.wav", pieces(b"abc", b"def"), ttl=1.0)
    assert await read(store, "a/b.wav") == b"abcdef"
    await store.delete("a/b.wav")
    await store.delete("a/b.wav")
    with pytest.raises(BlobMissingError, match=r"memory://bucket/prefix/a/b\.wav"):
        await read(store, "a/b.wav")


async def test_a_source_that_fails_sends_nothing(store: RemoteStore) -> None:
    await store.put("x", pieces(b"before"), ttl=1.0)

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError("the client has gone")

    with pytest.raises(ConnectionResetError):
        await store.put("x", broken(), ttl=1.0)
    assert await read(store, "x") == b"before"
    assert list(memory.MemoryFileSystem.store) == ["/bucket/prefix/x"]


async def test_a_folder_is_refused(store: RemoteStore) -> None:
    await store.put("a/x", pieces(b"abc"), ttl=1.0)
    with pytest.raises(BlobRefusedError, match="no file; nothing was read"):
        await read(store, "a")


@pytest.mark.parametrize("size", [LIMIT + 1, 1 << 50])
async def test_what_says_that_it_is_too_large_is_not_read(odd_store: RemoteStore, size: int) -> None:
    OddFiles.said, OddFiles.given = {"size": size}, bytes(LIMIT)
    with pytest.raises(BlobTooLargeError):
        await read(odd_store, "x")
    assert OddFiles.read == 0


@pytest.mark.parametrize("said", [{"size": 3}, {"size": 0}, {"size": None}, {}])
async def test_what_is_larger_than_it_says_is_read_to_the_limit_and_no_further(
    odd_store: RemoteStore, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    monkeypatch.setattr(remote, "PIECE", 100)
    OddFiles.said, OddFiles.given = said, bytes(100 * LIMIT)
    with pytest.raises(BlobTooLargeError):
        await read(odd_store, "x")
    assert OddFiles.read <= LIMIT + 100


@pytest.mark.parametrize("said", [{"size": 3}, {"size": None}, {}])
async def test_a_size_that_is_not_known_is_counted(odd_store: RemoteStore, said: dict[str, Any]) -> None:
    OddFiles.said = said
    assert await read(odd_store, "x") == b"abc"


async def test_what_comes_short_is_read_again(odd_store: RemoteStore) -> None:
    OddFiles.said = {"size": 4}
    with pytest.raises(TransportError, match="only 3 of the 4 bytes"):
        await read(odd_store, "x")


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (FileNotFoundError("x"), BlobMissingError),
        (PermissionError("expired token"), TransportError),
        (ConnectionRefusedError("nobody listens"), TransportError),
        (TimeoutError("too slow"), TransportError),
        (KeyError("what a store raises"), TransportError),
    ],
)
async def test_all_trouble_but_not_found_is_that_of_the_store(
    odd_store: RemoteStore, error: Exception, becomes: type[Exception]
) -> None:
    OddFiles.error = error
    with pytest.raises(becomes, match="odd://bucket/prefix/x"):
        await read(odd_store, "x")


async def test_secrets_in_what_a_store_says_are_masked(odd_store: RemoteStore) -> None:
    OddFiles.error = OSError("cannot reach https://user:hunter2@storage.example/x?token=hunter2")
    with pytest.raises(TransportError) as caught:
        await read(odd_store, "x")
    assert "hunter2" not in str(caught.value)


async def test_a_server_that_nobody_is_behind_is_trouble_of_the_store() -> None:
    store = RemoteStore(f"ftp://127.0.0.1:{free_port()}/prefix/", max_bytes=LIMIT)
    for call in (read(store, "x"), store.put("x", pieces(b"abc"), ttl=1.0), store.delete("x")):
        with pytest.raises(TransportError, match="cannot be used"):
            await call


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "blobs"), ("nonsense", "blobs")])
async def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, scheme: str, extra: str
) -> None:
    def missing(uri: str) -> None:
        raise ImportError(f"Install what speaks {uri}")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    store = RemoteStore(f"{scheme}://bucket/", max_bytes=LIMIT)
    with pytest.raises(ConfigurationError, match=rf"{scheme}://.*pip install '\.\[{extra}\]'"):
        await read(store, "x")


async def test_a_scheme_that_nothing_speaks_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ConfigurationError, match="nonsense://"):
        await read(RemoteStore("nonsense://bucket/", max_bytes=LIMIT), "x")


async def test_without_fsspec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(remote, "import_module", missing)
    with pytest.raises(ConfigurationError, match=r"No module named 'fsspec.core'.*'\.\[s3\]'"):
        await read(RemoteStore("s3://bucket/", max_bytes=LIMIT), "x")
