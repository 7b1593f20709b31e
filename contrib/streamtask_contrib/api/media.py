"""Files that people upload: whether they are audio, how long they last, and their samples.

PyAV tells, where it is installed. Without it the first bytes do, and a file stays in one piece: it is for the worker to
decode.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from streamtask_contrib.capture.cutting import Format
from streamtask_contrib.containers import CONTAINERS_ONLY

try:
    import av
except ImportError:  # the API runs where no model and no decoder is
    av = None

log = logging.getLogger(__name__)

#: What all of a file's samples become.
RATE = 16_000
#: Bytes in which files are read.
PIECE = 1 << 20
_HEAD = 16
#: (offset, bytes) of the containers that people have.
_MAGIC = (
    (8, b"WAVE"),
    (8, b"AIFF"),
    (0, b"ID3"),
    (0, b"fLaC"),
    (0, b"OggS"),
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (4, b"ftyp"),  # MP4, M4A
    (0, b"#!AMR"),
    (0, b"caff"),
)


class NotAudioError(Exception):
    """A file is no audio, or none that can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """What a file says of itself; None where it does not."""

    duration: float | None = None
    channels: int | None = None

    @property
    def can_be_cut(self) -> bool:
        """Whether its samples can be had here."""
        return self.channels is not None


def probe(file: BinaryIO) -> Media:
    """Look into a file. Raises `NotAudioError`."""
    file.seek(0)
    if av is None:
        _check_magic(file.read(_HEAD))
        return Media()
    try:
        with av.open(file, mode="r", options=CONTAINERS_ONLY) as container:
            if not container.streams.audio:
                raise NotAudioError("the file has no audio track")
            first = next(container.decode(audio=0), None)
            if first is None:
                raise NotAudioError("the file's audio track is empty")
            duration = None if container.duration is None else container.duration / av.time_base
            return Media(duration=duration, channels=len(first.layout.channels))
    except (av.FFmpegError, ValueError) as error:
        raise NotAudioError("the file is no audio that can be read here, or it is damaged") from error


def samples(file: BinaryIO, form: Format) -> Iterator[bytes]:
    """All samples of a file, a packet's at a time. What is damaged is left out, and said in the log."""
    file.seek(0)
    layout = "mono" if form.channels == 1 else "stereo"
    resampler = av.AudioResampler(format="s16", layout=layout, rate=form.rate)
    with av.open(file, mode="r", options=CONTAINERS_ONLY) as container:
        for frame in _frames(container):
            yield from _raw(resampler.resample(frame), form)
        yield from _raw(resampler.resample(None), form)


def _frames(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    packets = container.demux(audio=0)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            log.warning("media.ends_damaged", extra={"error": str(error)})
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.FFmpegError as error:
            log.warning("media.damaged", extra={"error": str(error)})


def _raw(frames: list[av.AudioFrame], form: Format) -> Iterator[bytes]:
    for frame in frames:
        # The plane may be longer than what is in it.
        yield bytes(frame.planes[0])[: frame.samples * form.frame]


def _check_magic(head: bytes) -> None:
    known = any(head[offset:].startswith(magic) for offset, magic in _MAGIC)
    is_mp3 = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0  # noqa: PLR2004 - eleven bits set: MPEG audio
    if not (known or is_mp3):
        raise NotAudioError("the file is no audio that is known here: WAV, MP3, Ogg, FLAC, M4A, WebM")
