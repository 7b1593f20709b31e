"""What every WebSocket of the API has in common: how frames are taken, and why a socket is closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from streamtask_contrib.api.delivery import BehindError, Mailbox, tell
from streamtask_contrib.api.keys import SeatsTakenError

# Below 4000 the codes are those of the WebSocket protocol.
DONE, POLICY, TOO_BIG, AGAIN = 1000, 1008, 1009, 1013
UNAUTHORIZED, NOT_FOUND, CONFLICT = 4401, 4404, 4409
#: Seconds that a client which reads nothing is given to learn that it is closed.
_FAREWELL = 5.0
#: Bytes of a reason that fit into a close frame.
_REASON = 120


class ClosedError(Exception):
    """A socket is to be closed by us, with this code, for this reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@asynccontextmanager
async def closing(websocket: WebSocket) -> AsyncIterator[None]:
    """Accept a socket, and close it at the end in the way that the end asks for."""
    await websocket.accept()
    try:
        yield
        await _close(websocket, DONE, "")
    except WebSocketDisconnect:
        pass
    except ClosedError as error:
        await _close(websocket, error.code, error.reason)
    except (BehindError, SeatsTakenError) as error:
        await _close(websocket, AGAIN, str(error))


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """Tell the client why, in a message, too: the reason in a close frame is short, and browsers hide some."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(_FAREWELL):
            if code != DONE:
                await websocket.send_text(tell("error", code=code, message=reason).text)
            await websocket.close(code, reason.encode()[:_REASON].decode(errors="ignore"))


def content(message: Mapping[str, Any], *, limit: int) -> str | bytes:
    """What a frame holds. Raises `WebSocketDisconnect` where the client has left, `ClosedError` for too much."""
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code") or DONE)
    text = message.get("text")
    held: str | bytes = message.get("bytes") or b"" if text is None else text
    if len(held) > limit:
        raise ClosedError(TOO_BIG, f"a frame has {len(held)} bytes; the limit is {limit}")
    return held


async def first_to_end(*duties: Coroutine[Any, Any, None]) -> None:
    """Do several things until one of them ends, the others with it; raises what that one raised."""
    tasks = [asyncio.create_task(duty) for duty in duties]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()


async def ignore(websocket: WebSocket, limit: int) -> None:
    """Read until the client leaves, which is seen in no other way."""
    while True:
        content(await websocket.receive(), limit=limit)


async def stay(mailbox: Mailbox) -> None:
    """A client that is behind ends here, because sending to it may hang."""
    await mailbox.is_behind.wait()
    raise mailbox.behind()
