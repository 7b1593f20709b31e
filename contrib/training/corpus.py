"""Utterances on disk: the sound of all of them in one file, and an index of what is said where.

The same seed gives the same corpus, however many processes make it: each utterance has a generator of its own, and
each stretch of utterances a process of its own, because how espeak-ng says one depends on what it has said before.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from training import voices
from training.synthesis import Clip, Espeak, EspeakError, Speaker
from training.vocabulary import utterance

#: The share of the training's utterances whose voice nobody has.
_DRAWN_SHARE = 0.8
#: A voice that cannot be used for one utterance is left for the next; so many in a row are no accident.
_TRIES = 20
#: Utterances that one process speaks.
_STRETCH = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """One utterance of a corpus."""

    text: str
    voice: str
    #: Where it begins in the file of all samples, and how long it is.
    offset: int
    length: int
    #: At which of its samples each word begins.
    begins: tuple[int, ...]


class Corpus:
    """Clips by number, read from the file when asked for."""

    def __init__(self, folder: Path, name: str) -> None:
        self.entries = [
            Entry(**{**entry, "begins": tuple(entry["begins"])})
            for entry in json.loads((folder / f"{name}.json").read_text())
        ]
        self._samples = np.memmap(folder / f"{name}.pcm", np.int16, "r")

    def __len__(self) -> int:
        return len(self.entries)

    def clip(self, number: int) -> Clip:
        """Return the clip of this number."""
        entry = self.entries[number]
        samples = self._samples[entry.offset : entry.offset + entry.length].astype(np.float32) / 32768
        return Clip(entry.text, samples, entry.begins)


def build(folder: Path, name: str, count: int, *, seed: int, processes: int = 2) -> None:
    """Speak `count` utterances: `name` is "training", "development" or "test", and decides whose voices they have."""
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    offset = 0
    jobs = [(name, seed, number) for number in range(count)]
    with (folder / f"{name}.pcm").open("wb") as file, _speaking(processes) as clips:
        for clip, voice in clips(jobs):
            samples = (clip.samples / max(1.0, float(np.abs(clip.samples).max())) * 32767).astype(np.int16)
            file.write(samples.tobytes())
            entries.append(
                {
                    "text": clip.text,
                    "voice": voice,
                    "offset": offset,
                    "length": len(samples),
                    "begins": list(clip.begins),
                }
            )
            offset += len(samples)
    (folder / f"{name}.json").write_text(json.dumps(entries))


_Job = tuple[str, int, int]


@contextmanager
def _speaking(processes: int) -> Iterator[Callable[[Sequence[_Job]], Iterator[tuple[Clip, str]]]]:
    """Processes that speak, each with an espeak-ng of its own; what they are asked for comes back in order."""
    with (
        tempfile.TemporaryDirectory(prefix="espeak-ng-") as data,
        # Forked: a stretch is spoken in the time that a fresh Python takes to load scipy.
        get_context("fork").Pool(processes, _open, (Path(data),), maxtasksperchild=1) as pool,
    ):
        yield lambda jobs: pool.imap(_speak, jobs, chunksize=_STRETCH)


_espeak: Espeak


def _open(data: Path) -> None:
    global _espeak  # noqa: PLW0603 - the library has one state a process, and so has this worker
    _espeak = Espeak(Path(tempfile.mkdtemp(dir=data)))


def _speak(job: _Job) -> tuple[Clip, str]:
    name, seed, number = job
    rng = random.Random(f"{seed}/{name}/{number}")
    for _ in range(_TRIES):
        speaker = _training_speaker(rng) if name == "training" else _other_speaker(rng, name)
        try:
            return _espeak.speak(utterance(rng), speaker), speaker.variant or "drawn"
        except EspeakError:
            continue
    raise EspeakError(f"espeak-ng fails {_TRIES} times in a row")


def _training_speaker(rng: random.Random) -> Speaker:
    drawn = voices.draw(rng) if rng.random() < _DRAWN_SHARE else ""
    return Speaker(
        language=rng.choice(voices.LANGUAGES),
        variant="" if drawn else rng.choice(voices.TRAINING),
        drawn=drawn,
        words_per_minute=rng.randint(115, 235),
        pitch=rng.randint(20, 80),
        stretch=rng.choice((1.0, rng.uniform(0.87, 1.16))),
    )


def _other_speaker(rng: random.Random, name: str) -> Speaker:
    return Speaker(
        language=rng.choice(voices.LANGUAGES),
        variant=rng.choice(voices.HELD_OUT if name == "test" else voices.DEVELOPMENT),
        words_per_minute=rng.randint(130, 215),
        pitch=rng.randint(30, 70),
    )
