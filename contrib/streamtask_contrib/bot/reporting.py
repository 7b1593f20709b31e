"""What a bot's process says of its bot: each state in order, and who is there. It never keeps the process waiting.

A change is made only where the bot is still of this process' attempt; where it is not, somebody else goes on with it,
and nothing that happens here is of interest any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from streamtask import EventRefusedError, PublishError, TransportError
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.states import Bot, Ending
from streamtask_contrib.events import BotState

log = logging.getLogger(__name__)

_T = TypeVar("_T")
#: Seconds until the broker is asked again.
_AGAIN = 0.5


class ReplacedError(Exception):
    """The bot is another process' by now."""


async def insisted(call: Callable[[], Awaitable[_T]]) -> _T:
    """The answer of a call that is repeated while the broker is away. Its end is the caller's, or the lease's."""
    is_told = False
    while True:
        try:
            return await call()
        except EventRefusedError:
            raise
        except (TransportError, PublishError) as error:
            if not is_told:
                log.warning("bot.broker_away", extra={"error": str(error)})
            is_told = True
            await asyncio.sleep(_AGAIN)


@dataclass(frozen=True, slots=True)
class _Report:
    state: BotState
    reason: str
    sub_code: str


class Reporter:
    """Writes down what has been told to it, one after the other; `run` does the work."""

    def __init__(self, bots: Bots, bot_id: str, *, attempt: int, state: BotState) -> None:
        """`state`: in which the bot is."""
        self._bots = bots
        self._bot_id = bot_id
        self._attempt = attempt
        self._reports: deque[_Report] = deque()
        self._participants: tuple[str, ...] = ()
        self._written: tuple[str, ...] | None = None
        self._news = asyncio.Event()
        self._all_written = asyncio.Event()
        self._all_written.set()
        #: The last that was told.
        self.state = state

    def tell(self, state: BotState, *, reason: str = "", sub_code: str = "") -> None:
        """The bot is in this state now."""
        if state == self.state:
            return
        log.info("bot.state", extra={"state": state, "before": self.state, "reason": reason, "sub_code": sub_code})
        self.state = state
        self._reports.append(_Report(state, reason, sub_code))
        self._wake()

    def tell_participants(self, names: Sequence[str]) -> None:
        """These are in the call now. Who comes and goes while nothing can be written is not told one by one."""
        self._participants = tuple(names)
        self._wake()

    async def run(self) -> None:
        """Write until cancelled. Raises `ReplacedError`."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._reports or self._written != self._participants:
                await self._write_next()
            self._all_written.set()

    async def written(self) -> None:
        """Wait until all that was told is written."""
        await self._all_written.wait()

    async def write_ending(self, ending: Ending) -> None:
        """Write down how the bot wants to be remembered. Raises `ReplacedError`."""
        await self._change(lambda bot: bot.with_(ending=ending))

    def _wake(self) -> None:
        self._all_written.clear()
        self._news.set()

    async def _write_next(self) -> None:
        people = self._participants
        is_report = bool(self._reports)
        report = self._reports[0] if is_report else _Report(self.state, "participants", "")

        def advanced(bot: Bot) -> Bot | None:
            return bot.advanced(
                report.state,
                at=datetime.now(UTC),
                reason=report.reason,
                sub_code=report.sub_code,
                participants=people,
            )

        await self._change(advanced)
        self._written = people
        # Another may have come while this was written.
        if is_report:
            self._reports.popleft()

    async def _change(self, change: Callable[[Bot], Bot | None]) -> None:
        is_ours = False

        def if_ours(bot: Bot) -> Bot | None:
            nonlocal is_ours
            is_ours = bot.attempt == self._attempt and not bot.is_final
            return change(bot) if is_ours else None

        async def changed() -> None:
            if await self._bots.change(self._bot_id, if_ours) is None and (bot := await self._bots.load(self._bot_id)):
                # It stood already: of a try that failed at publishing.
                await self._bots.publish(bot)

        await insisted(changed)
        if not is_ours:
            raise ReplacedError(f"attempt {self._attempt} of bot {self._bot_id} is over")
