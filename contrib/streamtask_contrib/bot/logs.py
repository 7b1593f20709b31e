"""What bots write, from their logs into `BotLogged`: whole lines, in order, none left out and none told twice.

Which bytes come next is written down before they are published. Whoever follows a log after one who died in between
publishes the same bytes again, which the broker knows by their position.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from streamtask import Application
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.events import BotLogged

#: Bytes of an event at most; a longer line is cut.
_PIECE = 65_536
#: Events at most of what a dead process has left: who has written more has lost its mind.
_LAST_PIECES = 64


class Logs:
    """The logs of the bots that one orchestrator looks after."""

    def __init__(self, app: Application, *, kept: float) -> None:
        """`kept`: seconds for which is remembered how far a log is published."""
        self._app = app
        self._kept = kept
        #: Where each log goes on, by bot and attempt.
        self._positions: dict[tuple[str, int], int] = {}

    async def follow(self, bot: Bot, *, is_over: bool = False) -> None:
        """Publish what is new in the log of a bot's process. `is_over`: it is dead, and all of it is to be told.

        Raises `TransportError` and `PublishError`: the next time goes on where this one ended.
        """
        if bot.process is None or not bot.process.log:
            return
        path, log = Path(bot.process.log), (bot.bot_id, bot.attempt)
        position = self._positions.pop(log, None)
        if position is None:
            position = await self._resume(bot, path)
        for _ in range(_LAST_PIECES if is_over else 1):
            piece = await asyncio.to_thread(_read, path, position, _PIECE, is_over=is_over)
            if not piece:
                break
            await self._write(bot, position, position + len(piece))
            await self._publish(bot, position, piece)
            position += len(piece)
        if not is_over:
            self._positions[log] = position

    async def _resume(self, bot: Bot, path: Path) -> int:
        """Publish once more what was written down last; where the log goes on behind it."""
        fields = await self._app.records.read(_key(bot.bot_id))
        begin, _, end = fields.get(str(bot.attempt), b"0-0").partition(b"-")
        piece = await asyncio.to_thread(_read, path, int(begin), int(end) - int(begin), is_over=True)
        if piece:
            await self._publish(bot, int(begin), piece)
        return int(end)

    async def _write(self, bot: Bot, begin: int, end: int) -> None:
        fields = {str(bot.attempt): f"{begin}-{end}".encode()}
        await self._app.records.write(_key(bot.bot_id), fields, ttl=self._kept)

    async def _publish(self, bot: Bot, position: int, piece: bytes) -> None:
        lines = piece.decode(errors="replace").removesuffix("\n").split("\n")
        event = BotLogged(bot_id=bot.bot_id, attempt=bot.attempt, position=position, lines=lines)
        await self._app.publish(event, dedup_key=f"{bot.bot_id}:{bot.attempt}:{position}")


def _read(path: Path, position: int, size: int, *, is_over: bool) -> bytes:
    """The next bytes up to the end of a line; of a log that is over, or in a line that is too long, up to anywhere."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            piece = file.read(size)
    except FileNotFoundError:
        return b""
    whole = piece[: piece.rfind(b"\n") + 1]
    return whole or (piece if is_over or len(piece) == size else b"")


def _key(bot_id: str) -> str:
    return f"bot-log-{bot_id}"
