"""Bots in meetings: asked for, watched and called back. What they hear is a session like any other.

A bot belongs to the user who asked for it, and so does its session: its events and transcript have the words. Nothing
here starts a process: the orchestrators do.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, WebSocket
from pydantic import BaseModel, ConfigDict, Field

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
from streamtask_contrib.bot.asking import BotTakenError, ask_for, ask_to_stop, check, new_bot_id
from streamtask_contrib.bot.registry import status_of
from streamtask_contrib.bot.states import FINAL, Bot
from streamtask_contrib.capture.chunks import Wishes, new_session_id
from streamtask_contrib.events import ID, AutomaticLeave, BotRequested, BotState

router = APIRouter(tags=["bots"], route_class=WordedRoute)

BotId = Annotated[str, Path(pattern=ID)]
_Fact = Annotated[str, Field(max_length=500)]


class Leaving(AutomaticLeave):
    """When it leaves by itself, in seconds; 0: never for this reason."""

    model_config = ConfigDict(extra="forbid")


class BotWish(BaseModel):
    """A meeting, and how a bot should be in it."""

    model_config = ConfigDict(extra="forbid")

    meeting_url: str = Field(min_length=1, max_length=2000)
    #: A name for it: who sends the same request again gets the same bot.
    bot_id: str | None = Field(default=None, pattern=ID)
    #: A name for its session, which must not have audio yet.
    session_id: str | None = Field(default=None, pattern=ID)
    driver: str = Field(default="browser", pattern=r"^[a-z][a-z0-9_-]{0,49}$")
    recipe: str = Field(default="auto", pattern=r"^[a-z][a-z0-9_-]{0,49}$")
    #: What the meeting shows.
    display_name: str = Field(default="streamtask bot", min_length=1, max_length=100)
    #: Where the token is, never the token.
    auth_token_ref: str = Field(default="", max_length=500)
    #: What is spoken; left out, the model finds out.
    language: str | None = None
    #: Languages to translate to.
    translate: list[str] = Field(default_factory=list, max_length=20)
    automatic_leave: Leaving = Field(default_factory=Leaving)
    #: Facts to find it again by.
    metadata: dict[_Fact, _Fact] = Field(default_factory=dict, max_length=20)

    def request(self, *, bot_id: str, user: str) -> BotRequested:
        """The same as an event. Raises ValueError where a language or the address is none."""
        wishes = Wishes(language=self.language, translate=self.translate)
        request = BotRequested(
            bot_id=bot_id,
            session_id=self.session_id or new_session_id(),
            user_id=user,
            meeting_url=self.meeting_url,
            driver=self.driver,
            recipe=self.recipe,
            display_name=self.display_name,
            auth_token_ref=self.auth_token_ref,
            processing_flags=wishes.flags,
            language=wishes.language,
            automatic_leave=AutomaticLeave(**self.automatic_leave.model_dump()),
            metadata=self.metadata,
        )
        check(request)
        return request


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
    bot_id = wish.bot_id or new_bot_id()
    try:
        request = wish.request(bot_id=bot_id, user=user)
    except ValueError as error:
        raise HTTPException(422, _in_words(error)) from None
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


def _in_words(error: ValueError) -> str:
    """What is wrong. Pydantic's own text quotes what was sent."""
    problems = getattr(error, "errors", None)
    return "; ".join(str(one["msg"]) for one in problems(include_input=False)) if problems else str(error)


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
    return None if bot.request is None else bot.request.user_id


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
