"""One chunk from sound to words: this module is the way, each station is a module of its own."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import BinaryIO, TypeVar

from streamtask import Context, Reject
from streamtask_contrib.audio import guards
from streamtask_contrib.audio.activity import Turn, TurnOptions
from streamtask_contrib.audio.decoding import SAMPLE_RATE, AudioFile, Limits
from streamtask_contrib.audio.diarization import Speakers
from streamtask_contrib.audio.engine import HeardTurn, Utterance, WhisperEngine
from streamtask_contrib.audio.metrics import AudioMetrics
from streamtask_contrib.audio.progress import Progress
from streamtask_contrib.audio.reading import ReadAhead, Reading
from streamtask_contrib.audio.segments import as_segments, edges, joined, own
from streamtask_contrib.audio.settings import LONG_SILENCE, SHORT_SILENCE, AudioSettings
from streamtask_contrib.batching import Batcher
from streamtask_contrib.events import AudioChunkReceived, Latency, Segment, TranscriptionCompleted
from streamtask_contrib.handling import fitted, waited_since
from streamtask_contrib.languages import known

T = TypeVar("T")

#: Seconds that Whisper hears at once.
_WHISPER = 30.0


class Pipeline:
    """Transcribes chunks, many at a time, with a model that is loaded. Made and closed within one event loop."""

    def __init__(self, settings: AudioSettings, engine: WhisperEngine, metrics: AudioMetrics) -> None:
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._limits = Limits(seconds=settings.max_seconds, decoded_bytes=settings.max_decoded_bytes)
        self._turns = TurnOptions(
            threshold=settings.speech_threshold,
            min_silence=settings.min_silence or (LONG_SILENCE if engine.window >= _WHISPER else SHORT_SILENCE),
            padding=settings.padding,
            longest=engine.window,
        )
        self._threads = ThreadPoolExecutor(settings.decoders, thread_name_prefix="streamtask-audio")
        self._speakers = Speakers(settings, self._limits, self._threads)
        self._inference: Batcher[Utterance, HeardTurn] = Batcher(
            self._infer, limit=settings.batch_size, wait=settings.batch_wait
        )

        #: Chunks that are being transcribed.
        self._at_work = 0

    async def load(self) -> None:
        """Load what is used beside the speech model. Raises ConfigurationError where that is not possible."""
        await self._speakers.load()

    async def close(self) -> None:
        """End the threads, when no chunk is handled any more."""
        await self._inference.close()
        self._threads.shutdown(wait=False)

    async def transcribe(self, chunk: AudioChunkReceived, ctx: Context) -> TranscriptionCompleted:
        """The words of a chunk.

        Raises:
            Reject: it can never be transcribed.
        """
        self._at_work += 1
        try:
            return await self._transcribe(chunk, ctx)
        finally:
            self._at_work -= 1

    async def _transcribe(self, chunk: AudioChunkReceived, ctx: Context) -> TranscriptionCompleted:
        language = self._given_language(chunk)
        watch = _Watch(chunk)
        progress = await Progress.of(chunk.chunk_id, ctx.app.records, ctx.state)
        if language:
            progress.at.language, progress.at.language_probability = language, 1.0
        async with _audio_of(chunk, ctx) as file:
            with await self._in_thread(lambda: AudioFile(file, chunk.audio_config, self._limits)) as audio:
                reading = Reading(audio, self._turns, at=progress.at.position)
                async with ReadAhead(reading.steps(), self._threads) as steps:
                    async for step in steps:
                        with watch.inference():
                            await self._hear(step.turns, chunk, progress)
                        progress.at.position = step.resume_at
                        await self._keep(progress, audio, chunk, ctx)
            end = chunk.start + audio.samples / SAMPLE_RATE
            heard, speakers = await self._speakers.tell(progress.segments(), chunk, file, ctx)
        latency = watch.latency(reading, progress.at.batch_size)
        self._metrics.finished(latency)
        result = self._result(chunk, progress, own(heard, chunk, end), audio.notes)
        found = {"end": end, "edges": edges(heard, chunk, end), "speaker_map": speakers, "latency": latency}
        name, limit = f"segments/{chunk.chunk_id}", self._settings.max_event_bytes
        return await fitted(result.model_copy(update=found), ctx, name=name, limit=limit)

    # ── hearing ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _hear(self, turns: Sequence[Turn], chunk: AudioChunkReceived, progress: Progress) -> None:
        """Transcribe turns, and put what is worth it behind the segments so far."""
        audible = [turn for turn in turns if guards.is_audible(turn.samples)]
        self._metrics.dropped.labels("inaudible").inc(len(turns) - len(audible))
        # A block of silence counts, too: it need not be looked through again.
        progress.turns += max(1, len(turns))
        at = progress.at
        for turn, heard in zip(audible, await self._transcribed(audible, progress), strict=True):
            at.batch_size = max(at.batch_size, heard.batch_size)
            if reason := guards.why_dropped(heard):
                self._metrics.dropped.labels(reason).inc()
            else:
                at.segments += as_segments(heard, turn, chunk)

    async def _transcribed(self, turns: Sequence[Turn], progress: Progress) -> list[HeardTurn]:
        """What is said in each turn. All turns of a chunk are in one language."""
        if not turns:
            return []
        at = progress.at
        if not at.language:
            at.language, at.language_probability = await self._found_language(turns)
        heard: list[HeardTurn] = []
        while len(heard) < len(turns):
            # A share of a batch: the turns of a long file do not stand before those of everybody else.
            share = -(-self._settings.batch_size // self._at_work)
            jobs = [
                self._inference.submit(Utterance(turn.samples, at.language))
                for turn in turns[len(heard) : len(heard) + share]
            ]
            # All of them end before an error is raised: none is left behind.
            for answer in await asyncio.gather(*jobs, return_exceptions=True):
                if isinstance(answer, BaseException):
                    raise answer
                heard.append(answer)
        return heard

    async def _found_language(self, turns: Sequence[Turn]) -> tuple[str, float]:
        """What the longest of the first turns sounds like, and how sure that is."""
        if len(self._engine.languages) == 1:
            return next(iter(self._engine.languages)), 1.0
        longest = max(turns, key=lambda turn: len(turn.samples))
        heard = await self._inference.submit(Utterance(longest.samples))
        return heard.language, heard.language_probability

    def _infer(self, utterances: Sequence[Utterance]) -> list[HeardTurn]:
        """In the batcher's thread: one inference."""
        self._metrics.batch_size.observe(len(utterances))
        heard = self._engine.transcribe(utterances)
        self._metrics.model_loaded.set(1)
        return heard

    def _given_language(self, chunk: AudioChunkReceived) -> str | None:
        """The code that the model has for the language that a chunk is said to be in.

        Raises:
            Reject: it knows no such language.
        """
        if chunk.language is None or chunk.language in self._engine.languages:
            return chunk.language
        with suppress(ValueError):
            if (code := known(chunk.language)) in self._engine.languages:
                return code
        raise Reject(
            f"the language {chunk.language!r} is none that the speech model {self._engine.name} knows; "
            "leave it out, or set STREAMTASK_AUDIO_MODEL to a model that does"
        )

    # ── keeping ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self, progress: Progress, audio: AudioFile, chunk: AudioChunkReceived, ctx: Context) -> None:
        """Keep what was done, once that is worth it. A partial is done again sooner than it is found again."""
        if chunk.is_partial or progress.turns < self._settings.checkpoint_every:
            return
        await ctx.checkpoint(await progress.checkpoint())
        seconds = chunk.duration or audio.duration
        if seconds:
            ctx.progress(min(1.0, progress.at.position / SAMPLE_RATE / seconds))

    def _result(
        self, chunk: AudioChunkReceived, progress: Progress, segments: list[Segment], notes: list[str]
    ) -> TranscriptionCompleted:
        return TranscriptionCompleted(
            session_id=chunk.session_id,
            chunk_id=chunk.chunk_id,
            user_id=chunk.user_id,
            source_type=chunk.source_type,
            sequence=chunk.sequence,
            start=chunk.start,
            overlap=chunk.audio_config.overlap,
            is_last=chunk.is_last,
            is_partial=chunk.is_partial,
            language=progress.at.language,
            language_probability=progress.at.language_probability,
            text=joined(segments),
            segments=segments,
            model=self._engine.name,
            note="; ".join(notes if segments else [*notes, "no speech was found"]),
        )

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


@asynccontextmanager
async def _audio_of(chunk: AudioChunkReceived, ctx: Context) -> AsyncIterator[BinaryIO]:
    """The audio of a chunk as a file."""
    if chunk.inline_audio is None:
        async with ctx.app.blobs.open(chunk.storage_uri) as file:
            yield file
    elif ctx.app.blobs.is_inline_allowed:
        yield io.BytesIO(chunk.inline_audio)
    else:
        raise Reject(
            "the audio is inside of the event, which this worker does not take; store it and give its `storage_uri`, "
            "or set STREAMTASK_BLOBS_INLINE=1 for development"
        )


class _Watch:
    """Where the time of a chunk goes."""

    def __init__(self, chunk: AudioChunkReceived) -> None:
        self._queue = waited_since(chunk.received_at)
        self._began = time.perf_counter()
        self._inference = 0.0

    @contextmanager
    def inference(self) -> Iterator[None]:
        """What is in the `with` waits for an inference, or runs it."""
        began = time.perf_counter()
        yield
        self._inference += time.perf_counter() - began

    def latency(self, reading: Reading, batch_size: int) -> Latency:
        """All of it, now."""
        total, audio = time.perf_counter() - self._began, reading.file.samples / SAMPLE_RATE
        return Latency(
            queue=self._queue,
            decode=reading.decode,
            vad=reading.vad,
            inference=self._inference,
            total=total,
            audio=audio,
            real_time_factor=total / audio if audio else 0.0,
            batch_size=batch_size,
        )
