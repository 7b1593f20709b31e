"""From live samples to published chunks: cut, stored, written down, published, in this order.

A recording knows nothing of sockets. After a crash at any point the next one of the session reads what was written down
and goes on behind it; what stands there is published again, which is harmless: the stream takes a chunk id once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

from pydantic import Field

from streamtask import App
from streamtask_contrib.api.settings import ApiSettings
from streamtask_contrib.capture.chunks import Wishes, chunk_of, publish, store
from streamtask_contrib.capture.cutting import Cuts, Cutter, Format, Piece, Seam
from streamtask_contrib.capture.register import Entry, Register
from streamtask_contrib.events import AudioChunkReceived

#: Seconds that the audio of a partial chunk is kept: after that nobody wants its words any more.
_PARTIAL_TTL = 300.0


class StreamConfig(Wishes):
    """The first frame of a live session."""

    type: Literal["config"] = "config"
    encoding: Literal["pcm_s16le"] = "pcm_s16le"
    #: Samples a second.
    sample_rate: int = Field(default=16_000, ge=8_000, le=192_000)
    #: Interleaved.
    channels: int = Field(default=1, ge=1, le=2)
    #: The client has audio from here on only, in seconds of the session: what is before has been acked as quiet.
    resume_from: float = Field(default=0.0, ge=0.0)
    #: The API key, where it is not in the address.
    token: str = ""


class OvertakenError(Exception):
    """Another connection of the same session has been faster; what this one has heard has to come again."""


class Recording:
    """The audio of one live session. `open` comes first."""

    def __init__(self, app: App, settings: ApiSettings, register: Register, *, user: str, config: StreamConfig) -> None:
        self._app = app
        self._settings = settings
        self._register = register
        self._user = user
        self._config = config
        self._form = Format(rate=config.sample_rate, channels=config.channels)
        self._cuts = Cuts(at_most=settings.utterance, silence=settings.silence, overlap=settings.overlap)
        self._cutter = Cutter(self._form, self._cuts)
        #: Partials of the open utterance, and how far the last one reached, in seconds.
        self._partials = 0
        self._asked_until = 0.0
        #: The next chunk's place in the session.
        self.sequence = 0
        #: The last chunk of the session has been published.
        self.is_ended = False

    async def begin(self) -> None:
        """Make the session this user's. Raises `SessionTakenError`."""
        await self._register.begin(self._user, "live", targets=self._config.translate)

    async def open(self) -> None:
        """Go on behind what is written down. Raises `PublishError`."""
        seam = Seam()
        if entries := await self._register.chunks():
            last = entries[-1]
            # Its publishing may have been what failed.
            await publish(self._app, last.chunk)
            self.sequence = last.chunk.sequence + 1
            self.is_ended = last.chunk.is_last
            seam = last.seam
        # What was quiet is written down nowhere: the client knows that it need not keep it.
        if self._config.resume_from > seam.at:
            seam = Seam(at=self._config.resume_from, audio_from=self._config.resume_from)
        self._cutter = Cutter(self._form, self._cuts, after=seam)
        self._asked_until = self.position

    @property
    def received_until(self) -> float:
        """From here on, in seconds of the session, the client sends again after an interruption."""
        return self._cutter.seam.audio_from

    @property
    def is_open(self) -> bool:
        """Whether somebody speaks."""
        return self._cutter.is_open

    @property
    def position(self) -> float:
        """How far what has come reaches, in seconds."""
        return self._cutter.position

    async def feed(self, pcm: bytes) -> AsyncIterator[AudioChunkReceived]:
        """Take samples; gives the chunks that they complete. Raises `OvertakenError`, `PublishError`."""
        for piece in self._cutter.feed(pcm):
            yield await self._chunk(piece)

    async def flush(self) -> AudioChunkReceived | None:
        """End the open utterance here."""
        piece = self._cutter.flush()
        return None if piece is None else await self._chunk(piece)

    async def finish(self) -> AudioChunkReceived:
        """The last chunk of the session."""
        chunk = await self._chunk(self._cutter.finish(), is_last=True)
        self.is_ended = True
        return chunk

    async def ask(self) -> None:
        """Ask for the words of the open utterance, if enough of it is new."""
        if not self._settings.partial or self.position - self._asked_until < self._settings.partial:
            return
        piece = self._cutter.so_far()
        if piece is None:
            return
        self._asked_until = self.position
        self._partials += 1
        whole = self._event(piece)
        partial = whole.model_copy(update={"is_partial": True, "chunk_id": f"{whole.chunk_id}~{self._partials}"})
        await publish(self._app, await store(self._app, partial, piece.pcm, ttl=_PARTIAL_TTL))

    async def _chunk(self, piece: Piece, *, is_last: bool = False) -> AudioChunkReceived:
        chunk = self._event(piece, is_last=is_last)
        entry = Entry(chunk=await store(self._app, chunk, piece.pcm, ttl=self._settings.audio_ttl), seam=piece.seam)
        if await self._register.write(entry) is not entry:
            await self._app.blobs.delete(entry.chunk.storage_uri)
            raise OvertakenError(f"session {self._register.session_id!r} goes on with another connection")
        await publish(self._app, entry.chunk)
        self.sequence += 1
        self._partials, self._asked_until = 0, self.position
        return entry.chunk

    def _event(self, piece: Piece, *, is_last: bool = False) -> AudioChunkReceived:
        return chunk_of(
            piece,
            session_id=self._register.session_id,
            sequence=self.sequence,
            user=self._user,
            source="websocket",
            form=self._form,
            wishes=self._config,
            is_last=is_last,
        )
