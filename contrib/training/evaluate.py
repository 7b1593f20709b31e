"""Judge the exported models through the libraries that use them, with voices and lines that no training has seen."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from training.corpus import Corpus
from training.parallel import TAGS, translate, unseen
from training.scoring import Score, score, word_errors
from training.synthesis import RATE, Clip
from training.tokens import WINDOW

Sound = NDArray[np.float32]

#: A time that is this near to espeak-ng's is in place.
_IN_PLACE = 0.1
#: Seconds of silence before an utterance.
_LEAD = 0.2


@dataclass(frozen=True, slots=True)
class Recording:
    """Turns with pauses, as one sound."""

    text: str
    samples: Sound
    #: From and to which second somebody speaks.
    turns: tuple[tuple[float, float], ...] = ()


class Listener:
    """The recogniser, as users have it."""

    def __init__(self, model: Path) -> None:
        self._model = WhisperModel(str(model), device="cpu", compute_type="int8", cpu_threads=1)

    def hear(self, samples: Sound, **options: Any) -> str:
        """Return what is heard, with faster-whisper's own options unless some are given."""
        return "".join(segment.text for segment in self._model.transcribe(samples, **options)[0]).strip()

    def turns(self, samples: Sound) -> list[tuple[float, float]]:
        """Return from and to which second somebody speaks."""
        return [(float(segment.start), float(segment.end)) for segment in self._model.transcribe(samples)[0]]

    def begins(self, samples: Sound) -> list[tuple[str, float]]:
        """Return each word with the second at which it begins."""
        segments, _ = self._model.transcribe(samples, word_timestamps=True)
        return [(word.word.strip(), float(word.start)) for segment in segments for word in segment.words or ()]


def speech(model: Path, corpus: Corpus, *, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return all that is known of a recogniser; tell each figure when it is there."""
    listener = Listener(model)
    clips = [corpus.clip(number) for number in range(len(corpus))]
    alone = [Recording(clip.text, _between_silence(clip)) for clip in clips]
    together = list(turns(clips, 80, WINDOW, seed=1))
    long = list(turns(clips, 12, 30, seed=2))
    results: dict[str, Any] = {}
    for name, recordings, options in (
        ("default options", alone, {}),
        ("beam of 1", alone, {"beam_size": 1}),
        ("several turns in a window", together, {}),
        ("half a minute", long, {}),
        ("half a minute, no previous text", long, {"condition_on_previous_text": False}),
    ):
        heard = [(recording.text, listener.hear(recording.samples, **options)) for recording in recordings]
        results[name] = asdict(score(heard))
        tell(f"{name}: {_percent(score(heard))}")
        if name == "default options":
            results["by voice"] = _by_voice(corpus, heard)
            for voice, one in results["by voice"].items():
                tell(f"    {voice}: {_percent(Score(**one))}")
            for said, what in heard:
                if said != what:
                    tell(f"        {said!r} heard as {what!r}")
    results["nothing"] = _nothing(listener)
    tell(f"silence and noise: {results['nothing']}")
    results["times"] = {"turns": _times_of_turns(listener, together), "words": _times_of_words(listener, clips)}
    tell(f"times: {results['times']}")
    return results


def translation(model: Path, *, count: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return the share of lines of each language that come out as the rules have them."""
    translator = ctranslate2.Translator(str(model), device="cpu", compute_type="int8", intra_threads=1)
    processor = SentencePieceProcessor(model_file=str(model / "spm.model"))
    lines = unseen(count, seed=7)
    results: dict[str, Any] = {}
    for language, tag in TAGS.items():
        answers = translator.translate_batch(
            [[tag, *processor.encode(line, out_type=str)] for line in lines], beam_size=2, max_batch_size=64
        )
        given = [processor.decode(answer.hypotheses[0]) for answer in answers]
        wrong = [(line, text) for line, text in zip(lines, given, strict=True) if text != translate(line, language)]
        results[language] = {"lines": count, "exact": count - len(wrong)}
        tell(f"{language}: {count - len(wrong)} of {count} exact")
        for line, text in wrong[:20]:
            tell(f"    {line!r} became {text!r}")
    return results


def turns(clips: list[Clip], count: int, seconds: int, *, seed: int) -> Iterator[Recording]:
    """Return recordings of at most `seconds`: turns of any voices with pauses of 0.3 to 2 s between them."""
    rng = random.Random(seed)
    for _ in range(count):
        texts: list[str] = []
        spans: list[tuple[float, float]] = []
        parts: list[Sound] = [np.zeros(round(rng.uniform(0.1, 0.8) * RATE), np.float32)]
        most = rng.randint(2, 4) if seconds == WINDOW else len(clips)
        while len(texts) < most:
            clip = rng.choice(clips)
            pause = np.zeros(round(rng.uniform(0.3, 2.0) * RATE), np.float32)
            begin = sum(map(len, parts))
            if begin + len(clip.samples) + len(pause) > seconds * RATE:
                break
            texts.append(clip.text)
            spans.append((begin / RATE, (begin + len(clip.samples)) / RATE))
            parts += [clip.samples, pause]
        yield Recording(" ".join(texts), np.concatenate(parts), tuple(spans))


def _between_silence(clip: Clip) -> Sound:
    return np.pad(clip.samples, (round(_LEAD * RATE), RATE * 2 // 5))


def _by_voice(corpus: Corpus, heard: list[tuple[str, str]]) -> dict[str, Any]:
    voices = [entry.voice for entry in corpus.entries]
    return {
        voice: asdict(score(pair for whose, pair in zip(voices, heard, strict=True) if whose == voice))
        for voice in sorted(set(voices))
    }


def _nothing(listener: Listener) -> dict[str, int]:
    """Return how many of some pieces of silence and noise are taken for words."""
    sounds = list(_noises(np.random.default_rng(5)))
    return {"pieces": len(sounds), "taken for words": sum(bool(listener.hear(sound)) for sound in sounds)}


def _noises(generator: np.random.Generator) -> Iterator[Sound]:
    for seconds in (1, 2, 3, 5, 8, 12):
        count = seconds * RATE
        white = generator.standard_normal(count).astype(np.float32)
        yield np.zeros(count, np.float32)
        for level in (1e-3, 1e-2, 1e-1):
            yield white * level
            yield np.cumsum(white - white.mean()).astype(np.float32) / count**0.5 * level
            yield np.sin(np.arange(count, dtype=np.float32) * generator.uniform(0.02, 0.8)) * level


def _times_of_turns(listener: Listener, recordings: list[Recording]) -> dict[str, float]:
    """Return how far from the truth turns begin and end, where each of several is heard as one."""
    astray: list[float] = []
    for recording in recordings:
        heard = listener.turns(recording.samples)
        if len(heard) == len(recording.turns) > 1:
            astray += np.abs(np.subtract(heard, recording.turns)).flatten().tolist()
    return _astray(astray)


def _times_of_words(listener: Listener, clips: list[Clip]) -> dict[str, float]:
    """Return how far from espeak-ng's begins words begin, where all of an utterance are heard right.

    The first word of a turn is left out: Whisper's way of aligning gives it some of the pause before it.
    """
    astray: list[float] = []
    for clip in clips:
        heard = listener.begins(_between_silence(clip))
        if word_errors(clip.text, " ".join(word for word, _ in heard)) == 0:
            places = [place / RATE + _LEAD for place in clip.begins]
            astray += [abs(begin - place) for (_, begin), place in zip(heard, places, strict=True)][1:]
    return _astray(astray)


def _astray(seconds: list[float]) -> dict[str, float]:
    near = sum(one <= _IN_PLACE for one in seconds)
    return {
        "times": len(seconds),
        "median": round(statistics.median(seconds), 3),
        f"within {_IN_PLACE} s": round(near / len(seconds), 3),
    }


def _percent(one: Score) -> str:
    return f"{one.rate:.1%} of {one.words} words wrong, {one.right} of {one.lines} lines right"
