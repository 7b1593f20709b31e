"""The model: loaded once a process, after every fork, and given turns in batches.

All that depends on the inside of faster-whisper (1.2 and later, before 2) is in this module. Its own pipelines take one
file each; here turns of any number of files share an inference: features of each, one encoding, one search, one
alignment for the times of words. Blocking, and for one thread at a time: a `Batcher` calls it.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens, merge_punctuations

from streamtask import ConfigurationError
from streamtask_contrib.audio import guards
from streamtask_contrib.audio.decoding import SAMPLE_RATE, Samples
from streamtask_contrib.audio.settings import AudioSettings

#: Marks that are written without a space before or behind them, and belong to the word beside them.
_BEFORE_WORD = "\"'“¿([{-"
_AFTER_WORD = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - Chinese and Japanese marks
#: Tokens of a turn at most: the model's own limit.
_MOST_TOKENS = 448
#: Drawings for each temperature above 0, of which the best is taken.
_DRAWINGS = 5
#: What comes nearest to what is fast and exact enough, best first.
_COMPUTE_TYPES = {
    "cpu": ("int8", "int8_float32", "float32"),
    "cuda": ("float16", "bfloat16", "int8_float16", "int8_float32", "float32"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """A turn to be transcribed."""

    #: At most `window` seconds.
    samples: Samples
    #: None: the model finds out, if it knows several.
    language: str | None = None


@dataclass(frozen=True, slots=True)
class HeardWord:
    """A word; in seconds from the beginning of its turn."""

    start: float
    end: float
    text: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardTurn:
    """What the model says of a turn."""

    text: str
    words: tuple[HeardWord, ...]
    language: str
    language_probability: float
    average_log_probability: float
    no_speech_probability: float
    compression_ratio: float
    #: Turns that shared the inference.
    batch_size: int


class WhisperEngine:
    """One Whisper model. It is loaded by `load`, or when it is needed, and can be put away in between."""

    def __init__(self, settings: AudioSettings, *, make: Callable[..., Any] = WhisperModel) -> None:
        self._settings = settings
        self._make = make
        self._lock = threading.Lock()
        self._model: Any = None
        self._pid = 0
        self._used_at = 0.0
        #: Seconds that one inference can hear, and the languages that the model was made for; known once it was loaded.
        self.window = 0.0
        self.languages: frozenset[str] = frozenset()

    # ── the model's life ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def name(self) -> str:
        """Of the model; of a folder its last part."""
        given = self._settings.model
        return Path(given).name if Path(given).is_dir() else given

    @property
    def is_loaded(self) -> bool:
        """Whether it takes memory now."""
        return self._model is not None

    def load(self) -> None:
        """Load the model and let it hear a second of noise, so that no event pays for its first inference."""
        with self._lock:
            self._loaded()

    def unload(self) -> None:
        """Give its memory back; it is loaded again when it is needed."""
        with self._lock:
            self._model = None

    def unload_if_idle(self, seconds: float) -> bool:
        """Unload what has not been used for so long; whether it was."""
        with self._lock:
            if self._model is None or time.monotonic() - self._used_at < seconds:
                return False
            self._model = None
            return True

    def _loaded(self) -> Any:
        if self._model is None:
            model = self._read()
            self.window = float(model.feature_extractor.chunk_length)
            self.languages = frozenset(model.supported_languages)
            self._pid = os.getpid()
            noise = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
            _Search(model, self._settings, "en").run([_features(model, noise)], self._settings.temperatures[0])
            self._model = model
        if self._pid != os.getpid():
            raise ConfigurationError(
                f"the speech model was loaded in process {self._pid} and is used in its fork {os.getpid()}, where it "
                "would hang; load it in the worker's lifespan, after the fork"
            )
        self._used_at = time.monotonic()
        return self._model

    def _read(self) -> Any:
        settings = self._settings
        device = settings.device
        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        try:
            return self._make(
                settings.model,
                device=device,
                device_index=settings.device_index,
                compute_type=_compute_type(settings.compute_type, device, settings.device_index),
                cpu_threads=settings.threads or min(4, len(os.sched_getaffinity(0))),
                download_root=None if settings.download_folder is None else str(settings.download_folder),
                local_files_only=settings.is_offline,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise ConfigurationError(
                f"the speech model {settings.model!r} cannot be loaded on {device}: {error}; "
                "STREAMTASK_AUDIO_MODEL is a folder of a model for faster-whisper, or its name on the hub"
            ) from error

    # ── hearing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def transcribe(self, utterances: Sequence[Utterance]) -> list[HeardTurn]:
        """What is said in each of these."""
        with self._lock:
            model = self._loaded()
            heard = self._hear(model, utterances)
            self._used_at = time.monotonic()
            return heard

    def _hear(self, model: Any, utterances: Sequence[Utterance]) -> list[HeardTurn]:
        """One inference for each language among them; what came out badly once more by itself."""
        features = [_features(model, each.samples) for each in utterances]
        languages = self._languages(model, utterances, features)
        heard: list[HeardTurn | None] = [None] * len(utterances)
        for language in dict.fromkeys(languages):
            places = [place for place, one in enumerate(languages) if one == language]
            search = _Search(model, self._settings, language[0])
            found = search.run([features[place] for place in places], self._settings.temperatures[0])
            for place, turn in zip(places, found, strict=True):
                better = search.again(features[place], turn) if guards.is_dubious(turn) else turn
                heard[place] = replace(better, language_probability=language[1], batch_size=len(utterances))
        return [turn for turn in heard if turn is not None]

    def _languages(
        self, model: Any, utterances: Sequence[Utterance], features: Sequence[Samples]
    ) -> list[tuple[str, float]]:
        """(language, probability) of each: as given, or as the model finds."""
        if not model.model.is_multilingual:
            return [("en", 1.0)] * len(utterances)
        unknown = [place for place, each in enumerate(utterances) if each.language is None]
        found: dict[int, tuple[str, float]] = {}
        if unknown:
            encoded = _encoded(model, [features[place] for place in unknown])
            for place, probabilities in zip(unknown, model.model.detect_language(encoded), strict=True):
                token, probability = probabilities[0]
                found[place] = token.removeprefix("<|").removesuffix("|>"), probability
        return [found.get(place, (each.language or "en", 1.0)) for place, each in enumerate(utterances)]


class _Search:
    """The search for words in one language."""

    def __init__(self, model: Any, settings: AudioSettings, language: str) -> None:
        self._model = model
        self._settings = settings
        self._language = language
        self._tokenizer = Tokenizer(
            model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language=language
        )
        self._prompt = model.get_prompt(
            self._tokenizer, [], without_timestamps=True, hotwords=settings.hotwords or None
        )
        self._suppressed = get_suppressed_tokens(self._tokenizer, [-1])

    def run(self, features: Sequence[Samples], temperature: float) -> list[HeardTurn]:
        """The words of turns, in one inference."""
        encoded = _encoded(self._model, features)
        if temperature > 0:
            how = {"beam_size": 1, "num_hypotheses": _DRAWINGS, "sampling_topk": 0, "sampling_temperature": temperature}
        else:
            how = {"beam_size": self._settings.beam_size}
        results = self._model.model.generate(
            encoded,
            [list(self._prompt) for _ in features],
            max_length=_MOST_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=self._suppressed,
            **how,
        )
        texts = [[token for token in each.sequences_ids[0] if token < self._tokenizer.eot] for each in results]
        # To the next whole second, as faster-whisper does: what ends with its last word needs some silence behind it.
        second = self._model.frames_per_second
        frames = [-(-each.shape[-1] // second) * second for each in features]
        aligned = self._model.find_alignment(self._tokenizer, texts, encoded, frames)
        return [
            self._heard(result, tokens, alignment)
            for result, tokens, alignment in zip(results, texts, aligned, strict=True)
        ]

    def again(self, features: Samples, first: HeardTurn) -> HeardTurn:
        """One turn with each further temperature until its words are good; else the best of them."""
        tried = [first]
        for temperature in self._settings.temperatures[1:]:
            [turn] = self.run([features], temperature)
            if not guards.is_dubious(turn):
                return turn
            tried.append(turn)
        sound = [turn for turn in tried if turn.compression_ratio <= guards.COMPRESSION]
        return max(sound or tried, key=lambda turn: turn.average_log_probability)

    def _heard(self, result: Any, tokens: list[int], alignment: list[dict[str, Any]]) -> HeardTurn:
        text = self._tokenizer.decode(tokens)
        written = text.strip().encode()
        merge_punctuations(alignment, _BEFORE_WORD, _AFTER_WORD)
        count = len(result.sequences_ids[0])
        return HeardTurn(
            text=text,
            words=tuple(
                HeardWord(float(word["start"]), float(word["end"]), word["word"], float(word["probability"]))
                for word in alignment
                if word["word"]
            ),
            language=self._language,
            language_probability=1.0,
            # The score is the mean over the tokens; the end counts as one.
            average_log_probability=result.scores[0] * count / (count + 1),
            no_speech_probability=result.no_speech_prob,
            compression_ratio=len(written) / len(zlib.compress(written)),
            batch_size=1,
        )


def _features(model: Any, samples: Samples) -> Samples:
    # The last frame is of the padding.
    features: Samples = model.feature_extractor(samples)[..., :-1]
    return features


def _encoded(model: Any, features: Sequence[Samples]) -> Any:
    """What the encoder makes of turns. On a processor they go one by one: together they only leave its caches.

    Measured with the model that ships: 55 ms for one, 93 ms for each of eight in a batch.
    """
    padded = [pad_or_trim(each) for each in features]
    if model.model.device != "cpu":
        return model.encode(np.stack(padded))
    return ctranslate2.StorageView.from_array(np.concatenate([np.asarray(model.encode(each[None])) for each in padded]))


def _compute_type(wanted: str, device: str, index: int) -> str:
    if wanted != "auto":
        return wanted
    supported = ctranslate2.get_supported_compute_types(device, index)
    return next((each for each in _COMPUTE_TYPES[device] if each in supported), "default")
