"""Who speaks: what is known is said exactly, what a model guesses is called a guess, and what nobody knows is left out.

In this order: the source (a microphone or participant of its own), the channel (a recording with a speaker on each),
pyannote.audio where it is configured. `Speakers` chooses; `channels`, `hearing` and `voices` do the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from importlib import import_module
from itertools import groupby, islice
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamtask import ConfigurationError, Context
from streamtask_contrib.audio.decoding import SAMPLE_RATE, AudioFile, Limits, Samples
from streamtask_contrib.audio.diarization import channels
from streamtask_contrib.audio.diarization.voices import SessionVoices, Span, Voice, speaker_at
from streamtask_contrib.audio.segments import with_words
from streamtask_contrib.audio.settings import AudioSettings
from streamtask_contrib.events import AudioChunkReceived, Segment, SpeakerMap

T = TypeVar("T")

#: Blocks that a model hears at once: ten minutes. The sound of hours does not fit into memory.
_WINDOW = 20


class Model(Protocol):
    """A model that tells voices apart."""

    def hear(self, samples: NDArray[np.float32]) -> tuple[list[Span], dict[str, Voice]]:
        """Who speaks when, under names of its own; and the voice behind each name, if it gives them."""


class Speakers:
    """Tells the speakers of chunks apart. `threads`: where what blocks is run."""

    def __init__(self, settings: AudioSettings, limits: Limits, threads: Executor) -> None:
        self._settings = settings
        self._limits = limits
        self._threads = threads
        self._model: Model | None = None

    async def load(self) -> None:
        """Load the model, where one is configured.

        Raises:
            ConfigurationError: it cannot be loaded, or pyannote.audio is not installed.
        """
        if self._settings.diarization_model:
            self._model = await self._in_thread(lambda: _pyannote(self._settings))

    async def tell(
        self, segments: list[Segment], chunk: AudioChunkReceived, file: BinaryIO, ctx: Context
    ) -> tuple[list[Segment], SpeakerMap]:
        """The segments with their speakers, and how those are known."""
        # The user is whose key it came with, not who speaks: a user's recording may be of a whole meeting.
        if source := chunk.speaker:
            found = SpeakerMap(method="source", confidence="exact", speakers={source: source})
            return labelled(segments, [source] * _count(segments)), found
        words = [word for segment in segments for word in segment.words]
        if not chunk.processing_flags.diarize or not words:
            return segments, SpeakerMap()
        spans = [(word.start - chunk.start, word.end - chunk.start) for word in words]
        labels = await self._in_thread(lambda: self._by_channel(spans, chunk, file))
        if labels is not None:
            found = SpeakerMap(method="channel", confidence="exact", speakers=_shown(labels))
        elif self._model is not None:
            labels = await self._by_voice(self._model, spans, chunk, file, ctx)
            found = SpeakerMap(method="pyannote", confidence="estimated", speakers=_shown(labels))
        else:
            return segments, SpeakerMap()
        return labelled(segments, labels), found

    def _by_channel(
        self, spans: Sequence[tuple[float, float]], chunk: AudioChunkReceived, file: BinaryIO
    ) -> list[str | None] | None:
        with self._audio(chunk, file, split=True) as audio:
            return None if audio.channels == 1 else channels.speakers(audio.blocks(), spans)

    async def _by_voice(
        self,
        model: Model,
        spans: Sequence[tuple[float, float]],
        chunk: AudioChunkReceived,
        file: BinaryIO,
        ctx: Context,
    ) -> list[str | None]:
        """In each window the model tells voices apart; the record of the session knows whose they are."""
        session = SessionVoices(ctx.app.records, chunk, self._settings)
        spoken: list[Span] = []
        with self._audio(chunk, file) as audio:
            blocks, at = audio.blocks(), 0.0
            while (samples := await self._in_thread(partial(_window, blocks))) is not None:
                found, voices = await self._in_thread(partial(model.hear, samples))
                names = await session.names({span.label for span in found}, voices)
                spoken += [Span(at + span.start, at + span.end, names[span.label]) for span in found]
                at += len(samples) / SAMPLE_RATE
        return [speaker_at(start, end, spoken) for start, end in spans]

    def _audio(self, chunk: AudioChunkReceived, file: BinaryIO, *, split: bool = False) -> AudioFile:
        file.seek(0)
        return AudioFile(file, chunk.audio_config, self._limits, split=split)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def labelled(segments: Sequence[Segment], labels: Sequence[str | None]) -> list[Segment]:
    """Segments with the label of each of their words, in order; one in which the speaker changes becomes several."""
    remaining, parts = iter(labels), list[Segment]()
    for segment in segments:
        words = [word.model_copy(update={"speaker": next(remaining)}) for word in segment.words]
        runs = [(speaker, list(run)) for speaker, run in groupby(words, lambda word: word.speaker)]
        if len(runs) == 1:
            parts.append(segment.model_copy(update={"words": words, "speaker": runs[0][0]}))
            continue
        parts += [with_words(segment, run, speaker=speaker) for speaker, run in runs]
    return parts


def _count(segments: Sequence[Segment]) -> int:
    return sum(len(segment.words) for segment in segments)


def _shown(labels: Sequence[str | None]) -> dict[str, str]:
    """Label → name to show: "channel-1" is "Channel 1"."""
    return {label: label.replace("-", " ").capitalize() for label in dict.fromkeys(labels) if label is not None}


def _window(blocks: Iterator[Samples]) -> NDArray[np.float32] | None:
    heard = list(islice(blocks, _WINDOW))
    return np.concatenate(heard, axis=1)[0] if heard else None


def _pyannote(settings: AudioSettings) -> Any:
    try:
        hearing = import_module("streamtask_contrib.audio.diarization.hearing")
    except ImportError as error:
        raise ConfigurationError(
            f"STREAMTASK_AUDIO_DIARIZATION_MODEL is set and pyannote.audio cannot be imported ({error}): "
            "pip install pyannote.audio, or unset it"
        ) from error
    return hearing.Pyannote(settings.diarization_model, token=settings.diarization_token.get_secret_value())
