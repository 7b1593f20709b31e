"""Chunks on their way to the workers: what is wanted of them, their audio in a store, and their event, once."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable

from pydantic import BaseModel, Field, field_validator

from streamtask import App, PublishError
from streamtask_contrib.capture.cutting import Format, Piece
from streamtask_contrib.events import AudioChunkReceived, AudioConfig, ProcessingFlags, SourceType
from streamtask_contrib.languages import known


class Wishes(BaseModel):
    """What is wanted of a session's audio, and what is known of it."""

    #: What is spoken; None: the model finds out.
    language: str | None = None
    #: Languages to translate to.
    translate: list[str] = Field(default_factory=list, max_length=20)
    #: Tell speakers apart.
    diarize: bool = False
    #: Who speaks, where it is known.
    speaker: str | None = Field(default=None, max_length=200)

    @field_validator("language")
    @classmethod
    def _is_known(cls, language: str | None) -> str | None:
        return known(language) if language else None

    @field_validator("translate")
    @classmethod
    def _are_known(cls, languages: list[str]) -> list[str]:
        return list(dict.fromkeys(known(language) for language in languages if language.strip()))

    @property
    def flags(self) -> ProcessingFlags:
        """The same, as a chunk says it."""
        return ProcessingFlags(diarize=self.diarize, translate=bool(self.translate), target_languages=self.translate)


def new_session_id() -> str:
    """A session id that nobody can guess."""
    return uuid.uuid4().hex


def chunk_of(
    piece: Piece,
    *,
    session_id: str,
    sequence: int,
    user: str,
    source: SourceType,
    form: Format,
    wishes: Wishes,
    is_last: bool = False,
) -> AudioChunkReceived:
    """The event of a piece of raw audio; its audio is not stored yet."""
    return AudioChunkReceived(
        session_id=session_id,
        chunk_id=f"{session_id}-{sequence}",
        user_id=user,
        source_type=source,
        audio_config=AudioConfig(
            sample_rate=form.rate, channels=form.channels, encoding="pcm_s16le", overlap=piece.overlap
        ),
        processing_flags=wishes.flags,
        sequence=sequence,
        start=piece.start,
        duration=piece.duration,
        is_last=is_last,
        language=wishes.language,
        speaker=wishes.speaker,
    )


async def store(
    app: App, chunk: AudioChunkReceived, audio: bytes | AsyncIterable[bytes], *, ttl: float
) -> AudioChunkReceived:
    """Store a chunk's audio; the chunk, with its address.

    Under a name of its own each time: who stores a chunk again must not change what another has published.
    """
    uri = await app.blobs.put(audio, name=f"audio/{chunk.session_id}/{chunk.sequence}-{uuid.uuid4().hex}", ttl=ttl)
    return chunk.model_copy(update={"storage_uri": uri})


async def publish(app: App, chunk: AudioChunkReceived) -> None:
    """Publish a chunk, once within ten minutes. Raises `PublishError` where it is unknown whether it is stored."""
    try:
        await app.publish(chunk, dedup_key=chunk.chunk_id)
    except PublishError as error:
        # A connection that broke under the question is open again by now; the id keeps the answer from doubling.
        await app.publish(chunk, dedup_key=chunk.chunk_id, event_id=error.event_id)
