"""Sound to log-mel features as faster-whisper makes them, with what makes one voice sound like many.

The numbers must be faster-whisper's to the last place that matters, padding included: a window is filled up to 30
seconds with plain zeros, which are no silence at all (silence is far below zero here).
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from faster_whisper.feature_extractor import FeatureExtractor
from numpy.typing import NDArray
from torch import Tensor

from training.synthesis import RATE

#: Samples a frame, and frames that faster-whisper pads a window to.
HOP = 160
FULL_WINDOW = 3000

_MELS = 80
_FFT = 400
#: Throats shorter and longer than the speaker's, as factors on frequency.
_WARPS = tuple(0.88 + 0.02 * step for step in range(14))


class Features:
    """The mel filters, once for each throat."""

    def __init__(self) -> None:
        plain = FeatureExtractor.get_mel_filters(RATE, _FFT, _MELS).astype(np.float32)
        self._plain = torch.from_numpy(plain)
        self._warped = torch.from_numpy(np.stack([_warp(plain, factor) for factor in _WARPS]))
        self._taper = torch.hann_window(_FFT)

    @torch.no_grad()
    def __call__(
        self, windows: list[NDArray[np.float32]], *, frames: int | None = None, rng: random.Random | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return features (window, mel, frame) and how many frames of each are sound.

        With `rng` the voices are varied. Without `frames` there is a quarter second of padding after the longest.
        """
        counts = torch.tensor([len(window) // HOP for window in windows])
        total = frames or int(counts.max()) + 24 + int(counts.max()) % 2
        sound = torch.zeros(len(windows), total * HOP)
        for row, window in enumerate(windows):
            sound[row, : len(window)] = torch.from_numpy(window)
        spectrum = torch.stft(sound, _FFT, HOP, window=self._taper, return_complex=True)[..., :total]
        power = torch.view_as_real(spectrum).square().sum(-1)
        mel = (self._plain if rng is None else self._throats(len(windows), rng)) @ power
        mel = mel.clamp(min=1e-10).log10()
        if rng is not None:
            mel += _equaliser(len(windows), rng)
        loudest = mel.amax((1, 2), keepdim=True)
        if rng is not None:
            # A window of a longer recording: something louder was heard before it.
            loudest += torch.tensor([max(0.0, rng.uniform(-4, 1)) for _ in windows])[:, None, None]
        mel = (torch.maximum(mel, loudest - 8) + 4) / 4
        return mel * (torch.arange(total) < counts[:, None, None]), counts

    def _throats(self, count: int, rng: random.Random) -> Tensor:
        return self._warped[[rng.randrange(len(_WARPS)) for _ in range(count)]]


def _warp(filters: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Return filters that hear a frequency where `factor` times that frequency was."""
    bins = np.arange(filters.shape[1], dtype=np.float32)
    return np.stack([np.interp(bins / factor, bins, row) for row in filters]).astype(np.float32)


def _equaliser(count: int, rng: random.Random) -> Tensor:
    """Microphones and rooms: a slow curve over the mels, most within 5 dB, as a summand in log10 of power."""
    place = torch.arange(_MELS)[None] / _MELS
    curve = torch.zeros(count, _MELS)
    for waves in (0.5, 1.0, 2.0, 3.5):
        height = torch.tensor([rng.gauss(0, 0.25) for _ in range(count)])[:, None]
        shift = torch.tensor([rng.uniform(0, 2 * math.pi) for _ in range(count)])[:, None]
        curve += height * torch.cos(2 * math.pi * waves * place + shift)
    return curve[..., None]
