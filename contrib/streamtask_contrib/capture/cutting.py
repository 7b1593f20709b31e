"""Where audio is cut into chunks: in silences, and in speech only where nobody stops for too long.

`Cutter` takes raw PCM as it comes and gives pieces. It hears by energy alone: a frame is loud when it stands out from
the quietest of the last seconds. What is spoken is for the workers to find out; nothing here needs a model.

A piece owns the time from where the one before it ends. Cut in speech, both sides also get `overlap` / 2 seconds of the
other, so that a word that stands on the seam is whole for one of them; the worker keeps the words whose middle lies in
the piece's own time. A `Seam` is where to go on: whoever sends from its `audio_from` again loses and doubles nothing.
"""

from __future__ import annotations

import operator
import sys
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, sqrt

#: Bytes of a sample.
_WIDTH = 2
_FULL_SCALE = 32768.0
#: Seconds of a frame, the grain of every decision.
_FRAME = 0.02
#: Every fifth sample tells how loud a frame is as well as all of them do; of two channels it is each in turn.
_STEP = 5
#: Quieter than this is quiet, whatever the room (-54 dB of full scale).
_QUIET = 0.002
#: What is louder than this is never taken for the room (-40 dB): better a cut in noise than speech that is left out.
_ROOM = 0.01
#: How far speech stands out from the quietest frame of the last seconds: to begin, and to go on.
_BEGINS = 3.0
_GOES_ON = 2.0
#: Seconds that the quietest frame is looked for in: nobody speaks for so long without a breath.
_MEMORY = 5.0
#: Frames of which the quietest is remembered together.
_SPAN = 25
#: Loud frames in a row that begin an utterance: a click is shorter.
_ONSET = 3
#: Seconds of quiet that are kept before an utterance, and after one.
_LEAD = 0.3
_TAIL = 0.2
#: Seconds before a forced cut in which the quietest frame is looked for.
_SEARCH = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Raw samples: 16 bits, little endian, channels interleaved."""

    rate: int
    channels: int = 1

    @property
    def frame(self) -> int:
        """Bytes of one sample of every channel."""
        return _WIDTH * self.channels

    def bytes(self, seconds: float) -> int:
        """How many bytes last so long."""
        return round(seconds * self.rate) * self.frame

    def seconds(self, count: int) -> float:
        """How long so many bytes last."""
        return count / self.frame / self.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """Where one piece ends and the next begins: all that has to be known to go on, in seconds."""

    #: The next piece owns what comes from here on.
    at: float = 0.0
    #: Where its audio begins: earlier, where speech was cut.
    audio_from: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of audio. Positions are seconds of the whole."""

    pcm: bytes
    start: float
    duration: float
    #: Seconds shared with each neighbour.
    overlap: float
    #: What is behind it.
    seam: Seam


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Where a cutter cuts, in seconds."""

    #: No piece ends in a silence before it is so long.
    at_least: float = 0.0
    #: A piece is cut, if need be in speech, when it is so long.
    at_most: float
    silence: float = 0.5
    overlap: float = 1.0
    #: Pieces have the silences too; otherwise what is quiet between two utterances is left out.
    keeps_silence: bool = False


class Cutter:
    """Cuts a stream of samples. Positions inside are bytes from the beginning of the whole."""

    def __init__(self, form: Format, cuts: Cuts, *, after: Seam | None = None) -> None:
        """`after`: where the last piece ended that is known; the samples that are fed begin at its `audio_from`."""
        seam = after or Seam()
        self._form = form
        self._cuts = cuts
        self._loudness = _Loudness()
        self._frame = form.bytes(_FRAME)
        self._half = form.bytes(cuts.overlap / 2)
        #: What is no whole frame yet.
        self._rest = b""
        #: Audio from `_from` on, and how loud its frames are, counted from the end.
        self._audio = bytearray()
        self._levels: list[float] = []
        self._from = form.bytes(seam.audio_from)
        self._own = form.bytes(seam.at)
        self._cut_in_speech = self._own > self._from
        self._is_open = self._cut_in_speech or cuts.keeps_silence
        self._quiet = 0

    @property
    def is_open(self) -> bool:
        """Whether somebody speaks."""
        return self._is_open

    @property
    def position(self) -> float:
        """How far what has come reaches."""
        return self._form.seconds(self._end + len(self._rest))

    @property
    def seam(self) -> Seam:
        """Where to go on if all that is in here is lost; what is before it is done with, or quiet."""
        overlap = self._half if self._cut_in_speech else 0
        return Seam(at=self._form.seconds(self._own), audio_from=self._form.seconds(max(0, self._own - overlap)))

    @property
    def _end(self) -> int:
        return self._from + len(self._audio)

    def feed(self, pcm: bytes) -> Iterator[Piece]:
        """Take samples, of any length; give the pieces that they complete."""
        pcm = self._rest + pcm
        whole = len(pcm) - len(pcm) % self._frame
        self._rest = pcm[whole:]
        for at in range(0, whole, self._frame):
            piece = self._hear(pcm[at : at + self._frame])
            if piece is not None:
                yield piece

    def so_far(self) -> Piece | None:
        """What the open utterance has so far; it stays open."""
        return self._piece(self._end, self._overlap_before()) if self._is_open else None

    def flush(self) -> Piece | None:
        """End the open utterance here. None where nobody speaks."""
        self._take_rest()
        return self._cut(self._end, self._overlap_before()) if self._is_open and self._own < self._end else None

    def finish(self) -> Piece:
        """The last piece: all that is left, or a moment of silence."""
        self._take_rest()
        if self._own >= self._end:
            self._audio += bytes(self._own - self._end + self._frame * _ONSET)
        return self._cut(self._end, self._overlap_before())

    def _take_rest(self) -> None:
        self._audio += self._rest[: len(self._rest) - len(self._rest) % self._form.frame]
        self._rest = b""

    # ── hearing ───────────────────────────────────────────────────────────────────────────────────────────────

    def _hear(self, frame: bytes) -> Piece | None:
        level = _level(frame)
        self._quiet = 0 if self._loudness.is_loud(level, goes_on=self._is_open) else self._quiet + 1
        self._audio += frame
        self._levels.append(level)
        if not self._is_open:
            self._wait()
            return None
        long = self._form.seconds(self._end - self._own)
        if self._quiet * _FRAME >= self._cuts.silence and long >= self._cuts.at_least:
            tail = self._form.bytes(max(0.0, self._cuts.silence - _TAIL))
            return self._cut(self._end - tail, self._overlap_before())
        return self._cut(self._quietest(), self._cuts.overlap, in_speech=True) if long >= self._cuts.at_most else None

    def _wait(self) -> None:
        """Nobody speaks: has somebody begun? What is too long ago is forgotten."""
        if self._loudness.in_a_row >= _ONSET:
            self._is_open = True
            return
        begin = self._end - self._form.bytes(_LEAD)
        # The very first piece begins at the beginning, or late enough to have something before it to share.
        if self._own or begin > self._half:
            self._own = max(self._own, begin)
        self._forget()

    def _quietest(self) -> int:
        """The best place for a seam in speech: late, and between two words. What is shared must have come already."""
        frames = len(self._levels)
        latest = frames - ceil(self._half / self._frame)
        owned = (self._end - self._own) // self._frame
        earliest = max(latest - round(_SEARCH / _FRAME), frames - owned + 1)
        places = range(earliest, latest + 1) or [frames]
        best = min(places, key=lambda place: self._levels[min(place, frames - 1)])
        return self._end - (frames - best) * self._frame

    def _forget(self) -> None:
        """Drop what no piece will have; the part before `_own` may be wanted for an overlap."""
        gone = self._own - self._half - self._from
        if gone > 0:
            del self._audio[:gone]
            self._from += gone
            self._levels = self._levels[len(self._levels) - ceil(len(self._audio) / self._frame) :]

    # ── cutting ───────────────────────────────────────────────────────────────────────────────────────────────

    def _cut(self, seam: int, overlap: float, *, in_speech: bool = False) -> Piece:
        """A piece that ends here, and the beginning of the next."""
        audio, start, overlap = self._owned(seam, overlap)
        self._own, self._cut_in_speech = seam, in_speech
        self._is_open = in_speech or self._cuts.keeps_silence
        self._forget()
        return self._made(audio, start, overlap)

    def _piece(self, seam: int, overlap: float) -> Piece:
        return self._made(*self._owned(seam, overlap))

    def _made(self, audio: bytes, start: int, overlap: float) -> Piece:
        return Piece(
            pcm=audio,
            start=self._form.seconds(start),
            duration=self._form.seconds(len(audio)),
            overlap=overlap,
            seam=self.seam,
        )

    def _owned(self, seam: int, overlap: float) -> tuple[bytes, int, float]:
        """From `_own` to a seam, and half the overlap to each side; what has not come, or is gone, is silence."""
        # The very first piece gives nothing away at its beginning, and has nothing before it.
        half = min(self._form.bytes(overlap / 2), self._own or seam)
        start = max(0, self._own - half)
        end = seam + half
        before = bytes(max(0, self._from - start))
        after = bytes(max(0, end - self._end))
        heard = bytes(self._audio[max(0, start - self._from) : max(0, end - self._from)])
        return before + heard + after, start, self._form.seconds(2 * half)

    def _overlap_before(self) -> float:
        return self._cuts.overlap if self._cut_in_speech else 0.0


class _Loudness:
    """Whether a frame stands out from the quiet of the room, with hysteresis."""

    def __init__(self) -> None:
        self.in_a_row = 0
        # Of each half second. Nothing is known of the room yet: only what is quiet everywhere counts as quiet.
        self._quietest: deque[float] = deque([0.0], maxlen=round(_MEMORY / _FRAME / _SPAN))
        self._lowest = 1.0
        self._count = 0

    def is_loud(self, level: float, *, goes_on: bool) -> bool:
        """Whether a frame is speech, or something else that is loud; each frame is asked for once."""
        factor = _GOES_ON if goes_on else _BEGINS
        loud = level > max(_QUIET, min(*self._quietest, _ROOM) * factor)
        self.in_a_row = self.in_a_row + 1 if loud else 0
        self._learn(level)
        return loud

    def _learn(self, level: float) -> None:
        self._lowest = min(self._lowest, level)
        self._count += 1
        if self._count == _SPAN:
            self._quietest.append(self._lowest)
            self._lowest, self._count = 1.0, 0


def _level(frame: bytes) -> float:
    """Root mean square, 0 to 1."""
    samples = array("h", frame)
    if sys.byteorder == "big":
        samples.byteswap()
    heard = samples[::_STEP]
    return sqrt(sum(map(operator.mul, heard, heard)) / len(heard)) / _FULL_SCALE
