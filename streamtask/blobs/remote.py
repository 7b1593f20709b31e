"""Blobs below allowed prefixes, in whatever fsspec speaks to: S3, Google Cloud Storage, Azure, SFTP, ...

What a store says of itself is not believed: its size is asked first, and what comes is counted all the same. fsspec and
its file systems raise anything; all of it that is not "not found" is trouble of the store.
"""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from tempfile import NamedTemporaryFile
from typing import Any, BinaryIO, ParamSpec, TypeVar

from streamtask.blobs.pieces import PIECE, check, spooled
from streamtask.errors import BlobMissingError, BlobRefusedError, ConfigurationError, StreamtaskError, TransportError
from streamtask.redact import mask_text

#: Our extra that brings the package for a scheme.
_EXTRAS = {"s3": "s3", "s3a": "s3"}

_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


class RemoteStore:
    """What is below one prefix."""

    def __init__(self, prefix: str, *, max_bytes: int) -> None:
        self._prefix = prefix
        self._max_bytes = max_bytes

    async def put(self, name: str, pieces: AsyncIterator[bytes], *, ttl: float) -> None:  # noqa: ARG002 - theirs to say
        """Store a blob. Nothing is sent before all of it is here."""
        uri = self._prefix + name
        with NamedTemporaryFile() as file:
            async for piece in pieces:
                await to_thread(file.write, piece)
            await to_thread(file.flush)
            files, path = await _in_thread(uri, _file_system, uri)
            await _in_thread(uri, files.put_file, file.name, path)

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[BinaryIO]:
        """A copy of a blob."""
        async with spooled(self._pieces(self._prefix + name), limit=self._max_bytes) as file:
            yield file

    async def delete(self, name: str) -> None:
        """Remove a blob."""
        uri = self._prefix + name
        files, path = await _in_thread(uri, _file_system, uri)
        with suppress(BlobMissingError):
            await _in_thread(uri, files.rm_file, path)

    async def _pieces(self, uri: str) -> AsyncGenerator[bytes, None]:
        files, path = await _in_thread(uri, _file_system, uri)
        said = await _in_thread(uri, files.info, path)
        if said.get("type") != "file":
            raise BlobRefusedError(f"{uri!a} is no file; nothing was read")
        size = said.get("size") or 0
        check(size, self._max_bytes)
        reader = await _in_thread(uri, files.open, path, "rb", block_size=PIECE)
        read = 0
        try:
            while piece := await _in_thread(uri, reader.read, PIECE):
                read += len(piece)
                yield piece
        finally:
            await to_thread(reader.close)
        if read < size:
            raise TransportError(f"only {read} of the {size} bytes of {uri!a} came; read it again")


async def _in_thread(
    uri: str, call: Callable[_Given, _Answer], *args: _Given.args, **options: _Given.kwargs
) -> _Answer:
    """What a call for a URI answers, its trouble as an error of ours."""
    try:
        return await to_thread(call, *args, **options)
    except StreamtaskError:
        raise
    except FileNotFoundError as error:
        raise BlobMissingError(f"there is no blob {uri!a}, or not any more") from error
    except Exception as error:  # a file system raises what it likes
        told = mask_text(f"{type(error).__name__}: {error}")
        raise TransportError(f"the store of {uri!a} cannot be used: {told}") from error


def _file_system(uri: str) -> tuple[Any, str]:
    """What speaks to the store of a URI, and the path that it knows the blob by."""
    scheme = uri.partition("://")[0]
    extra = _EXTRAS.get(scheme, "blobs")
    try:
        found: tuple[Any, str] = import_module("fsspec.core").url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(
            f"{scheme}:// cannot be used ({error}): it may need a package that is not installed; `pip install "
            f"'.[{extra}]'` from a checkout of streamtask, or what is named here"
        ) from error
    return found
