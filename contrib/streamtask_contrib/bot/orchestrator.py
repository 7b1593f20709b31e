"""The orchestrator: brings what its bots' processes do towards what is wanted of them, every second and when woken.

A bot whose owner has no lease any more is anybody's. Nothing is kept in memory that a successor would miss: what is
decided of a bot is written down before it is done, from what stood, and only by its owner.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from typing import Self

from streamtask import App, PublishError, TransportError
from streamtask_contrib.bot.care import Care, CloseSession, starting
from streamtask_contrib.bot.decisions import Owner, may_adopt
from streamtask_contrib.bot.processes import PROGRAM, Processes
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.bot.tenure import LateError, Tenure

log = logging.getLogger(__name__)

#: Seconds between two rounds, and between two in which something is under way; and rounds in the time of the lease, at
#: least.
_EVERY, _SOON, _RENEWALS = 1.0, 0.2, 4
#: Seconds for which the last round may go on when the orchestrator is to end.
_LAST_ROUND = 4.0
#: Seconds between two looks at what is remembered, at most.
_HOUSEKEEPING = 3600.0


class Orchestrator(AbstractAsyncContextManager["Orchestrator"]):
    """Looks after bots while the `async with` lasts. The app has to be connected. The bots go on living after it."""

    def __init__(
        self, app: App, settings: BotSettings, *, close_session: CloseSession, program: Sequence[str] = PROGRAM
    ) -> None:
        """`program`: what is started for a bot, with its arguments."""
        self._app = app
        self._settings = settings
        self._close_session = close_session
        self._program = program
        self._bots = Bots(app, kept=settings.kept)
        self._woken = asyncio.Event()
        self._every = min(_EVERY, settings.orchestrator_ttl / _RENEWALS)
        self._is_ending = False
        self._is_reachable = True
        #: Since when each owner's lease has been missing, by the monotonic clock.
        self._missing: dict[str, float] = {}
        #: Bots that wait for room, and were said to.
        self._waiting: set[str] = set()
        self._tidy_at = 0.0

    async def __aenter__(self) -> Self:
        """Begin to look after bots."""
        address = await asyncio.to_thread(getattr, self._app, "address")
        self._processes = Processes(self._settings, address, program=self._program)
        self._tenure = Tenure(self._app, place=self._processes.here, ttl=self._settings.orchestrator_ttl)
        self._care = Care(
            self._app,
            self._settings,
            bots=self._bots,
            processes=self._processes,
            tenure=self._tenure,
            close_session=self._close_session,
        )
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End in order: the round that goes on is done, and the bots are others' at once."""
        self._is_ending = True
        self.wake()
        await asyncio.wait([self._task], timeout=_LAST_ROUND)
        self._task.cancel()
        await asyncio.wait([self._task])
        with suppress(TransportError):
            await self._tenure.end()

    def wake(self) -> None:
        """Something is wanted: do not wait for the next second."""
        self._woken.set()

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        while not self._is_ending:
            self._woken.clear()
            pause = await self._round()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _round(self) -> float:
        """Look after everything once; seconds until the next time."""
        try:
            return _SOON if await self._look_after_all() else self._every
        except (TransportError, PublishError) as error:
            if self._is_reachable:
                log.warning("orchestrator.cut_off", extra={"orchestrator": self._tenure.name, "error": str(error)})
            self._is_reachable = False
            # Nobody could renew a lease meanwhile: none of them is missing.
            self._missing.clear()
        except LateError:
            log.warning("orchestrator.late", extra={"orchestrator": self._tenure.name})
        except Exception:
            log.exception("orchestrator.round_failed", extra={"orchestrator": self._tenure.name})
        return self._every

    async def _look_after_all(self) -> bool:
        """One round; whether something is under way that will not take a second."""
        await self._tenure.hold()
        if not self._is_reachable:
            self._is_reachable, self._care.reachable_since = True, datetime.now(UTC)
            log.info("orchestrator.back", extra={"orchestrator": self._tenure.name})
        await asyncio.to_thread(self._processes.reap)
        living = await self._bots.living()
        adopted = await self._adopt(living)
        mine = [bot for bot in living if self._is_mine(bot)] + adopted
        is_busy = await self._care.attend(mine)
        requested = [bot for bot in living if bot.state == "requested"]
        is_busy |= await self._start_requested(requested, running=len(mine))
        await self._keep_house(living)
        return is_busy

    # ── whose ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_mine(self, bot: Bot) -> bool:
        return bot.owner == self._tenure.name and not bot.is_final

    async def _adopt(self, living: Sequence[Bot]) -> list[Bot]:
        """Take over whom nobody looks after, and publish what was left behind; the bots that are ours by it."""
        names = {bot.owner for bot in living} - {"", self._tenure.name}
        owners = {name: await self._tenure.other(name) for name in names}
        now = time.monotonic()
        self._missing = {name: self._missing.get(name, now) for name, owner in owners.items() if owner is None}
        room = self._settings.max_bots - sum(map(self._is_mine, living))
        adopted: list[Bot] = []
        for bot in living:
            if bot.is_final or bot.state == "requested":
                if owners.get(bot.owner) is None:
                    await self._bots.publish(bot)
            elif bot.owner in owners and self._may_adopt(bot, owners[bot.owner], room=room - len(adopted)):
                changed = await self._bots.change(bot.bot_id, self._adoption(bot))
                if changed is not None:
                    log.info("bot.adopted", extra={"bot_id": bot.bot_id, "from": bot.owner, "by": changed.owner})
                    adopted.append(changed)
        return adopted

    def _may_adopt(self, bot: Bot, owner: Owner | None, *, room: int) -> bool:
        here = self._processes.here
        # What runs here takes its room here, whoever looks after it; what has to be ended takes none.
        is_here = bot.process is not None and bot.process.place == here
        if not (is_here or room > 0 or bot.desired == "stopped"):
            return False
        now = time.monotonic()
        missing_for = now - self._missing.get(bot.owner, now)
        return may_adopt(bot, owner, here=here, missing_for=missing_for, grace=self._settings.orchestrator_ttl / 2)

    def _adoption(self, bot: Bot) -> Callable[[Bot], Bot | None]:
        def adopted(standing: Bot) -> Bot | None:
            if standing.owner != bot.owner or standing.is_final:
                return None
            return standing.with_(owner=self._tenure.name)

        return adopted

    # ── who comes next ────────────────────────────────────────────────────────────────────────────────────────

    async def _start_requested(self, requested: Sequence[Bot], *, running: int) -> bool:
        """Start bots that wait, the oldest first, for as many as there is room; whether one was started or ended."""
        self._waiting &= {bot.bot_id for bot in requested}
        is_busy = False
        for bot in requested:
            if bot.desired == "stopped":
                await self._bots.change(bot.bot_id, _ended_before_start)
                is_busy = True
            elif running < self._settings.max_bots and self._is_load_bearable():
                claimed = await self._bots.change(bot.bot_id, self._claim)
                if claimed is not None:
                    running += 1
                    await self._care.start(claimed)
                    is_busy = True
            elif bot.bot_id not in self._waiting:
                self._waiting.add(bot.bot_id)
                log.warning("bot.waits", extra={"bot_id": bot.bot_id, "running": running})
        return is_busy

    def _claim(self, standing: Bot) -> Bot | None:
        if standing.state != "requested" or standing.desired == "stopped":
            return None
        return starting(standing.with_(owner=self._tenure.name), reason=standing.reason)

    def _is_load_bearable(self) -> bool:
        limit = self._settings.max_load
        return not limit or os.getloadavg()[0] / (os.cpu_count() or 1) <= limit

    # ── what is remembered ────────────────────────────────────────────────────────────────────────────────────

    async def _keep_house(self, living: Collection[Bot]) -> None:
        """Now and then: what lives is to be remembered, and what is long over to be forgotten."""
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + min(_HOUSEKEEPING, self._settings.kept / 4)
        await self._bots.keep(living)
        await self._bots.forget()
        names = {bot.bot_id for bot in living}
        await asyncio.to_thread(self._processes.sweep, names, older_than=self._settings.kept)


def _ended_before_start(standing: Bot) -> Bot | None:
    """The end of a bot that was asked to leave while it waited to be started."""
    if standing.state != "requested":
        return None
    return standing.advanced("stopped", at=datetime.now(UTC), reason=standing.stop_reason, sub_code="before_start")
