"""`/api/audio/stream`: audio comes in over a socket, words go out over it.

The first frame is JSON, `{"type": "config", ...}`, and is answered with `ready`. Then come binary frames of PCM, and
`{"type": "flush" | "end" | "ping"}`. Beside the loop that receives runs one task that sends what the mailbox holds: the
hub puts results into it, this module everything else. What a socket has heard when it ends is made a chunk, however it
ends; a client that comes back with the session's id goes on where `ready` says.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from streamtask import StreamtaskError
from streamtask_contrib.api.completion import Completion
from streamtask_contrib.api.delivery import BehindError, Mailbox, Result, tell
from streamtask_contrib.api.recording import OvertakenError, Recording, StreamConfig
from streamtask_contrib.api.service import Service, Serving
from streamtask_contrib.api.sockets import AGAIN, CONFLICT, POLICY, UNAUTHORIZED, ClosedError, closing, content
from streamtask_contrib.capture.chunks import new_session_id
from streamtask_contrib.capture.register import SessionTakenError
from streamtask_contrib.events import ID, AudioChunkReceived
from streamtask_contrib.transcript import Sessions

log = logging.getLogger(__name__)

router = APIRouter(tags=["audio"])

#: Seconds for the first frame.
_GREETING = 10.0
#: Seconds of quiet after which a client is told that it need not keep it.
_QUIET = 5.0
#: Partials are asked for while no more than this part of the tolerated lag waits.
_CALM = 0.1
#: Problems of a configuration that an answer names.
_SHOWN = 3


@router.websocket("/api/audio/stream")
async def stream(
    websocket: WebSocket,
    service: Serving,
    session_id: Annotated[str | None, Query(pattern=ID)] = None,
    after: Annotated[str, Query(pattern=r"^\d+(-\d+)?$")] = "0",
) -> None:
    """Take live audio, give its words."""
    async with closing(websocket):
        config = await _configuration(websocket, service.settings.max_frame_bytes)
        user = service.keys.user(websocket.scope, config.token)
        if user is None:
            raise ClosedError(UNAUTHORIZED, service.keys.refusal)
        with service.connections.take(user):
            await _serve(websocket, service, config, session_id=session_id or new_session_id(), user=user, after=after)


async def _configuration(websocket: WebSocket, limit: int) -> StreamConfig:
    try:
        async with asyncio.timeout(_GREETING):
            frame = content(await websocket.receive(), limit=limit)
    except TimeoutError:
        raise ClosedError(POLICY, f"nothing came for {_GREETING:g} s; the first frame is the configuration") from None
    if isinstance(frame, bytes):
        raise ClosedError(POLICY, 'the first frame is JSON: {"type": "config", "sample_rate": 16000, ...}')
    try:
        return StreamConfig.model_validate_json(frame)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:_SHOWN]]
        raise ClosedError(POLICY, f"the configuration is wrong: {'; '.join(problems)}") from error


async def _serve(
    websocket: WebSocket, service: Service, config: StreamConfig, *, session_id: str, user: str, after: str
) -> None:
    recording = Recording(service.events, service.settings, service.register(session_id), user=user, config=config)
    try:
        await recording.begin()
        async with service.handover.hold(session_id) as wanted:
            await recording.open()
            completion = Completion(config.translate, chunks=recording.sequence if recording.is_ended else None)
            # What is long ago stands in the record alone, what is new in the hub alone.
            for result in [*await _recorded(service, session_id), *service.hub.known(session_id)]:
                completion.take(result)
            with service.hub.listen(session_id, after=after) as mailbox:
                last, until = recording.sequence - 1, recording.received_until
                ready = tell("ready", session_id=session_id, sequence=last, received_until=until)
                await websocket.send_text(ready.text)
                await _Conversation(websocket, service, recording, mailbox, completion).run(wanted)
    except (SessionTakenError, OvertakenError) as error:
        raise ClosedError(CONFLICT, str(error)) from error
    except StreamtaskError as error:
        log.warning("live.broker_away", extra={"session_id": session_id, "error": str(error)})
        raise ClosedError(AGAIN, "the broker cannot be reached; come back with this session_id and go on") from error


async def _recorded(service: Service, session_id: str) -> list[Result]:
    """The results that a session's record has."""
    state = await Sessions(service.events).load(session_id)
    if state is None:
        return []
    translations = [result for results in state.translations.values() for result in results]
    return [*state.results, *translations, *state.failures]


class _Conversation:
    """One socket of a live session, between `ready` and its end."""

    def __init__(
        self, websocket: WebSocket, service: Service, recording: Recording, mailbox: Mailbox, completion: Completion
    ) -> None:
        self._websocket = websocket
        self._settings = service.settings
        self._pressure = service.pressure
        self._recording = recording
        self._mailbox = mailbox
        self._completion = completion
        self._acked_until = recording.received_until
        self._receiving: asyncio.Task[Mapping[str, Any]] | None = None
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def run(self, wanted: asyncio.Event) -> None:
        """Take audio until the client ends it, then wait for the last results. `wanted`: by another connection."""
        self._tasks = {
            "sending": asyncio.create_task(self._send()),
            "behind": asyncio.create_task(self._mailbox.is_behind.wait()),
            "wanted": asyncio.create_task(wanted.wait()),
        }
        try:
            if not self._recording.is_ended:
                await self._take_audio()
            await self._wait_for_results()
        finally:
            tasks = [*self._tasks.values(), *([self._receiving] if self._receiving else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _send(self) -> None:
        """Send what the mailbox holds, until the session is done."""
        while not (self._completion.is_done and self._mailbox.is_empty):
            message = await self._mailbox.get()
            await self._websocket.send_text(message.text)
            if message.result is not None:
                self._completion.take(message.result)

    def _ack(self, chunk: AudioChunkReceived | None) -> None:
        """Say what is safe: a chunk, or quiet that nobody needs."""
        self._acked_until = self._recording.received_until
        facts = {} if chunk is None else {"chunk_id": chunk.chunk_id, "sequence": chunk.sequence}
        self._mailbox.put(tell("ack", **facts, received_until=self._acked_until))

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _take_audio(self) -> None:
        try:
            while not self._recording.is_ended:
                frame = await self._frame(self._settings.idle_timeout)
                if isinstance(frame, bytes):
                    await self._hear(frame)
                elif frame is not None:
                    await self._obey(frame)
        except (WebSocketDisconnect, ClosedError, BehindError):
            # Whoever comes back goes on behind it; whoever does not has not lost the last words.
            await self._recording.flush()
            raise

    async def _hear(self, pcm: bytes) -> None:
        await self._pause_under_pressure()
        async for chunk in self._recording.feed(pcm):
            self._ack(chunk)
        if self._recording.position > self._settings.max_session:
            await self._end()
        elif self._recording.is_open:
            if self._pressure.lag <= self._settings.max_lag * _CALM:
                await self._recording.ask()
        elif self._recording.received_until - self._acked_until > _QUIET:
            self._ack(None)

    async def _obey(self, text: str) -> None:
        try:
            kind = json.loads(text)["type"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ClosedError(POLICY, 'a text frame is JSON: {"type": "flush"}, "end" or "ping"') from error
        if kind == "ping":
            self._mailbox.put(tell("pong"))
        elif self._recording.is_ended:
            pass  # whatever it is, it is too late
        elif kind == "flush":
            self._ack(await self._recording.flush())
        elif kind == "end":
            await self._end()
        else:
            raise ClosedError(POLICY, f"there is no frame of type {str(kind)[:40]!r}; there are flush, end and ping")

    async def _end(self) -> None:
        self._ack(await self._recording.finish())
        self._completion.chunks = self._recording.sequence
        self._mailbox.put(tell("status", state="finishing", chunks=self._recording.sequence))

    async def _pause_under_pressure(self) -> None:
        """Take no more while too much waits for the workers; the socket's own flow control does the rest."""
        if not self._pressure.is_high:
            return
        limit = self._settings.max_lag
        self._mailbox.put(tell("backpressure", paused=True, lag=self._pressure.lag, limit=limit))
        relief = asyncio.create_task(self._pressure.relief())
        try:
            await asyncio.wait({relief, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            relief.cancel()
        self._mailbox.put(tell("backpressure", paused=False, lag=self._pressure.lag, limit=limit))

    async def _wait_for_results(self) -> None:
        try:
            async with asyncio.timeout(self._settings.end_timeout):
                while (frame := await self._frame(None)) is not None:
                    if isinstance(frame, str):
                        await self._obey(frame)
        except TimeoutError:
            raise ClosedError(
                AGAIN,
                f"the last results have not come within {self._settings.end_timeout:g} s; see the session's events",
            ) from None
        await self._websocket.send_text(tell("status", state="complete").text)

    async def _frame(self, patience: float | None) -> str | bytes | None:
        """The next frame; None: all results have been sent. Raises for whatever else ends the connection."""
        if self._receiving is None:
            self._receiving = asyncio.create_task(self._websocket.receive())
        await asyncio.wait(
            {self._receiving, *self._tasks.values()}, timeout=patience, return_when=asyncio.FIRST_COMPLETED
        )
        if self._tasks["behind"].done():
            raise self._mailbox.behind()
        if self._tasks["wanted"].done():
            raise ClosedError(CONFLICT, "the session goes on with another connection")
        if self._tasks["sending"].done():
            self._tasks["sending"].result()
            return None
        if not self._receiving.done():
            raise ClosedError(POLICY, f"nothing came for {patience:g} s; come back with this session_id and go on")
        message, self._receiving = self._receiving.result(), None
        return content(message, limit=self._settings.max_frame_bytes)
