"""The record of a session: each chunk's result, translation and failure under a name of its own.

Writing one again changes nothing, so a repeated delivery is harmless, and results may come in any order: whoever wants
the transcript loads the record and stitches. Partials are never stored. A deleted session leaves a mark, so that a
result that is still under way does not bring it back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, Field, TypeAdapter

from streamtask import Application
from streamtask_contrib.events import (
    ProcessingFailed,
    Segment,
    SourceType,
    TranscriptionCompleted,
    TranslatedSegment,
    TranslationCompleted,
)
from streamtask_contrib.transcript.stitching import Transcript, Translation, stitch, translated

log = logging.getLogger(__name__)

#: Seconds that a session is kept after the last thing that was heard of it: a week.
TTL = 7 * 86_400.0
#: Bytes of one result as JSON; three hours of words are a tenth of it. What is larger was not written here.
_LARGEST = 64 << 20
#: The field that says whose session it is.
_FACTS = "session"
#: What it holds once the session is deleted.
_DELETED = b"deleted"
#: Fields are named `result:7`, `translation:fr:7`, `failure:transcription::7`: the last part is the sequence.
_RESULT, _TRANSLATION, _FAILURE = "result", "translation", "failure"

_Outcome = TranscriptionCompleted | TranslationCompleted | ProcessingFailed
_O = TypeVar("_O", TranscriptionCompleted, TranslationCompleted, ProcessingFailed)
_Spoken = TypeVar("_Spoken", TranscriptionCompleted, TranslationCompleted)
_SEGMENTS: TypeAdapter[list[Segment]] = TypeAdapter(list[Segment])
_TRANSLATED: TypeAdapter[list[TranslatedSegment]] = TypeAdapter(list[TranslatedSegment])


class SessionFacts(BaseModel):
    """Whose a session is; written once, by whoever speaks of it first."""

    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    user_id: str | None = None
    source_type: SourceType = "upload"
    #: Languages that translations are wanted in.
    target_languages: list[str] = Field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """What is known of a session."""

    session_id: str
    facts: SessionFacts
    results: tuple[TranscriptionCompleted, ...] = ()
    #: By target language.
    translations: Mapping[str, tuple[TranslationCompleted, ...]]
    failures: tuple[ProcessingFailed, ...] = ()

    @property
    def created_at(self) -> datetime:
        """When the session was first heard of."""
        return self.facts.created_at

    def transcript(self) -> Transcript:
        """What was said."""
        return stitch(self.results, self.failures)

    def translation(self, language: str) -> Translation:
        """What was said, in another language; without segments where there is none in it."""
        return translated(self.transcript(), self.translations.get(language, ()), language=language)


class Sessions:
    """The sessions of an app, in its records. The app has to be connected."""

    def __init__(self, app: Application, *, ttl: float = TTL) -> None:
        self._app = app
        self._ttl = ttl

    async def open(self, session_id: str, facts: SessionFacts) -> SessionFacts | None:
        """Say whose a new session is; returns what stands, the first writer's, or None where it is deleted."""
        value = facts.model_dump_json().encode()
        standing = await self._app.records.claim(_key(session_id), _FACTS, value, ttl=self._ttl)
        return None if standing == _DELETED else SessionFacts.model_validate_json(standing)

    async def add_result(self, event: TranscriptionCompleted) -> None:
        """Keep a chunk's words. Those that were too many for an event are fetched first: the record has them all.

        Raises:
            BlobMissingError: they are gone.
        """
        if not event.is_partial:
            facts = SessionFacts(user_id=event.user_id, source_type=event.source_type)
            await self._add(f"{_RESULT}:{event.sequence}", await self._whole(event, _SEGMENTS), facts)

    async def add_translation(self, event: TranslationCompleted) -> None:
        """Keep a chunk's translation; as above."""
        if not event.is_partial:
            name = f"{_TRANSLATION}:{event.target_language}:{event.sequence}"
            await self._add(name, await self._whole(event, _TRANSLATED), SessionFacts())

    async def add_failure(self, event: ProcessingFailed) -> None:
        """Keep that a chunk will not be transcribed, or not be translated."""
        if not event.is_partial:
            name = f"{_FAILURE}:{event.stage}:{event.target_language}:{event.sequence}"
            await self._add(name, event, SessionFacts())

    async def load(self, session_id: str) -> SessionState | None:
        """What is known of a session; None where there is none, or none any more."""
        fields = await self._app.records.read(_key(session_id))
        if fields.get(_FACTS, _DELETED) == _DELETED:
            return None
        return await asyncio.to_thread(_state, session_id, fields)

    async def delete(self, session_id: str) -> None:
        """Forget a session, and what may still come of it."""
        key = _key(session_id)
        # The mark stands before anything goes: who writes now has seen it, or is deleted with the rest.
        await self._app.records.write(key, {_FACTS: _DELETED}, ttl=self._ttl)
        fields = await self._app.records.read(key)
        if rest := fields.keys() - {_FACTS}:
            await self._app.records.delete(key, rest)

    async def _whole(self, event: _Spoken, segments: TypeAdapter[Any]) -> _Spoken:
        """The event with its segments in it."""
        if not event.segments_uri:
            return event
        stored = await self._app.blobs.get(event.segments_uri)
        found = await asyncio.to_thread(segments.validate_json, stored)
        return event.model_copy(update={"segments": found, "segments_uri": ""})

    async def _add(self, name: str, event: _Outcome, facts: SessionFacts) -> None:
        if await self.open(event.session_id, facts) is not None:
            packed = await asyncio.to_thread(_packed, event)
            await self._app.records.write(_key(event.session_id), {name: packed}, ttl=self._ttl)


def _key(session_id: str) -> str:
    """A record's name is printed, and has no braces; a session's may be anything that an event can hold."""
    if session_id.isprintable() and not {"{", "}"} & set(session_id):
        return f"session:{session_id}"
    return f"session:~{hashlib.sha256(session_id.encode()).hexdigest()}"


def _packed(event: _Outcome) -> bytes:
    return zlib.compress(event.model_dump_json(exclude_defaults=True).encode())


def _unpacked(value: bytes, kind: type[_O]) -> _O:
    # What is longer is cut off there, and then no JSON.
    return kind.model_validate_json(zlib.decompressobj().decompress(value, _LARGEST))


def _state(session_id: str, fields: Mapping[str, bytes]) -> SessionState:
    translations: dict[str, list[TranslationCompleted]] = defaultdict(list)
    for event in _events(session_id, fields, _TRANSLATION, TranslationCompleted):
        translations[event.target_language].append(event)
    return SessionState(
        session_id=session_id,
        facts=SessionFacts.model_validate_json(fields[_FACTS]),
        results=tuple(_events(session_id, fields, _RESULT, TranscriptionCompleted)),
        translations={language: tuple(events) for language, events in translations.items()},
        failures=tuple(_events(session_id, fields, _FAILURE, ProcessingFailed)),
    )


def _events(session_id: str, fields: Mapping[str, bytes], prefix: str, kind: type[_O]) -> Iterator[_O]:
    """The events of one kind. One that cannot be read is a gap in the transcript, and no reason to show none of it."""
    for name, value in fields.items():
        if name.partition(":")[0] != prefix:
            continue
        try:
            yield _unpacked(value, kind)
        except (ValueError, zlib.error) as error:
            log.warning("session.unreadable", extra={"session_id": session_id, "field": name, "error": str(error)})
