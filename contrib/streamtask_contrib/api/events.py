"""A session's results as they come: as server-sent events and over a socket, from any id on.

Both say the same messages. Who comes back with the last id that it has seen (`Last-Event-ID`, `after`) misses nothing
that is final.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query, WebSocket
from fastapi.responses import StreamingResponse

from streamtask_contrib.api.delivery import BehindError, Mailbox, tell
from streamtask_contrib.api.keys import SeatsTakenError
from streamtask_contrib.api.service import Service, Serving, User
from streamtask_contrib.api.sessions import SessionId, owned
from streamtask_contrib.api.sockets import NOT_FOUND, UNAUTHORIZED, ClosedError, closing, first_to_end, ignore, stay

router = APIRouter(tags=["sessions"])

#: An entry id; "0": all that is kept, "$": only what is new.
_AFTER = r"^(\d+(-\d+)?|\$)$"
After = Annotated[str, Query(pattern=_AFTER)]


@router.get("/api/sessions/{session_id}/events", response_class=StreamingResponse)
async def server_sent(
    session_id: SessionId,
    service: Serving,
    user: User,
    after: After = "0",
    last_event_id: Annotated[str | None, Header(pattern=_AFTER)] = None,
) -> StreamingResponse:
    """Results as server-sent events."""
    await owned(service, session_id, user)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    stream = _events(service, session_id, user, last_event_id or after)
    # The first piece is made here, so that a refusal is an answer and not a broken stream.
    try:
        first = await anext(stream)
    except SeatsTakenError as error:
        raise HTTPException(429, str(error)) from error
    return StreamingResponse(_chained(first, stream), media_type="text/event-stream", headers=headers)


async def _chained(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for text in rest:
        yield text


async def _events(service: Service, session_id: str, user: str, after: str) -> AsyncIterator[str]:
    with service.connections.take(user), service.hub.listen(session_id, after=after) as mailbox:
        yield ": listening\n\n"
        while True:
            try:
                async with asyncio.timeout(service.settings.keepalive):
                    message = await mailbox.get()
            except TimeoutError:
                yield ": alive\n\n"
            except BehindError as error:
                yield f"event: error\ndata: {tell('error', message=str(error), after=error.last_id).text}\n\n"
                return
            else:
                identity = f"id: {message.id}\n" if message.id else ""
                yield f"{identity}event: {message.kind}\ndata: {message.text}\n\n"


@router.websocket("/api/sessions/{session_id}/events")
async def over_socket(websocket: WebSocket, service: Serving, session_id: SessionId, after: After = "0") -> None:
    """Results over a socket. The client need not send anything; what it sends is read and ignored."""
    async with closing(websocket):
        user = service.keys.user(websocket.scope)
        if user is None:
            raise ClosedError(UNAUTHORIZED, service.keys.refusal)
        try:
            await owned(service, session_id, user)
        except HTTPException as error:
            raise ClosedError(NOT_FOUND, error.detail) from error
        with service.connections.take(user), service.hub.listen(session_id, after=after) as mailbox:
            # From here on nothing is missed.
            await websocket.send_text(tell("ready", session_id=session_id).text)
            await first_to_end(
                _send(websocket, mailbox),
                ignore(websocket, service.settings.max_frame_bytes),
                stay(mailbox),
            )


async def _send(websocket: WebSocket, mailbox: Mailbox) -> None:
    while True:
        message = await mailbox.get()
        await websocket.send_text(message.text)
