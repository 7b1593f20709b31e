"""Bots in meetings: asked for, watched and called back. What they hear is a session like any other.

A bot belongs to the user who asked for it, and so does its session: its events and transcript have the words. Nothing
here starts a process: the orchestrators do.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, WebSocket
from pydantic import BaseModel

from streamtask import StreamtaskError
from streamtask_contrib.api.delivery import BehindError, Mailbox, status_message, tell
from streamtask_contrib.api.service import Service, Serving, User
from streamtask_contrib.api.sockets import (
    AGAIN,
    NOT_FOUND,
    UNAUTHORIZED,
    ClosedError,
    closing,
    first_to_end,
    ignore,
    stay,
)
from streamtask_contrib.api.wording import WordedRoute
from streamtask_contrib.bot.asking import BotTakenError, ask_for, ask_to_stop
from streamtask_contrib.bot.registry import status_of
from streamtask_contrib.bot.states import FINAL, Bot
from streamtask_contrib.bot.wishes import BotWish, in_words
from streamtask_contrib.capture.register import NOBODY
from streamtask_contrib.events import ID, BotState

router = APIRouter(tags=["bots"], route_class=WordedRoute)

BotId = Annotated[str, Path(pattern=ID)]


class Accepted(BaseModel):
    """The bot is asked for: an orchestrator starts it."""

    bot_id: str
    session_id: str


class BotView(BaseModel):
    """A bot."""

    bot_id: str
    session_id: str
    state: BotState
    #: "stopped": it was asked to leave.
    desired: Literal["running", "stopped"]
    #: Why it is in this state, for programs; open sets.
    reason: str
    sub_code: str
    #: Of its last status.
    sequence: int
    #: Above 1: it was started again.
    attempt: int
    participants: list[str]
    meeting_url: str
    driver: str
    display_name: str
    metadata: dict[str, str]
    requested_at: datetime
    changed_at: datetime


class Participants(BaseModel):
    """Who is in the meeting, without the bot."""

    bot_id: str
    state: BotState
    participants: list[str]


# ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.post("/api/bots", status_code=202)
async def start(wish: BotWish, service: Serving, user: User) -> Accepted:
    """Ask for a bot. Its words come as the events and the transcript of its session."""
    try:
        request = wish.request(user)
    except ValueError as error:
        raise HTTPException(422, in_words(error)) from None
    bot_id = request.bot_id
    try:
        # One after the other: two that come together must not both be the last that there may be.
        async with service.asking:
            await _check_room(service, bot_id, user)
            bot = await ask_for(service.events, request, session_ttl=service.settings.session_ttl)
    except BotTakenError as error:
        raise HTTPException(409, str(error)) from error
    except StreamtaskError as error:
        raise HTTPException(
            503,
            "the broker cannot be reached, and may know of the bot or not; "
            f'send the same request again with "bot_id": "{bot_id}": there will be one bot',
            {"Retry-After": "5"},
        ) from error
    return Accepted(bot_id=bot_id, session_id=_session_of(bot))


@router.delete("/api/bots/{bot_id}", status_code=202)
async def stop(bot_id: BotId, service: Serving, user: User) -> BotView:
    """Have a bot leave. It holds for one that has not been started, too; one that has ended stays as it is."""
    await owned(service, bot_id, user)
    return _view(await ask_to_stop(service.events, bot_id, "requested"))


async def _check_room(service: Service, bot_id: str, user: str) -> None:
    """Refuse one bot too many with 429."""
    living = [bot for bot in await service.bots.living() if not bot.is_final and _user_of(bot) == user]
    most = service.settings.max_bots
    if len(living) >= most and all(bot.bot_id != bot_id for bot in living):
        message = f"{most} of your bots have not ended yet, the limit of this server; stop one first"
        raise HTTPException(429, message, {"Retry-After": "5"})


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/api/bots")
async def listed(service: Serving, user: User, *, living: bool = False) -> list[BotView]:
    """The user's bots, the newest first; `living`: only those that have not ended."""
    found = await (service.bots.living() if living else service.bots.all())
    mine = [_view(bot) for bot in reversed(found) if _user_of(bot) == user]
    return [view for view in mine if not (living and view.state in FINAL)]


@router.get("/api/bots/{bot_id}")
async def one(bot_id: BotId, service: Serving, user: User) -> BotView:
    """A bot as it stands."""
    return _view(await owned(service, bot_id, user))


@router.get("/api/bots/{bot_id}/participants")
async def participants(bot_id: BotId, service: Serving, user: User) -> Participants:
    """Who is in the meeting, as the bot said last."""
    view = _view(await owned(service, bot_id, user))
    return Participants(bot_id=bot_id, state=view.state, participants=view.participants)


async def owned(service: Service, bot_id: str, user: str) -> Bot:
    """A user's bot. Raises 404 where there is none: another's looks the same."""
    bot = await service.bots.load(bot_id)
    if bot is None or bot.state is None or _user_of(bot) != user:
        raise HTTPException(404, f"there is no bot {bot_id!r}, or no longer: they are remembered for a while only")
    return bot


def _user_of(bot: Bot) -> str | None:
    return None if bot.request is None else bot.request.user_id or NOBODY


def _session_of(bot: Bot) -> str:
    return "" if bot.request is None else bot.request.session_id


def _view(bot: Bot) -> BotView:
    """A bot that was asked for, as it is shown."""
    if bot.request is None or bot.state is None:
        raise ValueError(f"bot {bot.bot_id!r} was not asked for")
    return BotView(
        bot_id=bot.bot_id,
        session_id=bot.request.session_id,
        state=bot.state,
        desired=bot.desired,
        reason=bot.reason,
        sub_code=bot.sub_code,
        sequence=bot.sequence,
        attempt=max(1, bot.attempt),
        participants=list(bot.participants),
        meeting_url=bot.request.meeting_url,
        driver=bot.request.driver,
        display_name=bot.request.display_name,
        metadata=bot.request.metadata,
        requested_at=bot.request.requested_at,
        changed_at=bot.changed_at or bot.created_at,
    )


# ── watching ──────────────────────────────────────────────────────────────────────────────────────────────────────


@router.websocket("/api/bots/{bot_id}/status")
async def watch(websocket: WebSocket, service: Serving, bot_id: BotId) -> None:
    """The status that stands, then each later one, until the bot's end. What the client sends is read and ignored."""
    async with closing(websocket):
        user = service.keys.user(websocket.scope)
        if user is None:
            raise ClosedError(UNAUTHORIZED, service.keys.refusal)
        try:
            # Listening comes first: between the two nothing is missed, and what comes twice is told once.
            with service.connections.take(user), service.statuses.listen(bot_id) as mailbox:
                bot = await owned(service, bot_id, user)
                await first_to_end(
                    _tell(websocket, mailbox, bot),
                    ignore(websocket, service.settings.max_frame_bytes),
                    stay(mailbox),
                )
        except HTTPException as error:
            raise ClosedError(NOT_FOUND, error.detail) from error
        except BehindError as error:
            raise ClosedError(AGAIN, "too slow: come back and begin with the status that stands then") from error
        except StreamtaskError as error:
            raise ClosedError(AGAIN, "the broker cannot be reached; come back") from error


async def _tell(websocket: WebSocket, mailbox: Mailbox, bot: Bot) -> None:
    """Every status once, in order."""
    told = status_of(bot)
    message = None if told is None else status_message(told)
    last = -1
    while True:
        if message is not None and message.status is not None and message.status.sequence > last:
            last = message.status.sequence
            await websocket.send_text(message.text)
            if message.status.state in FINAL:
                ended = tell("ended", bot_id=bot.bot_id, state=message.status.state, reason=message.status.reason)
                await websocket.send_text(ended.text)
                return
        message = await mailbox.get()
