"""Samples → turns: the stretches in which somebody speaks, each short enough for one inference.

The probability of speech comes from Silero VAD, which faster-whisper brings with it; what becomes of it is decided
here. Sound is handed over in blocks of any size, and their borders make no difference: the model's state goes on over
them, and a turn that is not over waits for the next block. A turn that is too long is cut where it is quietest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_whisper import vad
from numpy.typing import NDArray

from streamtask import ConfigurationError
from streamtask_contrib.audio.decoding import SAMPLE_RATE, Samples

#: Samples that one probability stands for: 32 ms.
WINDOW = 512

#: Samples before a window that the model sees, too.
_CONTEXT = 64
#: A turn ends below the threshold for speech less this much: what wavers around it is one turn.
_HYSTERESIS = 0.15
#: Seconds of speech below which there is no turn: clicks.
_SHORTEST = 0.1
#: Windows, 5 s, after which a model that has heard nothing but silence begins anew. Silero grows deaf in silence:
#: speech that follows half a second of it begins with 0.97, after 20 s with 0.78, after 100 s with 0.68.
_DEAF_AFTER = 156
#: Windows over which loudness is averaged to find the quietest point.
_SMOOTHING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOptions:
    """What makes a turn; in seconds but the first."""

    #: Probability from which it is speech.
    threshold: float
    min_silence: float
    #: Kept before and after; at most half of `min_silence`, so that turns never overlap.
    padding: float
    #: A turn has at most so many.
    longest: float


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """Somebody speaks; one inference."""

    #: Position of the first sample.
    start: int
    #: One row, float32.
    samples: Samples

    @property
    def end(self) -> int:
        """Position behind the last sample."""
        return self.start + len(self.samples)


class SpeechProbability:
    """Silero VAD over a stream: the probability of speech for each window, with its state kept in between."""

    def __init__(self) -> None:
        self._session: Any = vad.get_vad_model().session
        names = {put.name for put in self._session.get_inputs()}
        if names != {"input", "h", "c"}:
            raise ConfigurationError(
                f"the VAD of this faster-whisper takes {sorted(names)}; version 1.2 or a later one before 2 is needed"
            )
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._before = np.zeros((1, _CONTEXT), np.float32)

    def __call__(self, samples: Samples) -> NDArray[np.float32]:
        """Probabilities of whole windows, one for each."""
        windows = samples.reshape(-1, WINDOW)
        contexts = np.concatenate([self._before, windows[:-1, -_CONTEXT:]])
        self._before = windows[-1:, -_CONTEXT:]
        given = {"input": np.concatenate([contexts, windows], axis=1), "h": self._h, "c": self._c}
        answer, self._h, self._c = self._session.run(None, given)
        probabilities: NDArray[np.float32] = answer.reshape(-1)
        return probabilities


class TurnFinder:
    """Finds turns in sound that comes in blocks. `at`: position of the first sample that it is given."""

    def __init__(self, options: TurnOptions, *, at: int = 0) -> None:
        self._threshold = options.threshold
        self._min_silence = round(options.min_silence * SAMPLE_RATE)
        self._padding = int(options.padding * SAMPLE_RATE)
        self._longest = int(options.longest * SAMPLE_RATE)
        self._probability = SpeechProbability()
        #: Windows that it may still be given before it is looked at whether it has grown deaf.
        self._hears = _DEAF_AFTER
        #: Sound that may still become part of a turn, and the position of its first sample.
        self._held: Samples = np.zeros(0, np.float32)
        self._held_from = at
        #: Position up to which probabilities are known.
        self._known = at
        #: Nothing before it may become part of a turn: it is one already, or before the beginning.
        self._free_from = at
        #: Of the turn that is not over: where speech began, and the end of the last speech in it.
        self._began: int | None = None
        self._spoken = at

    @property
    def resume_at(self) -> int:
        """A finder that begins at this position finds all turns that this one has not given yet."""
        if self._began is not None:
            return self._start_of(self._began)
        return max(self._free_from, self._known - self._padding)

    def feed(self, block: Samples) -> Iterator[Turn]:
        """The turns that are over, or full, within the sound so far."""
        self._held = np.concatenate([self._held, block])
        unknown = self._held[self._known - self._held_from :]
        left = len(unknown) // WINDOW
        while left:
            count = min(left, self._hears)
            yield from self._follow(self._probability(unknown[: count * WINDOW]))
            unknown, left = unknown[count * WINDOW :], left - count
            self._listen(count)
        self._forget()

    def finish(self) -> Iterator[Turn]:
        """The turn that lasts until the end of the sound, if there is one."""
        end = self._held_from + len(self._held)
        if missing := -(end - self._known) % WINDOW:
            yield from self.feed(np.zeros(missing, np.float32))
        if self._began is not None:
            yield from self._close(min(end, self._spoken + self._padding))

    def _follow(self, probabilities: NDArray[np.float32]) -> Iterator[Turn]:
        for probability in probabilities.tolist():
            start = self._known
            self._known += WINDOW
            if self._began is None:
                if probability >= self._threshold:
                    self._began, self._spoken = start, self._known
                continue
            if probability >= max(self._threshold - _HYSTERESIS, 0.01):
                self._spoken = self._known
            elif self._known - self._spoken >= self._min_silence:
                yield from self._close(self._spoken + self._padding)
                continue
            if self._known - self._start_of(self._began) + self._padding > self._longest:
                yield from self._cut()

    def _listen(self, count: int) -> None:
        """Have the model begin anew, at times that do not depend on blocks, if it has heard only silence."""
        self._hears -= count
        if not self._hears:
            self._hears = _DEAF_AFTER
            if self._began is None and self._known - self._spoken >= _DEAF_AFTER * WINDOW:
                self._probability = SpeechProbability()

    def _close(self, end: int) -> Iterator[Turn]:
        """The turn is over."""
        began, self._began = self._began, None
        if began is not None and self._spoken - began > _SHORTEST * SAMPLE_RATE:
            yield self._turn(self._start_of(began), end)

    def _cut(self) -> Iterator[Turn]:
        """The turn is full: end it at the quietest point of its second half; speech goes on there."""
        assert self._began is not None  # noqa: S101 - the caller asked
        start = self._start_of(self._began)
        heard = self._held[start - self._held_from : self._known - self._held_from]
        windows = heard[: len(heard) // WINDOW * WINDOW].reshape(-1, WINDOW)
        loudness = np.convolve((windows**2).mean(axis=1), np.ones(_SMOOTHING) / _SMOOTHING, mode="same")
        half = len(loudness) // 2
        cut = start + WINDOW * (half + int(loudness[half:-1].argmin())) + WINDOW // 2
        yield self._turn(start, cut)
        # Where the quiet point was behind the last speech, it was silence that had not lasted long enough.
        self._began = cut if cut < self._spoken else None

    def _turn(self, start: int, end: int) -> Turn:
        self._free_from = end
        return Turn(start, self._held[start - self._held_from : end - self._held_from].copy())

    def _start_of(self, began: int) -> int:
        """Where a turn begins whose speech begins there."""
        return max(self._free_from, began - self._padding)

    def _forget(self) -> None:
        """Let go of the sound that is no part of any turn to come."""
        if (gone := self.resume_at - self._held_from) > 0:
            self._held = self._held[gone:].copy()
            self._held_from += gone
