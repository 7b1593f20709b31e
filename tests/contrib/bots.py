"""A stand-in for orchestrators and bots: what they write down and publish, without a process."""

from __future__ import annotations

from datetime import UTC, datetime

from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.events import BotState

from streamtask import App


async def advance(app: App, bot_id: str, *states: BotState, people: tuple[str, ...] = (), reason: str = "") -> None:
    """Have a bot go through these states."""
    for state in states:

        def change(bot: Bot, state: BotState = state) -> Bot | None:
            return bot.advanced(state, at=datetime.now(UTC), reason=reason, participants=people)

        assert await Bots(app).change(bot_id, change) is not None, state
