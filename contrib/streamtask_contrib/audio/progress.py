"""How far a long chunk has come: kept with its delivery, so that another worker goes on where this one was killed.

A checkpoint is small and a transcript of hours is not. What is finished goes part by part into a record, which
stands for a day; the checkpoint says how many parts there are, and has the segments since.
"""

from __future__ import annotations

import hashlib
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from streamtask import Records
from streamtask_contrib.events import Segment

#: Bytes of segments in a checkpoint, beyond which they become a part of their own.
_PART_BYTES = 64_000
#: Seconds after the last part for which all are kept; who resumes later than that begins anew.
_TTL = 86_400.0

SEGMENTS: TypeAdapter[list[Segment]] = TypeAdapter(list[Segment])


class Checkpoint(BaseModel):
    """What is kept with the delivery."""

    model_config = ConfigDict(extra="ignore")

    #: Sample of the file at which to go on.
    position: int = 0
    #: Parts in the record.
    parts: int = 0
    #: The segments after them.
    segments: list[Segment] = []
    language: str = ""
    language_probability: float = 0.0
    batch_size: int = 0


class Progress:
    """The work on one chunk so far."""

    def __init__(self, chunk_id: str, records: Records) -> None:
        # Ids of chunks are free text, keys are not.
        self._key = "transcribing:" + hashlib.sha256(chunk_id.encode()).hexdigest()
        self._records = records
        self._parts: list[bytes] = []
        self.at = Checkpoint()
        #: Turns since the last checkpoint.
        self.turns = 0

    @classmethod
    async def of(cls, chunk_id: str, records: Records, state: Any) -> Self:
        """Where an earlier attempt has come to; the beginning where there was none, or where its parts are gone."""
        progress = cls(chunk_id, records)
        if state is None:
            return progress
        at = Checkpoint.model_validate(state)
        kept = await records.read(progress._key) if at.parts else {}
        parts = [kept.get(_field(number)) for number in range(at.parts)]
        if None not in parts:
            progress.at, progress._parts = at, [part for part in parts if part is not None]
        return progress

    async def checkpoint(self) -> Any:
        """What to keep now, in plain JSON."""
        self.turns = 0
        written = SEGMENTS.dump_json(self.at.segments)
        if len(written) > _PART_BYTES:
            # Written before the checkpoint that counts it. Who dies in between writes it again.
            await self._records.write(self._key, {_field(self.at.parts): written}, ttl=_TTL)
            self._parts.append(written)
            self.at.parts += 1
            self.at.segments = []
        return self.at.model_dump(mode="json")

    def segments(self) -> list[Segment]:
        """Every segment, in order."""
        finished = [segment for part in self._parts for segment in SEGMENTS.validate_json(part)]
        return finished + self.at.segments


def _field(number: int) -> str:
    return f"part-{number}"
