"""The model in memory: sentences of many events in, translations out, by way of CTranslate2.

One engine a process. It loads when it is told to, unloads when it has been idle, and refuses to work in a child of the
process that loaded it: there it would wait for threads that a fork does not take along. Threads may share it. It knows
nothing of events, and batches nothing: it is given batches.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import ctranslate2

from streamtask import ConfigurationError
from streamtask_contrib.languages import separator
from streamtask_contrib.translation import sentences
from streamtask_contrib.translation.families import ModelFolder, open_folder
from streamtask_contrib.translation.settings import TranslationSettings

#: Tokens that a translation may have beyond its share of the source's: short sentences grow most.
_SLACK = 10
_NOT_LOADED = "the model is not loaded: a worker lifespan does that"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence, or a piece of one, as the model reads it."""

    tokens: list[str]
    #: What its translation is made to begin with.
    prefix: list[str]
    target: str


@dataclass(frozen=True, slots=True)
class Translated:
    """A sentence in its other language."""

    text: str
    #: Sentences that were translated with it.
    batch_size: int


class TranslationEngine:
    """A model that is loaded once a process. Nothing is read before `load`."""

    def __init__(self, settings: TranslationSettings) -> None:
        self._settings = settings
        self._folder: ModelFolder | None = None
        self._translator: ctranslate2.Translator | None = None
        self._pid = 0
        self._lock = Lock()
        self._users = 0
        self._used_at = time.monotonic()

    @property
    def name(self) -> str:
        """Name of the model: of its folder."""
        return self._settings.model.absolute().name

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._translator is not None and bool(self._translator.model_is_loaded)

    def load(self) -> None:
        """Read the model, and translate something, so that the first event does not wait for what is made then.

        Raises:
            ConfigurationError: the folder, the device or the type of its numbers is none; the message says which.
        """
        settings = self._settings
        try:
            self._folder = folder = open_folder(settings.model)
            self._translator = ctranslate2.Translator(
                str(settings.model),
                device=settings.device,
                compute_type=settings.compute_type,
                inter_threads=settings.inter_threads,
                intra_threads=settings.intra_threads,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigurationError(
                f"the model {settings.model} cannot be loaded with device={settings.device!r} and "
                f"compute_type={settings.compute_type!r}: {error}"
            ) from error
        self._pid = os.getpid()
        source, target = next(iter(folder.sources or {"en": ""})), next(iter(folder.targets))
        self.translate(self.sentences("0", source, target))

    def unload(self) -> None:
        """Give its memory back, once no batch is running. The next batch loads it again."""
        with self._lock:
            if self._translator is None or self._users:
                return
            # CTranslate2 puts a batch away a moment after it has given its results; until then it unloads nothing,
            # and does not say so (15 times in 300).
            while self._translator.num_active_batches:
                time.sleep(0.001)
            self._translator.unload_model()

    def idle(self) -> float:
        """Seconds since it had work last; 0 while it has."""
        with self._lock:
            return 0.0 if self._users else time.monotonic() - self._used_at

    def sentences(self, text: str, source: str, target: str) -> list[Sentence]:
        """A text in sentences that the model can read.

        Raises:
            Reject: it does not translate this pair; the message has those that it does.
        """
        folder = self._opened()
        folder.check(source, target)
        limit = self._settings.max_sentence_tokens
        return [
            Sentence(folder.encode(piece, source, target), folder.prefix(target), target)
            for sentence in sentences.split(text, source)
            for piece in sentences.cut(sentence, limit, measure=folder.measure)
        ]

    def translate(self, batch: Sequence[Sentence]) -> list[Translated]:
        """Translate a batch, of whichever languages; in the order of the batch."""
        settings, folder = self._settings, self._opened()
        longest = max((len(sentence.tokens) for sentence in batch), default=0)
        prefixes = [sentence.prefix for sentence in batch]
        with self._loaded() as translator:
            results = translator.translate_batch(
                [sentence.tokens for sentence in batch],
                target_prefix=prefixes if any(prefixes) else None,
                max_batch_size=settings.batch_tokens,
                batch_type="tokens",
                beam_size=settings.beam_size,
                no_repeat_ngram_size=settings.no_repeat_ngram_size,
                repetition_penalty=settings.repetition_penalty,
                max_decoding_length=int(longest * settings.max_length_ratio) + _SLACK,
            )
        return [
            Translated(folder.decode(result.hypotheses[0], sentence.target), len(batch))
            for sentence, result in zip(batch, results, strict=True)
        ]

    def _opened(self) -> ModelFolder:
        if self._folder is None:
            raise RuntimeError(_NOT_LOADED)
        return self._folder

    @contextmanager
    def _loaded(self) -> Iterator[ctranslate2.Translator]:
        """The model in memory, where it stays until the `with` is over."""
        if self._pid != os.getpid():
            raise RuntimeError(
                f"the model was loaded in process {self._pid}, and this is a fork of it, where it would hang; "
                "load it in a worker lifespan, which each process runs for itself"
            )
        translator = self._translator
        if translator is None:
            raise RuntimeError(_NOT_LOADED)
        with self._lock:
            if not translator.model_is_loaded:
                translator.load_model()
            self._users += 1
        try:
            yield translator
        finally:
            with self._lock:
                self._users -= 1
                self._used_at = time.monotonic()


def joined(texts: Sequence[str], language: str) -> str:
    """Sentences of a language as one text."""
    return separator(language).join(text for text in texts if text)
