"""The recording that ships for a first try: two people, whose voices no training has heard, in short turns."""

from __future__ import annotations

import json
import random
import tempfile
import wave
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.synthesis import RATE, Espeak, Speaker

Sound = NDArray[np.float32]

_SPEAKERS = {
    "Ada": Speaker("en-us", "f5", words_per_minute=150),
    "Ben": Speaker("en", "benjamin", words_per_minute=145, pitch=45),
}

_SCRIPT = (
    ("Ada", "hello team"),
    ("Ben", "hello"),
    ("Ada", "please join the meeting"),
    ("Ben", "start record now"),
    ("Ada", "open the next slide"),
    ("Ben", "call three seven one"),
    ("Ada", "zero nine four two"),
    ("Ben", "thank you"),
    ("Ada", "send the message today"),
    ("Ben", "next slide please"),
    ("Ada", "stop record"),
    ("Ben", "goodbye team"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """Who says what, from and to which second."""

    start: float
    end: float
    speaker: str
    text: str


def write(folder: Path, *, seed: int = 1) -> None:
    """Write `meeting.wav`, `meeting.json` with its lines, and `meeting-stereo.wav`: its first half, a channel each."""
    turns = list(_turns(random.Random(seed)))
    folder.mkdir(parents=True, exist_ok=True)
    _write_wav(folder / "meeting.wav", _mix(turns).sum(1, keepdims=True))
    _write_wav(folder / "meeting-stereo.wav", _mix(turns[: len(turns) // 2]))
    (folder / "meeting.json").write_text(json.dumps([asdict(line) for line, _ in turns], indent=2) + "\n")


def _turns(rng: random.Random) -> Iterator[tuple[Line, Sound]]:
    place = 0
    with tempfile.TemporaryDirectory() as data:
        espeak = Espeak(Path(data))
        for speaker, text in _SCRIPT:
            place += round(rng.uniform(0.5, 1.2) * RATE)
            samples = espeak.speak(text, _SPEAKERS[speaker]).samples
            end = place + len(samples)
            yield Line(round(place / RATE, 2), round(end / RATE, 2), speaker, text), samples
            place = end


def _mix(turns: Sequence[tuple[Line, Sound]]) -> Sound:
    """Return a channel for each speaker, and half a second of silence at the end."""
    channels = np.zeros((round((turns[-1][0].end + 0.5) * RATE), len(_SPEAKERS)), np.float32)
    for line, samples in turns:
        begin = round(line.start * RATE)
        channels[begin : begin + len(samples), list(_SPEAKERS).index(line.speaker)] += samples
    return channels


def _write_wav(path: Path, channels: Sound) -> None:
    loudest = max(1.0, float(np.abs(channels).max()))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels.shape[1])
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((channels / loudest * 32_000).astype("<i2").tobytes())
