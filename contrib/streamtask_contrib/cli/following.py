"""One bot as it goes on: its statuses and its log, from what is there to what comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta

from pydantic import ValidationError

from streamtask import App, Inspector
from streamtask_contrib.bot.registry import status_of
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.events import BotLogged, BotStatusUpdate

_STATUSES, _LOGS = "bot-control", "bot-logs"
#: How far a bot's clock may be ahead of the broker's.
_SKEW = timedelta(seconds=60)
#: Seconds that the last lines of a bot that has ended may take to come.
_LAST_LINES = 2.0


async def statuses(app: App, bot: Bot) -> AsyncIterator[BotStatusUpdate]:
    """The status that stands, then each later one, once and in order; until the bot's end."""
    last = status_of(bot)
    if last is None:
        return
    yield last
    if bot.is_final:
        return
    async for stored in app.read(_STATUSES, after=last.changed_at - _SKEW):
        if stored.event_type != BotStatusUpdate.__name__ or stored.payload.get("bot_id") != bot.bot_id:
            continue
        try:
            update = BotStatusUpdate.model_validate(stored.payload)
        except ValidationError:
            # Of a newer version: the next one may be readable.
            continue
        if update.sequence > last.sequence:
            last = update
            yield update
            if bot.with_(state=update.state).is_final:
                return


class Log:
    """The lines that a bot has written, each once: an orchestrator that takes over may tell some of them again."""

    def __init__(self, app: App, bot: Bot) -> None:
        self._app = app
        self._bot = bot
        #: Attempt, and bytes of its log, up to which all is told.
        self._told = (0, 0)

    async def past(self) -> AsyncIterator[tuple[BotLogged, list[str]]]:
        """What is there by now."""
        inspector = Inspector(self._app)
        infos = await inspector.stream_infos(_LOGS) if _LOGS in await inspector.streams() else []
        last = next((_order(info.last_id) for info in infos if info.length), None)
        if last is None:
            return
        async for entry_id, logged in self._read():
            if logged is not None and (fresh := self.take(logged)):
                yield logged, fresh
            if _order(entry_id) >= last:
                return

    async def all(self) -> AsyncIterator[tuple[BotLogged, list[str]]]:
        """What is there and what comes, until the bot has ended and its last lines have had the time to come."""
        reading = self._read()
        ended = asyncio.create_task(self._ended())
        coming = asyncio.create_task(_next(reading))
        try:
            while not ended.done() or coming.done():
                await asyncio.wait({coming, ended}, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    _, logged = coming.result()
                    coming = asyncio.create_task(_next(reading))
                    if logged is not None and (fresh := self.take(logged)):
                        yield logged, fresh
            ended.result()
        finally:
            for task in (ended, coming):
                task.cancel()
            await asyncio.gather(ended, coming, return_exceptions=True)
            await reading.aclose()

    def take(self, logged: BotLogged) -> list[str]:
        """The lines that are new."""
        fresh, position = [], logged.position
        for line in logged.lines:
            if (logged.attempt, position) >= self._told:
                fresh.append(line)
            position += len(line.encode()) + 1
        self._told = max(self._told, (logged.attempt, position))
        return fresh

    async def _read(self) -> AsyncGenerator[tuple[str, BotLogged | None]]:
        """The entries of the stream; None: another bot's, or none that can be read."""
        async for stored in self._app.read(_LOGS, after=self._bot.created_at - _SKEW):
            logged = None
            if stored.event_type == BotLogged.__name__ and stored.payload.get("bot_id") == self._bot.bot_id:
                with contextlib.suppress(ValidationError):
                    logged = BotLogged.model_validate(stored.payload)
            yield stored.entry_id, logged

    async def _ended(self) -> None:
        async for _ in statuses(self._app, self._bot):
            pass
        await asyncio.sleep(_LAST_LINES)


async def _next(reading: AsyncIterator[tuple[str, BotLogged | None]]) -> tuple[str, BotLogged | None]:
    return await anext(reading)


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
