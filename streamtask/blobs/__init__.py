"""Blobs: what is too large for an event is stored beside it, and the event has its URI.

`BlobStores` says where an app keeps blobs and which URIs it takes from events; `Blobs`, which is `app.blobs`, stores
and opens them. `uris` decides what is allowed, without a look at anything; `shared`, `files` and `remote` each speak to
one kind of store.
"""

from __future__ import annotations

import math
from asyncio import to_thread
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from streamtask.blobs.files import FileStore
from streamtask.blobs.pieces import cut
from streamtask.blobs.remote import RemoteStore
from streamtask.blobs.shared import SharedStore
from streamtask.blobs.uris import SHARED, clean_name, place_of, trouble_in
from streamtask.errors import ConfigurationError
from streamtask.redact import mask_url
from streamtask.transport.port import Storage

#: Schemes that a prefix cannot have, and what to do instead.
_NOT_REMOTE = {
    "redis": "blobs in the app's own broker are always allowed",
    "file": "give `folder`",
    "local": "give `folder`",
    "http": "a web server may send its readers anywhere; use an object store",
    "https": "a web server may send its readers anywhere; use an object store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobStores:
    """Where an app keeps blobs, and from where it reads them."""

    #: Where `put` stores: "redis" (the broker itself), "file", or one of `remote`.
    default: str = "redis"
    #: The folder below which files may be; None: no files.
    folder: str | Path | None = None
    #: Prefixes of URIs that may be read, such as "s3://bucket/audio/"; what speaks to them comes from fsspec.
    remote: tuple[str, ...] = ()
    #: Whether producers may put the bytes into the event instead. For development: events are small.
    inline: bool = False
    #: The most bytes of one blob.
    max_bytes: int = 64 << 20
    #: Seconds for which a blob in the broker stands; files and remote stores keep what they have.
    ttl: float = 86_400.0

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ConfigurationError(f"max_bytes is at least 1, got {self.max_bytes}")
        _check_ttl(self.ttl)
        if self.folder is not None:
            _check_folder(Path(self.folder))
        for prefix in self.remote:
            _check_prefix(prefix)
        if self.default == "file" and self.folder is None:
            raise ConfigurationError('blobs are to be kept as files (default="file") and no `folder` is given')
        if self.default not in ("redis", "file", *self.remote):
            raise ConfigurationError(f'default is "redis", "file" or one of `remote`, got {mask_url(self.default)!r}')


class Store(Protocol):
    """One kind of store, by the names of its blobs."""

    async def put(self, name: str, pieces: AsyncIterator[bytes], *, ttl: float) -> None:
        """Store a blob, or nothing."""

    def open(self, name: str) -> AbstractAsyncContextManager[BinaryIO]:
        """A blob, from its beginning."""

    async def delete(self, name: str) -> None:
        """Remove a blob; nothing where there is none."""


class Blobs:
    """The blobs of an app: `app.blobs`."""

    def __init__(self, settings: BlobStores, storage: Callable[[], Storage]) -> None:
        """`storage`: that of the broker, asked for when it is used."""
        self._settings = settings
        limit = settings.max_bytes
        #: By what their URIs begin with: a slash at the end, or "s3://bucket" would allow "s3://bucket-of-others".
        self._stores: dict[str, Store] = {SHARED: SharedStore(storage, max_bytes=limit)}
        self._default = SHARED
        if settings.folder is not None:
            folder = Path(settings.folder).absolute()
            prefix = f"{folder.as_posix().rstrip('/')}/"
            self._stores[f"file://{prefix}"] = FileStore(folder, max_bytes=limit)
            self._default = f"file://{prefix}" if settings.default == "file" else SHARED
        for given in settings.remote:
            prefix = f"{given.rstrip('/')}/"
            self._stores[prefix] = RemoteStore(prefix, max_bytes=limit)
            self._default = prefix if settings.default == given else self._default

    @property
    def is_inline_allowed(self) -> bool:
        """Whether producers may put the bytes into the event instead."""
        return self._settings.inline

    async def put(self, data: bytes | AsyncIterable[bytes], *, name: str, ttl: float | None = None) -> str:
        """Store a blob in the default store; returns its URI. One of the same name is replaced.

        `name`: may have folders, `sessions/17/3.wav`; what is not plain in it is replaced. `ttl`: seconds for which it
        stands, in the broker. It is seen when all of it is stored, and if anything goes wrong nothing is.

        Raises:
            BlobTooLargeError: it has more than `max_bytes`; nothing was stored.
            TransportError: the store cannot be reached; put it again.
        """
        name, ttl = clean_name(name), self._settings.ttl if ttl is None else ttl
        _check_ttl(ttl)
        async with aclosing(cut(data, limit=self._settings.max_bytes)) as pieces:
            await self._stores[self._default].put(name, pieces, ttl=ttl)
        return self._default + name

    async def get(self, uri: str) -> bytes:
        """The bytes of a blob. Raises as `open` does."""
        async with self.open(uri) as file:
            return await to_thread(file.read)

    @asynccontextmanager
    async def open(self, uri: str) -> AsyncIterator[BinaryIO]:
        """A blob as a binary file that can be sought in; what is long is not held in memory.

        Raises:
            BlobMissingError: there is none, or not any more.
            BlobRefusedError: the app does not allow this URI; nothing was read.
            BlobTooLargeError: it has more than `max_bytes`.
            TransportError: the store cannot be reached.
        """
        place = place_of(uri, self._stores)
        async with self._stores[place.prefix].open(place.name) as file:
            yield file

    async def delete(self, uri: str) -> None:
        """Remove a blob; nothing where there is none. Raises `BlobRefusedError` and `TransportError` as `open` does."""
        place = place_of(uri, self._stores)
        await self._stores[place.prefix].delete(place.name)


def _check_ttl(ttl: float) -> None:
    if not 0 < ttl < math.inf:
        raise ConfigurationError(f"the ttl of a blob is in seconds and above 0, got {ttl}")


def _check_folder(folder: Path) -> None:
    trouble = "it has a step `..`" if ".." in folder.parts else trouble_in(str(folder))
    if trouble:
        raise ConfigurationError(f"the folder for blobs, {str(folder)!r}, cannot stand in a URI: {trouble}")


def _check_prefix(prefix: str) -> None:
    scheme, separator, rest = prefix.partition("://")
    trouble = "it is no URI" if not (separator and scheme and rest.strip("/")) else trouble_in(prefix)
    trouble = trouble or _NOT_REMOTE.get(scheme.lower(), "")
    if not trouble and "@" in rest:
        trouble = "it has credentials, which would stand in every event; give them as the store's package wants them"
    if trouble:
        raise ConfigurationError(f"{mask_url(prefix)!r} cannot be allowed as a prefix of blobs: {trouble}")
