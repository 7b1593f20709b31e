"""The register: whose a session is, and the chunks of its audio.

A session belongs to the user whose audio came first. Each chunk is written down before it is published, under its
sequence, and only once. What is written down is what is published: so a socket that comes back, or an upload that is
repeated, goes on with it. The results are another matter: the group `transcripts` keeps those.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel

from streamtask import App, BlobError
from streamtask_contrib.capture.cutting import Seam
from streamtask_contrib.events import AudioChunkReceived, SourceType
from streamtask_contrib.transcript import SessionFacts, Sessions

log = logging.getLogger(__name__)

#: What the key of an upload's record begins with; it is the source of the upload's session.
UPLOAD = "audio-upload-"
#: What the source of a bot's session begins with; the id of the bot is behind it.
BOT = "bot-"
#: The user of what nobody has asked for with a key: the API has none, or a program published it.
NOBODY = "local"
_OWNER, _SOURCE, _BEGAN, _CHUNK = "owner", "source", "began", "chunk-"


class SessionTakenError(Exception):
    """The session is another user's, or has its audio from elsewhere."""


class Entry(BaseModel):
    """A chunk as it is written down: its event, and what is behind it."""

    chunk: AudioChunkReceived
    seam: Seam


class Register:
    """What is written down of one session."""

    def __init__(self, app: App, session_id: str, *, ttl: float) -> None:
        self._app = app
        self._key = f"audio-session-{session_id}"
        self._ttl = ttl
        self.session_id = session_id

    async def owner(self) -> str | None:
        """Whose it is; None where there is no such session."""
        fields = await self._app.records.read(self._key)
        return fields[_OWNER].decode() if _OWNER in fields else None

    async def bot(self) -> str | None:
        """The id of the bot whose session it is; None where it is no bot's."""
        source = (await self._app.records.read(self._key)).get(_SOURCE, b"").decode()
        return source.removeprefix(BOT) if source.startswith(BOT) else None

    async def begin(self, user: str, source: str, *, targets: Sequence[str] = ()) -> None:
        """Make it this user's, with audio from this source, unless it is so already. Raises `SessionTakenError`.

        `targets`: the languages that it is translated to; those of the first time stand.
        """
        if await self._claim(_OWNER, user) != user:
            raise SessionTakenError(f"there is a session {self.session_id!r} already, and it is not yours")
        if await self._claim(_SOURCE, source) != source:
            raise SessionTakenError(
                f"session {self.session_id!r} has audio already; leave session_id out to get a new session"
            )
        facts = SessionFacts(user_id=user, source_type=_kind(source), target_languages=list(targets))
        if await Sessions(self._app, ttl=self._ttl).open(self.session_id, facts) is None:
            raise SessionTakenError(f"session {self.session_id!r} has been deleted; leave session_id out for a new one")

    async def begun_at(self, now: datetime) -> datetime:
        """When the second 0 of the session was: now, where nobody has said so yet."""
        return datetime.fromisoformat(await self._claim(_BEGAN, now.isoformat()))

    async def write(self, entry: Entry) -> Entry:
        """Write a chunk down; returns what stands under its sequence, which another may have been faster with."""
        text = entry.model_dump_json()
        stands = await self._claim(f"{_CHUNK}{entry.chunk.sequence:08}", text)
        return entry if stands == text else Entry.model_validate_json(stands)

    async def chunks(self) -> list[Entry]:
        """Every chunk that is written down, in order."""
        fields = await self._app.records.read(self._key)
        names = sorted(name for name in fields if name.startswith(_CHUNK))
        return [Entry.model_validate_json(fields[name]) for name in names]

    async def delete(self) -> None:
        """Forget it: its results, its audio, and that the same file was uploaded before."""
        await Sessions(self._app, ttl=self._ttl).delete(self.session_id)
        source = (await self._app.records.read(self._key)).get(_SOURCE, b"").decode()
        if source.startswith(UPLOAD):
            await self._app.records.delete(source)
        for entry in await self.chunks():
            if entry.chunk.storage_uri:
                try:
                    await self._app.blobs.delete(entry.chunk.storage_uri)
                except BlobError as error:
                    log.warning("session.audio_left", extra={"uri": entry.chunk.storage_uri, "error": str(error)})
        await self._app.records.delete(self._key)

    async def _claim(self, field: str, value: str) -> str:
        return (await self._app.records.claim(self._key, field, value.encode(), ttl=self._ttl)).decode()


def _kind(source: str) -> SourceType:
    if source.startswith(UPLOAD):
        return "upload"
    return "bot" if source.startswith(BOT) else "websocket"
