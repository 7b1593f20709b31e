"""A folder with a file for each service: `whisper.yaml`, `whisper.toml` or `whisper.json`."""

from __future__ import annotations

import asyncio
import errno
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from streamtask_contrib.config_sync import files
from streamtask_contrib.config_sync.documents import FORMS, MAX_BYTES
from streamtask_contrib.config_sync.sources.port import (
    ChangedError,
    MissingError,
    NotWritableError,
    Reading,
    SourceError,
)
from streamtask_contrib.config_sync.versions import Version
from streamtask_contrib.events import ID

_SCHEME = "file://"
#: It will be no better in a second.
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class FolderSource:
    """Files of one folder. What is in folders below it, begins with a dot, or ends otherwise is passed over."""

    def __init__(self, folder: Path, *, every: float = 1.0) -> None:
        """`every`: seconds between two looks."""
        self._folder = folder.absolute()
        self.name = f"folder-{self._folder}"
        self.every = every
        #: Service → its files, as they were listed last.
        self._paths: dict[str, list[Path]] = {}
        #: What each file held when it was read last.
        self._last: dict[Path, bytes] = {}

    async def services(self) -> dict[str, str]:
        """See `Source.services`."""
        self._paths = await self._files()
        return {service: f"{_SCHEME}{paths[0]}" for service, paths in self._paths.items()}

    def holds(self, place: str) -> bool:
        """See `Source.holds`."""
        return Path(place.removeprefix(_SCHEME)).parent == self._folder and place.startswith(_SCHEME)

    async def read(self, service: str) -> Reading:
        """See `Source.read`."""
        # As it was listed: to list it for each file anew would take the square of their number.
        path = _only(service, self._paths if service in self._paths else await self._files())
        content = self._last[path] = await self._content(path)
        return Reading(content, FORMS[path.suffix])

    def rendered(self, version: Version) -> bytes:
        """See `Source.rendered`."""
        return version.content

    async def write(
        self, service: str, version: Version, instead_of: Reading | None, is_ours: Callable[[], bool]
    ) -> None:
        """See `Source.write`."""
        try:
            path = _only(service, await self._files())
        except MissingError:
            suffix = Path(version.source).suffix
            path = self._folder / f"{service}{suffix if FORMS.get(suffix) == version.form else f'.{version.form}'}"
        if FORMS[path.suffix] != version.form:
            raise NotWritableError(f"{path.name} cannot hold a version that is {version.form.upper()}")
        stands = await self._content(path) if path.exists() else None
        if stands != (None if instead_of is None else instead_of.content):
            raise ChangedError(f"{path.name} has just been changed")

        def check() -> None:
            if not is_ours():
                raise ChangedError(f"another worker looks after {path.name} now")

        try:
            await asyncio.to_thread(files.replace, path, version.content, check)
        except OSError as error:
            kind = NotWritableError if error.errno in _FORBIDDEN else SourceError
            raise kind(f"{path.name} cannot be written: {error.strerror}") from None

    async def close(self) -> None:
        """See `Source.close`."""

    async def _content(self, path: Path) -> bytes:
        """What is in a file, and no more than tells that it is too large."""
        try:
            return await files.read(path, self._last.get(path), MAX_BYTES + 1)
        except FileNotFoundError:
            raise MissingError(f"{path.name} is gone") from None
        except OSError as error:
            raise SourceError(f"{path.name} cannot be read: {error.strerror}") from None

    async def _files(self) -> dict[str, list[Path]]:
        try:
            return await asyncio.to_thread(_listed, self._folder)
        except OSError as error:
            raise SourceError(f"the folder {self._folder} cannot be read: {error.strerror}") from None


def _only(service: str, files_of: dict[str, list[Path]]) -> Path:
    paths = files_of.get(service, [])
    if not paths:
        raise MissingError(f"there is no file of {service}")
    if len(paths) > 1:
        raise SourceError(f"it is unclear which is meant: {' or '.join(path.name for path in paths)}")
    return paths[0]


def _listed(folder: Path) -> dict[str, list[Path]]:
    """Service → its files: more than one is a mistake."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix in FORMS and re.fullmatch(ID, path.stem) and path.is_file():
            found[path.stem].append(path)
    return found
