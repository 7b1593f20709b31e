"""What the capture in the page reports, made into what happens in the meeting. No I/O; whoever calls tells the time.

A meeting is one or more documents (pages, and frames in them), each with participants and an audio clock of its own. A
report is foreign input, as all of a page is: what is not as it should be is dropped, and what there may be of it is
bounded.
"""

from __future__ import annotations

from base64 import b64decode
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from streamtask_contrib.bot.drivers.port import RATE, Happening, Heard, Joined, Left

#: Participants of one meeting, whoever comes again counted again. A page that has more makes them up.
MOST_PARTICIPANTS = 1000
#: Samples of a block, and how long it may be as base64: the page cuts them at a fifth of a second.
_MOST_SAMPLES = 16_384
_MOST_LETTERS = _MOST_SAMPLES * 2 * 4 // 3 + 4

_Id = Annotated[str, Field(min_length=1, max_length=200)]


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Began(_Report):
    """A document is there."""

    kind: Literal["began"]


class Refused(_Report):
    """Something in the page may not be heard."""

    kind: Literal["refused"]
    why: str = Field(max_length=200)


class HasJoined(_Report):
    """Somebody is there; or has another name than was told."""

    kind: Literal["joined"]
    id: _Id
    name: str = Field(max_length=200)


class HasLeft(_Report):
    """Somebody is gone."""

    kind: Literal["left"]
    id: _Id


def _decoded(told: object) -> bytes:
    if not isinstance(told, str) or len(told) > _MOST_LETTERS:
        raise ValueError("no base64, or too much of it")
    return b64decode(told, validate=True)


class Block(_Report):
    """Samples of somebody."""

    kind: Literal["heard"]
    id: _Id
    #: The first sample's place on the document's audio clock.
    frame: int = Field(ge=-_MOST_SAMPLES)
    count: int = Field(ge=1, le=_MOST_SAMPLES)
    #: When the last sample was rendered: milliseconds of the epoch.
    rendered: float = Field(allow_inf_nan=False)
    #: Told as base64; empty: silence.
    pcm: Annotated[bytes, BeforeValidator(_decoded)]

    def samples(self) -> bytes:
        """The samples, exactly as many as the block says."""
        size = self.count * 2
        return self.pcm[:size].ljust(size, b"\0")


class Reports(_Report):
    """What one document tells in one go."""

    document: _Id
    reports: list[Annotated[Began | Refused | HasJoined | HasLeft | Block, Field(discriminator="kind")]]


READ: TypeAdapter[Reports] = TypeAdapter(Reports)


@dataclass(frozen=True, slots=True)
class Now:
    """One moment by two clocks: seconds since the driver was made, and seconds of the epoch."""

    since: float
    wall: float


class Timeline:
    """Where the samples of one audio clock are in the driver's time.

    The clock of a sound card, or of a machine that is too busy to render in time, does not go as the driver's does.
    Each block says when it was rendered, which is never before its time and often a little after it: the least of the
    last delays is the true one. Samples follow each other without a gap as long as that is less than `_STEP` off.
    """

    #: Blocks that are looked back on: two seconds.
    _MEMORY = 10
    #: Seconds that samples may be off their time before they are moved.
    _STEP = 0.03
    #: A delay that is so much longer than the last ones is no delay: the clock stood still.
    _STOOD_STILL = 0.25

    def __init__(self) -> None:
        self._shifts: deque[float] = deque(maxlen=self._MEMORY)
        self._frame: int | None = None
        self._shift = 0.0

    def place(self, block: Block, now: Now) -> float:
        """When the first sample of the block was heard, in seconds since the driver was made."""
        if block.frame + block.count != self._frame:
            self._learn(block, now)
        return max(0.0, block.frame / RATE + self._shift)

    def _learn(self, block: Block, now: Now) -> None:
        # Blocks of several participants end together, and tell the same.
        self._frame = block.frame + block.count
        rendered = now.since - max(0.0, now.wall - block.rendered / 1000)
        shift = rendered - self._frame / RATE
        if self._shifts and shift > min(self._shifts) + self._STOOD_STILL:
            self._shifts.clear()
        self._shifts.append(shift)
        likely = min(self._shifts)
        if len(self._shifts) == 1 or abs(likely - self._shift) > self._STEP:
            self._shift = likely


class Hearing:
    """Who is in the meeting, over all of its documents."""

    def __init__(self) -> None:
        self._documents: dict[str, _Document] = {}
        self._people = count(1)
        self._nameless = count(1)

    def take(self, told: Reports, now: Now) -> Iterator[Happening]:
        """What has happened by what a document reports."""
        document = self._documents.setdefault(told.document, _Document())
        for report in told.reports:
            match report:
                case HasJoined():
                    yield from self._join(document, report)
                case HasLeft():
                    yield from self._leave(document, report.id)
                case Block() if who := document.participants.get(report.id):
                    yield Heard(who.participant, document.timeline.place(report, now), report.samples())
                case _:
                    pass

    def present(self) -> Iterator[Joined]:
        """Who is there."""
        for document in self._documents.values():
            yield from document.participants.values()

    def forget(self, document: str) -> Iterator[Happening]:
        """A document is gone, with everybody in it."""
        if gone := self._documents.pop(document, None):
            for who in list(gone.participants):
                yield from self._leave(gone, who)

    def _join(self, document: _Document, told: HasJoined) -> Iterator[Happening]:
        before = document.participants.get(told.id)
        if before is None and (number := next(self._people)) > MOST_PARTICIPANTS:
            return
        # Who is called otherwise from now on stays the same participant.
        participant = f"{told.id}#{number}" if before is None else before.participant
        joined = Joined(participant, told.name or f"Participant {next(self._nameless)}")
        document.participants[told.id] = joined
        yield joined

    @staticmethod
    def _leave(document: _Document, who: str) -> Iterator[Happening]:
        if gone := document.participants.pop(who, None):
            yield Left(gone.participant)


class _Document:
    def __init__(self) -> None:
        self.timeline = Timeline()
        #: The page's id of somebody → as what they were told.
        self.participants: dict[str, Joined] = {}
