"""`/api/audio/upload`: a file comes in, its chunks go out to the workers.

The file is on disk before anything is done with it. The same file of the same user, with the same wishes, is the same
session for a day: its record is claimed before the work, and says so when the work is done; between the two, whoever
sends it again goes on with it under the same ids, and nothing is doubled.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, BinaryIO

from fastapi import APIRouter, File, Form, HTTPException, UploadFile
from pydantic import BaseModel, ValidationError

from streamtask_contrib.api.media import PIECE, RATE, Media, NotAudioError, probe, samples
from streamtask_contrib.api.service import Service, Serving, User
from streamtask_contrib.capture.chunks import Wishes, chunk_of, new_session_id, publish, store
from streamtask_contrib.capture.cutting import Cuts, Cutter, Format, Piece, Seam
from streamtask_contrib.capture.register import UPLOAD, Entry, Register
from streamtask_contrib.events import ID, AudioChunkReceived

router = APIRouter(tags=["audio"])

_SESSION, _CHUNKS = "session", "chunks"


class Accepted(BaseModel):
    """The audio is stored, and its chunks wait for a worker."""

    session_id: str
    chunk_ids: list[str]
    #: The same file had been uploaded before; nothing is done again.
    repeated: bool = False


@router.post("/api/audio/upload", status_code=202)
async def upload(
    *,
    service: Serving,
    user: User,
    file: Annotated[UploadFile, File(description="Audio, or a video with sound.")],
    session_id: Annotated[str | None, Form(pattern=ID, description="A name for a new session.")] = None,
    language: Annotated[str | None, Form(description="What is spoken; left out, the model finds out.")] = None,
    diarize: Annotated[bool, Form(description="Tell speakers apart.")] = False,
    translate: Annotated[str, Form(description="Languages to translate to: `fr,de`.")] = "",
    speaker: Annotated[str | None, Form(description="Who speaks, where it is one person.")] = None,
) -> Accepted:
    """Upload a file. Its results come as the session's events and transcript."""
    try:
        wishes = Wishes(language=language, diarize=diarize, translate=translate.split(","), speaker=speaker)
    except ValidationError as error:
        raise HTTPException(422, "; ".join(one["msg"] for one in error.errors())) from error
    with service.uploads.take(user):
        return await accept(service, user, file, wishes, session_id=session_id)


async def accept(
    service: Service, user: str, file: UploadFile, wishes: Wishes, *, session_id: str | None = None
) -> Accepted:
    """Take a file in, once. Raises 415, 422, `SessionTakenError`, `PublishError`."""
    digest, size = await asyncio.to_thread(_digest, file.file)
    if not size:
        raise HTTPException(422, "the file is empty")
    try:
        media = await asyncio.to_thread(probe, file.file)
    except NotAudioError as error:
        raise HTTPException(415, str(error)) from error
    if (media.duration or 0) > service.settings.max_session:
        raise HTTPException(
            413, f"the audio lasts {media.duration:.0f} s; the limit is {service.settings.max_session:g} s"
        )
    records = service.events.records
    key = UPLOAD + hashlib.sha256(json.dumps([user, digest, wishes.model_dump(), session_id]).encode()).hexdigest()
    ttl = service.settings.upload_ttl
    claimed = (await records.claim(key, _SESSION, (session_id or new_session_id()).encode(), ttl=ttl)).decode()
    if done := (await records.read(key)).get(_CHUNKS):
        return Accepted(session_id=claimed, chunk_ids=json.loads(done), repeated=True)
    register = service.register(claimed)
    await register.begin(user, key, targets=wishes.translate)
    work = _Upload(service, register, user, wishes)
    chunk_ids = await work.cut(file.file, media) if work.is_long(media) else await work.whole(file, media)
    await records.write(key, {_CHUNKS: json.dumps(chunk_ids).encode()}, ttl=ttl)
    return Accepted(session_id=claimed, chunk_ids=chunk_ids)


class _Upload:
    """One file on its way to the workers."""

    def __init__(self, service: Service, register: Register, user: str, wishes: Wishes) -> None:
        self._app = service.events
        self._settings = service.settings
        self._register = register
        self._user = user
        self._wishes = wishes

    def is_long(self, media: Media) -> bool:
        """Whether it has to be cut, and can be. A container that does not say how long it is may be long."""
        return media.can_be_cut and (media.duration is None or media.duration > self._settings.upload_chunk)

    async def whole(self, file: UploadFile, media: Media) -> list[str]:
        """Send it as it is."""
        session_id = self._register.session_id
        chunk = AudioChunkReceived(
            session_id=session_id,
            chunk_id=f"{session_id}-0",
            user_id=self._user,
            processing_flags=self._wishes.flags,
            duration=media.duration,
            is_last=True,
            language=self._wishes.language,
            speaker=self._wishes.speaker,
        )
        await file.seek(0)
        return [
            await self._send(chunk, _pieces(file), Seam(at=media.duration or 0.0, audio_from=media.duration or 0.0))
        ]

    async def cut(self, file: BinaryIO, media: Media) -> list[str]:
        """Send it in pieces, each published as soon as it is cut."""
        # Who speaks may be told by the channel.
        form = Format(rate=RATE, channels=2 if self._wishes.diarize and (media.channels or 1) > 1 else 1)
        pieces = self._cut(file, form)
        chunk_ids: list[str] = []
        while (cut := await asyncio.to_thread(next, pieces, None)) is not None:
            piece, is_last = cut
            chunk = chunk_of(
                piece,
                session_id=self._register.session_id,
                sequence=len(chunk_ids),
                user=self._user,
                source="upload",
                form=form,
                wishes=self._wishes,
                is_last=is_last,
            )
            chunk_ids.append(await self._send(chunk, piece.pcm, piece.seam))
        return chunk_ids

    def _cut(self, file: BinaryIO, form: Format) -> Iterator[tuple[Piece, bool]]:
        longest = self._settings.upload_chunk
        cuts = Cuts(at_least=longest / 2, at_most=longest, overlap=self._settings.overlap, keeps_silence=True)
        cutter = Cutter(form, cuts)
        for pcm in samples(file, form):
            for piece in cutter.feed(pcm):
                yield piece, False
            if cutter.position > self._settings.max_session:
                break
        yield cutter.finish(), True

    async def _send(self, chunk: AudioChunkReceived, audio: bytes | AsyncIterator[bytes], seam: Seam) -> str:
        stored = await store(self._app, chunk, audio, ttl=self._settings.audio_ttl)
        entry = Entry(chunk=stored, seam=seam)
        stands = await self._register.write(entry)
        if stands is not entry:
            # An upload of the same file that was interrupted, or goes on beside this one, has come so far already.
            await self._app.blobs.delete(stored.storage_uri)
        await publish(self._app, stands.chunk)
        return stands.chunk.chunk_id


async def _pieces(file: UploadFile) -> AsyncIterator[bytes]:
    while piece := await file.read(PIECE):
        yield piece


def _digest(file: BinaryIO) -> tuple[str, int]:
    """The content's hash, and its size."""
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while piece := file.read(PIECE):
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size
