"""Asking for a bot, and for its end: what the API and the command line do alike.

Both write down what is wanted and publish it. Written down, it stands from that moment on, whoever is away: a bot is
known as soon as it was asked for, and a stop holds. Published, it wakes the orchestrators, and is in the stream.
"""

from __future__ import annotations

from streamtask import App, PublishError
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.capture.register import BOT, NOBODY, Register
from streamtask_contrib.events import BotRequested, BotStopRequested

#: Of a request, what two who mean the same may have different.
_OWN = {"session_id", "requested_at"}


class BotTakenError(Exception):
    """There is a bot of this id already, and it is another user's, or another bot."""


async def ask_for(app: App, request: BotRequested, *, session_ttl: float) -> Bot:
    """Ask for a bot; the bot as it stands. The same request again is answered with the same bot.

    `session_ttl`: seconds that its session is kept. Raises `BotTakenError`, `SessionTakenError`, and `StreamtaskError`
    where the broker is away: then the same request, sent again, makes up for it.
    """
    bots = Bots(app)
    known = await bots.load(request.bot_id)
    if known is None or known.request is None:
        register = Register(app, request.session_id, ttl=session_ttl)
        targets = request.processing_flags.target_languages
        await register.begin(request.user_id or NOBODY, BOT + request.bot_id, targets=targets)
        known = await bots.request(request)
    if known.request is None or known.request.user_id != request.user_id:
        raise BotTakenError(f"there is a bot {request.bot_id!r} already, and it is not yours")
    if known.request.model_dump(exclude=_OWN) != request.model_dump(exclude=_OWN):
        raise BotTakenError(f"there is a bot {request.bot_id!r} already, and it was asked for otherwise")
    await _publish(app, known.request)
    return known


async def ask_to_stop(app: App, bot_id: str, reason: str) -> Bot:
    """Ask a bot to leave; the bot as it stands. It holds whether the bot runs, or waits to be started."""
    bot = await Bots(app).stop(bot_id, reason)
    if not bot.is_final:
        await _publish(app, BotStopRequested(bot_id=bot_id, reason=reason))
    return bot


async def _publish(app: App, event: BotRequested | BotStopRequested) -> None:
    """Publish once; a connection that broke under the question is open again by now."""
    name = f"{type(event).__name__}:{event.bot_id}"
    try:
        await app.publish(event, dedup_key=name)
    except PublishError as error:
        await app.publish(event, dedup_key=name, event_id=error.event_id)
