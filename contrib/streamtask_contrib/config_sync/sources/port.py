"""What the worker asks of a source: which services it has, what it holds for each, and to hold something else.

A source knows files, hashes or pages, and nothing of versions: it is polled, and whoever polls it decides by content.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from streamtask import StreamtaskError
from streamtask_contrib.config_sync.documents import Form
from streamtask_contrib.config_sync.versions import Version, digest_of


class SourceError(StreamtaskError):
    """A source cannot be read or written now. The message is for people, and has no secret in it."""


class MissingError(SourceError):
    """The source has no configuration of this service, or not any more."""


class NotWritableError(SourceError):
    """The source will never hold this: it must not be written, or not in this form."""


class ChangedError(SourceError):
    """Somebody else has changed it since it was read, or looks after it now; nothing was written."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source holds for one service."""

    content: bytes = field(repr=False)
    form: Form
    #: As it stands in the source, where that is not `content`.
    original: bytes | None = field(default=None, repr=False)
    #: What the source itself calls this state of it, such as an ETag.
    tag: str = ""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest_of(self.content if self.original is None else self.original))


class Source(Protocol):
    """One place with the configurations of some services. A service may appear and vanish."""

    #: What it is called in a lease: the same for every worker that has this source.
    name: str
    #: Seconds between two looks.
    every: float

    async def services(self) -> dict[str, str]:
        """Service → where its configuration is, without secrets. Raises `SourceError`."""
        ...

    def holds(self, place: str) -> bool:
        """Whether this place is one of its own, also where nothing is there now."""
        ...

    async def read(self, service: str) -> Reading:
        """What it holds. Raises `SourceError`."""
        ...

    def rendered(self, version: Version) -> bytes:
        """What it will hold after a version is written: that by which `Reading.digest` knows it.

        Raises `NotWritableError`.
        """
        ...

    async def write(
        self, service: str, version: Version, instead_of: Reading | None, is_ours: Callable[[], bool]
    ) -> None:
        """Hold a version instead of what was read (None: of nothing), whole or not at all. Raises `SourceError`.

        `is_ours`: asked in the last moment; where it is False, nothing is written. A worker that was stopped for a
        while would write over what another has written since.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
