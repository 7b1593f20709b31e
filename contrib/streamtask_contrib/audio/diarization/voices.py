"""Voices of a session: a model names those of one recording; here they get names that last for the session.

A voice is known by its vector. The first worker that hears a new one claims the next name in the session's record, and
what stands there never changes: two workers that hear two strangers at the same time cannot give both one name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamtask import Records
from streamtask_contrib.audio.settings import AudioSettings
from streamtask_contrib.events import AudioChunkReceived

#: What a voice is known by.
Voice = NDArray[np.float32]

#: Seconds from the next span within which a word still belongs to it.
_NEAR = 0.5


@dataclass(frozen=True, slots=True)
class Span:
    """Somebody speaks; in seconds."""

    start: float
    end: float
    label: str


class SessionVoices:
    """The voices of the session that a chunk belongs to."""

    def __init__(self, records: Records, chunk: AudioChunkReceived, settings: AudioSettings) -> None:
        self._records = records
        self._chunk = chunk
        self._same = settings.same_speaker
        self._ttl = settings.session_ttl
        # Session ids are free text, keys are not.
        self._key = "voices:" + hashlib.sha256(chunk.session_id.encode()).hexdigest()
        self._windows = 0

    async def names(self, labels: Collection[str], voices: Mapping[str, Voice]) -> dict[str, str]:
        """Lasting names for the labels of one window. A label without a voice gets one that nobody else will have."""
        self._windows += 1
        known = {name: _read(value) for name, value in (await self._records.read(self._key)).items()}
        names: dict[str, str] = {}
        for label in sorted(labels):
            voice = voices.get(label)
            if voice is None or not np.isfinite(voice).all() or not voice.any():
                names[label] = f"speaker-{self._chunk.sequence}.{self._windows}.{label}"
                continue
            taken = set(names.values())
            strangers = {name: other for name, other in known.items() if name not in taken}
            names[label] = _nearest(voice, strangers, self._same) or await self._claim(voice, known, taken)
        return names

    async def _claim(self, voice: Voice, known: dict[str, Voice], taken: Collection[str]) -> str:
        """A new name; or that of the same voice, which another worker has claimed meanwhile."""
        number = len(known)
        while True:
            number += 1
            name = f"speaker-{number}"
            if name in known:
                continue
            stands = await self._records.claim(self._key, name, _written(voice), ttl=self._ttl)
            known[name] = _read(stands)
            if name not in taken and _similarity(voice, known[name]) >= self._same:
                return name


def speaker_at(start: float, end: float, spans: Sequence[Span]) -> str | None:
    """Who speaks for most of this time; else who does next to it; else nobody knows."""
    shares: dict[str, float] = {}
    for span in spans:
        if (overlap := min(end, span.end) - max(start, span.start)) > 0:
            shares[span.label] = shares.get(span.label, 0.0) + overlap
    if shares:
        return max(shares, key=shares.__getitem__)
    distances = [(max(span.start - end, start - span.end), span.label) for span in spans]
    distance, label = min(distances, default=(_NEAR, ""))
    return label if distance < _NEAR else None


def _nearest(voice: Voice, known: Mapping[str, Voice], same: float) -> str | None:
    similar = {name: _similarity(voice, other) for name, other in known.items()}
    name = max(similar, key=similar.__getitem__, default=None)
    return name if name is not None and similar[name] >= same else None


def _similarity(one: Voice, other: Voice) -> float:
    if one.shape != other.shape:
        # Of another model: the configuration was changed during the session.
        return 0.0
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def _written(voice: Voice) -> bytes:
    return voice.astype("<f4").tobytes()


def _read(value: bytes) -> Voice:
    return np.frombuffer(value, "<f4")
