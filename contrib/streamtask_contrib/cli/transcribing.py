"""One audio file to its transcript: an app, its broker and its worker, for as long as that takes.

It is what a deployment does, in one process: the file is published as one chunk of a session, the worker's handlers
transcribe, translate and keep it, and the session's record has the words. Nothing is left of it afterwards.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from streamtask import App, BlobRefusedError, BlobStores, Inspector, Router, StreamtaskError
from streamtask_contrib import audio
from streamtask_contrib.audio.decoding import AudioFile, AudioRefusedError, Limits
from streamtask_contrib.audio.worker import GROUP
from streamtask_contrib.events import AudioChunkReceived, AudioConfig, ProcessingFlags
from streamtask_contrib.transcript import Sessions, SessionState, Transcript, Translation
from streamtask_contrib.transcript import router as transcripts

#: The stream that chunks are published to.
AUDIO = "audio-ingest"
#: Seconds between two looks at how far it is.
_LOOK = 0.2
#: Seconds that the worker's handlers get to end when the command is interrupted.
_GRACE = 0.5
#: Bytes that are read at once.
_PIECE = 1 << 20

#: Is called with seconds of audio done, and of all.
Told = Callable[[float, float], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is wanted."""

    file: Path
    language: str | None = None
    #: Of the translation.
    target: str | None = None
    #: None: as the settings of the workers say.
    model: str | None = None
    translation_model: str | None = None
    speakers: bool = False
    #: None: a server for this job.
    broker: str | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of it."""

    document: Transcript | Translation
    #: What a person should know.
    notes: tuple[str, ...]


def run(job: Job, told: Told) -> Done:
    """Do a job to its end.

    Raises:
        StreamtaskError: it cannot be done; the message is for people.
    """
    seconds = _duration(job.file)
    with _broker(job) as url, _ended_in_order():
        return asyncio.run(_work(job, url, lambda fraction: told(fraction * seconds, seconds)))


def _duration(file: Path) -> float:
    """Seconds of a file, as it says itself; raises StreamtaskError where it is none of sound."""
    limits = Limits(seconds=math.inf, decoded_bytes=0)
    try:
        with file.open("rb") as opened, AudioFile(opened, AudioConfig(), limits) as found:
            return found.duration or 0.0
    except AudioRefusedError as error:
        raise StreamtaskError(f"{file.name}: {error}") from error


@contextmanager
def _broker(job: Job) -> Iterator[str]:
    """URL of a broker; one made for the job is taken away with its data."""
    if job.broker is not None:
        yield job.broker
        return
    folder = tempfile.mkdtemp(prefix="streamtask-transcribe-")
    try:
        yield f"embedded://{folder}"
    finally:
        # The server ends as soon as it misses its folder; until then it may still write there.
        shutil.rmtree(folder, ignore_errors=True)


def _end(*_: object) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # In the background of a shell, Ctrl-C is somebody else's.
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Have SIGTERM and a closed terminal end the command as Ctrl-C does, with all that it has started.

    What it was started to ignore, as by `nohup`, it ignores.
    """
    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    before = [signal.signal(number, _end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


async def _work(job: Job, url: str, told: Callable[[float], None]) -> Done:
    app = App("transcribe", broker=url, blobs=BlobStores(folder=job.file.parent, max_bytes=_size(job.file)))
    for router in _routers(job):
        app.include(router)
    async with app.worker(shutdown_timeout=_GRACE):
        chunk = _chunk(job, await _stored(app, job.file))
        await app.publish(chunk)
        return await _finished(app, chunk.session_id, job, told)


def _size(file: Path) -> int:
    """Bytes that are allowed: whoever names the file wants all of it."""
    return max(file.stat().st_size, BlobStores().max_bytes)


def _routers(job: Job) -> Iterator[Router]:
    yield audio.router(audio.AudioSettings(**_given(model=job.model)))
    yield transcripts()
    if job.target:
        # Only who translates needs its libraries.
        translation = import_module("streamtask_contrib.translation")
        yield translation.router(translation.TranslationSettings(**_given(model=job.translation_model)))


def _given(**settings: str | None) -> dict[str, Any]:
    """The settings that are not None; the others are as the environment says."""
    return {name: value for name, value in settings.items() if value is not None}


async def _stored(app: App, file: Path) -> str:
    """The URI of the file: where it lies, or, if its name has what no URI may hold, as a blob of the broker."""
    uri = f"file://{file}"
    try:
        async with app.blobs.open(uri):
            return uri
    except BlobRefusedError:
        return await app.blobs.put(_pieces(file), name="audio")


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        while piece := await asyncio.to_thread(opened.read, _PIECE):
            yield piece


def _chunk(job: Job, uri: str) -> AudioChunkReceived:
    session_id = uuid.uuid4().hex
    return AudioChunkReceived(
        session_id=session_id,
        chunk_id=f"{session_id}:0",
        storage_uri=uri,
        language=job.language,
        processing_flags=ProcessingFlags(
            diarize=job.speakers, translate=job.target is not None, target_languages=[job.target] if job.target else []
        ),
        is_last=True,
    )


async def _finished(app: App, session_id: str, job: Job, told: Callable[[float], None]) -> Done:
    """Wait for what is wanted."""
    sessions, inspector = Sessions(app), Inspector(app)
    while True:
        state = await sessions.load(session_id)
        done = None if state is None else await asyncio.to_thread(_done, state, job)
        if done is not None:
            told(1.0)
            return done
        for pending in (await inspector.pending(AUDIO, GROUP, limit=1)).rows:
            if pending.progress:
                told(float(str(pending.progress["fraction"])))
        await asyncio.sleep(_LOOK)


def _done(state: SessionState, job: Job) -> Done | None:
    """What a session has of what is wanted, if it is all there.

    Raises:
        StreamtaskError: it will never be.
    """
    for failure in state.failures:
        raise StreamtaskError(f"{job.file.name}: {failure.message}")
    transcript = state.transcript()
    if not transcript.is_complete:
        return None
    notes = tuple(result.note for result in state.results if result.note)
    if job.speakers and transcript.spoken and transcript.speaker_map.method == "none":
        notes += (
            "nobody can tell the speakers apart: it is one channel, and STREAMTASK_AUDIO_DIARIZATION_MODEL is not set",
        )
    if job.target is None or not transcript.spoken:
        return Done(document=transcript, notes=notes)
    if job.target == transcript.language:
        return Done(
            document=transcript, notes=(*notes, f"{job.target} is what is spoken: there is nothing to translate")
        )
    translation = state.translation(job.target)
    return Done(document=translation, notes=notes) if translation.is_complete else None
