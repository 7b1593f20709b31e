"""Any audio file → blocks of samples, 16 kHz, one channel or two; never more than a block of it in memory.

PyAV brings FFmpeg with it, so that no program has to be installed. Audio is foreign input: what is no audio, what is
empty and what grows beyond its limits is refused with words that its sender understands. Blocking: call it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

import av
import numpy as np
from numpy.typing import NDArray

from streamtask import Reject
from streamtask_contrib.containers import CONTAINERS_ONLY
from streamtask_contrib.events import AudioConfig

#: Samples a second, of everything behind this module.
SAMPLE_RATE = 16_000
#: Seconds of a block.
BLOCK = 30

#: Samples in the range -1 to 1, a row for each channel.
Samples = NDArray[np.float32]

#: Sample rates that are taken: from less than what any telephone sends, which would be blown up a thousandfold, to more
#: than what any recorder writes. A damaged header says anything.
_LOWEST_RATE, _HIGHEST_RATE = 4_000, 768_000
#: Damaged pieces without one that is sound, after which it is no audio.
_MOST_DAMAGED = 100
#: Names that FFmpeg has for so many channels of raw samples.
_LAYOUTS = ("mono", "stereo", "2.1", "quad", "5.0", "5.1", "6.1", "7.1")


class AudioRefusedError(Reject):
    """Audio that can never be transcribed; the message says why, in words for who sent it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much sound is taken."""

    #: What is behind is left out.
    seconds: float
    #: Before it is resampled; more is refused.
    decoded_bytes: int


class AudioFile:
    """An open audio file, decoded once from front to back. Use it with `with`.

    `split`: keep two channels apart, where there are two.
    """

    def __init__(self, file: BinaryIO, config: AudioConfig, limits: Limits, *, split: bool = False) -> None:
        self._limits = limits
        self._decoded_bytes = 0
        self._damaged = 0
        self._is_cut = False
        #: Samples (of each channel) that were decoded.
        self.samples = 0
        self._open = ExitStack()
        self._container = self._open.enter_context(_open(file, config))
        try:
            self._stream = _audio_stream(self._container)
            #: 2 where the channels are kept apart, else 1.
            self.channels = 2 if split and self._stream.codec_context.layout.nb_channels == 2 else 1  # noqa: PLR2004 - left and right
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def duration(self) -> float | None:
        """Seconds that the file says it has, if it says so."""
        return None if self._container.duration is None else float(self._container.duration / av.time_base)

    @property
    def notes(self) -> list[str]:
        """What a person should know of the decoding so far."""
        notes = []
        if self._damaged:
            notes.append(f"{self._damaged} damaged pieces were left out")
        if self._is_cut:
            notes.append(f"cut at the limit of {_hours(self._limits.seconds)}")
        return notes

    def blocks(self, *, skip: int = 0) -> Iterator[Samples]:
        """Blocks of `BLOCK` seconds, the last one shorter, from sample `skip` on.

        Raises:
            AudioRefusedError: nothing of it is sound, or it is too much.
        """
        size, held, parts = BLOCK * SAMPLE_RATE, 0, list[NDArray[np.int16]]()
        for part in self._parts():
            self.samples += part.shape[1]
            new = part[:, max(0, part.shape[1] - max(0, self.samples - skip)) :]
            parts.append(new)
            held += new.shape[1]
            while held >= size:
                joined = np.concatenate(parts, axis=1)
                yield _as_floats(joined[:, :size])
                parts, held = [joined[:, size:]], held - size
        if not self.samples:
            raise AudioRefusedError("there is no sound in this audio: not one sample of it could be decoded")
        if held:
            yield _as_floats(np.concatenate(parts, axis=1))

    def _parts(self) -> Iterator[NDArray[np.int16]]:
        """Small pieces of samples, until the end or the limit."""
        left = int(self._limits.seconds * SAMPLE_RATE)
        for frame in self._resampled():
            part = frame.to_ndarray()
            if part.shape[1] > left:
                self._is_cut = True
                yield part[:, :left]
                return
            left -= part.shape[1]
            yield part

    def _resampled(self) -> Iterator[Any]:
        """Frames of 16 kHz, from frames whose rate and channels may change on the way."""
        layout = "mono" if self.channels == 1 else "stereo"
        resampler: Any = None
        setup = None
        for frame in self._frames():
            shape = (frame.format.name, frame.layout.name, frame.sample_rate)
            if shape != setup:
                if resampler is not None:
                    yield from resampler.resample(None)
                resampler, setup = av.AudioResampler(format="s16p", layout=layout, rate=SAMPLE_RATE), shape
            try:
                yield from resampler.resample(frame)
            except av.FFmpegError as error:
                raise AudioRefusedError(
                    f"this audio says that it has {frame.layout.nb_channels} channels ({frame.layout.name}) at "
                    f"{frame.sample_rate} Hz, which cannot be converted ({error.strerror}); it may be damaged"
                ) from error
        if resampler is not None:
            # What it still holds.
            yield from resampler.resample(None)

    def _frames(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except (StopIteration, EOFError):
                return
            except av.FFmpegError:
                # One bad packet does not end a recording; a file that ends in the middle of one does.
                self._damaged += 1
                if self._damaged > _MOST_DAMAGED and not self.samples:
                    return
                continue
            for frame in frames:
                self._check(frame)
                yield frame

    def _check(self, frame: Any) -> None:
        if not _LOWEST_RATE <= frame.sample_rate <= _HIGHEST_RATE:
            raise AudioRefusedError(
                f"a sample rate of {frame.sample_rate} Hz is none of a recording of speech: "
                f"it is taken from {_LOWEST_RATE} to {_HIGHEST_RATE} Hz"
            )
        self._decoded_bytes += frame.samples * frame.layout.nb_channels * frame.format.bytes
        if self._decoded_bytes > self._limits.decoded_bytes:
            raise AudioRefusedError(
                f"decoded, this audio has more than the {self._limits.decoded_bytes} bytes that are allowed; "
                "send it in smaller pieces"
            )


def _open(file: BinaryIO, config: AudioConfig) -> Any:
    if not file.read(1):
        raise AudioRefusedError("the audio is empty: it has 0 bytes")
    file.seek(0)
    form: str | None = None
    options = dict(CONTAINERS_ONLY)
    if config.encoding == "pcm_s16le":
        form = "s16le"
        options |= {"sample_rate": str(config.sample_rate), "ch_layout": _LAYOUTS[config.channels - 1]}
    try:
        return av.open(file, mode="r", format=form, options=options, metadata_errors="ignore")
    except av.FFmpegError as error:
        raise AudioRefusedError(
            f"this is no audio file that can be read, or its beginning is damaged ({error.strerror})"
        ) from error


def _audio_stream(container: Any) -> Any:
    streams = container.streams
    if streams.audio:
        return streams.audio[0]
    others = sorted({stream.type for stream in streams})
    raise AudioRefusedError(f"the file has no sound: it holds {' and '.join(others) or 'nothing'}")


def _as_floats(samples: NDArray[np.int16]) -> Samples:
    return samples.astype(np.float32) / 32768.0


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"  # noqa: PLR2004 - an hour
