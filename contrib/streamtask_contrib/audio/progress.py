"""How far a long chunk has come: kept with its delivery, so that another worker goes on where this one was killed.

A checkpoint is small and a transcript of hours is not. What is finished goes to blobs, part by part; the checkpoint has
their names, and the segments since.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from streamtask_contrib.events import Segment

#: Bytes of segments in a checkpoint, beyond which they become a part of their own.
_PART_BYTES = 64_000

SEGMENTS: TypeAdapter[list[Segment]] = TypeAdapter(list[Segment])


class Blobs(Protocol):
    """What is asked of `app.blobs` here."""

    async def put(self, data: bytes, *, name: str) -> str:
        """Store; the URI."""

    async def get(self, uri: str) -> bytes:
        """Read."""

    async def delete(self, uri: str) -> None:
        """Remove."""


class Checkpoint(BaseModel):
    """What is kept."""

    model_config = ConfigDict(extra="ignore")

    #: Sample of the file at which to go on.
    position: int = 0
    #: URIs of segments that are finished, in order, and the segments after them.
    parts: list[str] = []
    segments: list[Segment] = []
    language: str = ""
    language_probability: float = 0.0
    batch_size: int = 0


@dataclass(slots=True)
class Progress:
    """The work on one chunk so far. `blobs`: the app's."""

    name: str
    blobs: Blobs
    at: Checkpoint = field(default_factory=Checkpoint)
    #: Turns since the last checkpoint.
    turns: int = 0

    @classmethod
    def of(cls, name: str, blobs: Blobs, state: Any) -> Self:
        """Where an earlier attempt has come to; from the beginning where there was none."""
        return cls(name, blobs, Checkpoint.model_validate(state or {}))

    async def checkpoint(self) -> Any:
        """What to keep now, as JSON values."""
        self.turns = 0
        written = SEGMENTS.dump_json(self.at.segments)
        if len(written) > _PART_BYTES:
            part = f"{self.name}-part-{len(self.at.parts)}"
            self.at.parts.append(await self.blobs.put(written, name=part))
            self.at.segments = []
        return self.at.model_dump(mode="json")

    async def all_segments(self) -> list[Segment]:
        """Every segment, in order."""
        found: list[Segment] = []
        for uri in self.at.parts:
            found += SEGMENTS.validate_json(await self.blobs.get(uri))
        return found + self.at.segments

    async def forget(self) -> None:
        """Remove the parts: they are in the result."""
        for uri in self.at.parts:
            await self.blobs.delete(uri)
