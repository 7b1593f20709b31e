"""Several who speak at once, in one session: each has a track that is cut by itself, and all write one row of chunks.

What is cut waits in memory until it is written: each chunk is stored, written down under the session's next sequence,
and published, in this order. Whatever fails on the way is done again by the next `write`; after a crash `open` goes on
behind what was written down, and publishes the last again, which the stream takes once. The session's time goes on by
the wall clock of the moment at which it began, whoever writes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from streamtask import App
from streamtask_contrib.capture.chunks import Wishes, chunk_of, publish, store
from streamtask_contrib.capture.cutting import Cuts, Cutter, Format, Piece, Seam
from streamtask_contrib.capture.placing import Placement
from streamtask_contrib.capture.register import BOT, NOBODY, Entry, Register, SessionTakenError
from streamtask_contrib.events import AudioChunkReceived, BotRequested, ProcessingFlags

log = logging.getLogger(__name__)

#: What all tracks are: 16 kHz, one channel.
FORM = Format(rate=16_000)
#: Seconds that a track in speech may give nothing before what it has is taken for all.
_STALLED = 3.0
#: Seconds of silence that the last chunk of a session has, for a chunk has some sound.
_LAST = 0.1
#: Characters of a speaker's name.
_LONGEST_NAME = 100


class SessionEndedError(Exception):
    """The session has its last chunk: nothing may come after it."""


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """A piece that is not published yet."""

    piece: Piece
    speaker: str | None
    is_last: bool = False
    cut_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: With its audio stored; it may be written down already.
    chunk: AudioChunkReceived | None = None


class Tracks:
    """The tracks of one session. `open` comes first (`end` sees to it by itself), `start_clock` before any sound."""

    def __init__(
        self,
        app: App,
        register: Register,
        *,
        user: str,
        source: str,
        wishes: Wishes,
        cuts: Cuts,
        audio_ttl: float,
        guard: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`guard`: called before anything is written or published; it raises where this process may not any more."""
        self._app = app
        self._register = register
        self._user = user
        self._source = source
        self._wishes = wishes
        self._cuts = cuts
        self._audio_ttl = audio_ttl
        self._guard = guard
        self._clock = clock
        self._tracks: dict[str, _Track] = {}
        self._waiting: deque[_Waiting] = deque()
        self._writing = asyncio.Lock()
        self._is_open = self._is_finished = False
        #: Seconds of the session at the moment 0 of the clock.
        self._zero = 0.0
        #: How far the chunks reach, in seconds of the session.
        self._end = 0.0
        #: The next chunk's place in the session.
        self.sequence = 0
        #: The last chunk of the session has been published.
        self.is_ended = False

    async def open(self) -> None:
        """Make the session ours, and go on behind what is written down.

        Raises:
            SessionTakenError: it is another's.
            TransportError, PublishError: the broker is away; call it again.
        """
        await self._register.begin(self._user, self._source, targets=self._wishes.translate)
        entries = await self._register.chunks()
        if entries:
            last = entries[-1].chunk
            # Its publishing may have been what failed.
            await publish(self._app, last)
            self.sequence = last.sequence + 1
            self.is_ended = last.is_last
            self._end = max(entry.chunk.start + (entry.chunk.duration or 0.0) for entry in entries)
        self._is_open = True

    async def start_clock(self) -> None:
        """Let the session's time begin, or go on from when it began. Raises `TransportError`."""
        now = datetime.now(UTC)
        began = await self._register.begun_at(now)
        # Clocks of two machines differ; the session's time never goes back.
        self._zero = max((now - began).total_seconds(), self._end) - self._clock()

    @property
    def now(self) -> float:
        """Seconds of the session."""
        return self._zero + self._clock()

    # ── what is heard ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_anyone_speaking(self) -> bool:
        """Whether somebody speaks, as far as what has come says."""
        return any(track.is_open for track in self._tracks.values())

    @property
    def waiting(self) -> float:
        """Seconds of sound that are cut and not published yet."""
        return sum(each.piece.duration for each in self._waiting)

    def join(self, track: str, speaker: str) -> str:
        """Somebody is there. Returns the label of what they say: two of one name at once are told apart by a number."""
        self.leave(track)
        label = self._free(shown(speaker))
        self._tracks[track] = _Track(label, self._cuts)
        return label

    def feed(self, track: str, at: float, pcm: bytes) -> None:
        """Take samples. `at`: the moment of the first, in seconds of the session. `write` sends what they complete."""
        heard = self._tracks[track]
        for piece in heard.feed(max(0.0, at), pcm):
            self._take(heard, piece)

    def flush_stalled(self) -> None:
        """End the utterances of those of whom nothing has come for a while."""
        for track in self._tracks.values():
            if track.is_open and track.position < self.now - _STALLED:
                self._take(track, track.flush())

    def leave(self, track: str) -> None:
        """Somebody has gone; their last words wait to be written."""
        if track in self._tracks:
            gone = self._tracks.pop(track)
            self._take(gone, gone.flush())

    def flush(self) -> None:
        """Everybody is gone."""
        for track in list(self._tracks):
            self.leave(track)

    def _free(self, name: str) -> str:
        taken = {track.label for track in self._tracks.values()}
        names = (f"{name} ({number})" if number > 1 else name for number in range(1, len(taken) + 2))
        return next(each for each in names if each not in taken)

    def _take(self, track: _Track, piece: Piece | None) -> None:
        if piece is not None:
            self._waiting.append(_Waiting(piece=piece, speaker=track.label))
            self._end = max(self._end, piece.start + piece.duration)

    # ── what is written ───────────────────────────────────────────────────────────────────────────────────────

    async def write(self) -> None:
        """Send all that waits, in order. What raised stays, and whatever comes after it: call it again.

        Raises:
            TransportError, PublishError: the broker is away, or what is stored beside it.
            SessionEndedError: somebody has ended the session.
        """
        async with self._writing:
            while self._waiting:
                await self._send(self._waiting[0])
                self._waiting.popleft()

    async def end(self) -> None:
        """Everybody is gone, and nothing comes any more: send what waits, and the last chunk. As `open` and `write`."""
        if not self._is_open:
            await self.open()
        self.flush()
        if not self._is_finished and not self.is_ended:
            self._is_finished = True
            silence = bytes(FORM.bytes(_LAST))
            at = Seam(at=self._end, audio_from=self._end)
            piece = Piece(pcm=silence, start=self._end, duration=_LAST, overlap=0.0, seam=at)
            self._waiting.append(_Waiting(piece=piece, speaker=None, is_last=True))
        await self.write()

    async def _send(self, waiting: _Waiting) -> None:
        if self.is_ended:
            raise SessionEndedError(f"session {self._register.session_id!r} has its last chunk")
        self._guard()
        if waiting.chunk is None:
            waiting.chunk = await store(self._app, self._event(waiting), waiting.piece.pcm, ttl=self._audio_ttl)
            self._guard()
        entry = Entry(chunk=waiting.chunk, seam=waiting.piece.seam)
        stands = await self._register.write(entry)
        self._guard()
        await publish(self._app, stands.chunk)
        self.sequence += 1
        self.is_ended = stands.chunk.is_last
        if stands is not entry:
            # Of one who was at it before us, and died before it was told that it was; ours comes behind it.
            following = {"sequence": self.sequence, "chunk_id": self._event(waiting).chunk_id}
            waiting.chunk = waiting.chunk.model_copy(update=following)
            await self._send(waiting)
            return
        log.info(
            "tracks.chunk",
            extra={
                "sequence": entry.chunk.sequence,
                "speaker": waiting.speaker,
                "start": round(entry.chunk.start, 2),
                "duration": round(waiting.piece.duration, 2),
                "is_last": waiting.is_last,
            },
        )

    def _event(self, waiting: _Waiting) -> AudioChunkReceived:
        chunk = chunk_of(
            waiting.piece,
            session_id=self._register.session_id,
            sequence=self.sequence,
            user=self._user,
            source="bot",
            form=FORM,
            wishes=self._wishes.model_copy(update={"speaker": waiting.speaker}),
            is_last=waiting.is_last,
        )
        return chunk.model_copy(update={"received_at": waiting.cut_at})


class _Track:
    """One who may speak."""

    def __init__(self, label: str, cuts: Cuts) -> None:
        self.label = label
        self._cuts = cuts
        self._cutter: Cutter | None = None
        self._placement = Placement(FORM)

    @property
    def is_open(self) -> bool:
        """Whether they speak."""
        return self._cutter is not None and self._cutter.is_open

    @property
    def position(self) -> float:
        """How far their sound reaches, in seconds of the session."""
        return self._cutter.position if self._cutter is not None else 0.0

    def feed(self, at: float, pcm: bytes) -> Iterator[Piece]:
        """Take samples; give the pieces that they complete."""
        if self._cutter is None:
            if at < self._cuts.overlap / 2:
                # So near the session's beginning there is too little before it for a first piece to share.
                at, pcm = 0.0, bytes(FORM.bytes(at)) + pcm
            self._cutter = self._begun(at)
        position = self._cutter.position
        placed = self._placement.place(at, pcm, position=position, is_open=self._cutter.is_open)
        if placed is None:
            if (piece := self._cutter.flush()) is not None:
                yield piece
            self._cutter = self._begun(self._placement.moment(at))
            placed = pcm
        yield from self._cutter.feed(placed)

    def flush(self) -> Piece | None:
        """End the open utterance."""
        return None if self._cutter is None else self._cutter.flush()

    def _begun(self, at: float) -> Cutter:
        return Cutter(FORM, self._cuts, after=Seam(at=at, audio_from=at))


def shown(name: str) -> str:
    """A participant's name as it is shown: one line, not too long, never empty."""
    words = "".join(character if character.isprintable() else " " for character in name).split()
    return " ".join(words)[:_LONGEST_NAME].strip() or "Participant"


# ── a bot's ───────────────────────────────────────────────────────────────────────────────────────────────────────


class CaptureSettings(Protocol):
    """What can be set of a bot's sound, in seconds."""

    @property
    def utterance(self) -> float:
        """See `BotSettings`, as for the others."""
        ...

    @property
    def silence(self) -> float:
        """Ends an utterance."""
        ...

    @property
    def audio_ttl(self) -> float:
        """Of chunks' audio."""
        ...

    @property
    def session_ttl(self) -> float:
        """Of what is written down."""
        ...


class _BotWishes(Wishes):
    transcribe: bool = True

    @property
    def flags(self) -> ProcessingFlags:
        return super().flags.model_copy(update={"transcribe": self.transcribe})


def tracks_of(
    app: App, request: BotRequested, settings: CaptureSettings, *, guard: Callable[[], None] = lambda: None
) -> Tracks:
    """The tracks of a bot's session. Raises ValueError where the request names a language that there is not."""
    flags = request.processing_flags
    # Speech is cut only where nobody stops for too long, so an overlap does no harm where none is asked for.
    overlap = min(request.audio_config.overlap or Cuts(at_most=settings.utterance).overlap, settings.utterance / 2)
    return Tracks(
        app,
        Register(app, request.session_id, ttl=settings.session_ttl),
        user=request.user_id or NOBODY,
        source=f"{BOT}{request.bot_id}",
        wishes=_BotWishes(
            language=request.language,
            translate=flags.target_languages if flags.translate else [],
            transcribe=flags.transcribe,
        ),
        cuts=Cuts(at_most=settings.utterance, silence=settings.silence, overlap=overlap),
        audio_ttl=settings.audio_ttl,
        guard=guard,
    )


async def end_session(app: App, request: BotRequested, settings: CaptureSettings) -> None:
    """See to it that a bot's session has a last chunk. The bot's process must not live any more.

    Raises:
        TransportError, PublishError: the broker is away; call it again.
    """
    try:
        await tracks_of(app, request, settings).end()
    except (SessionTakenError, SessionEndedError, ValueError) as error:
        # It never was the bot's, or somebody else has ended it.
        log.info("tracks.not_ended", extra={"session_id": request.session_id, "reason": str(error)})
