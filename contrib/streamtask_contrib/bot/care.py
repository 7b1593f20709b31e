"""What an orchestrator does for one bot: it looks at its process, decides, writes down what it has decided, does it.

In this order, so that its successor goes on with what was begun, whenever it dies.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from streamtask import App, EventRefusedError, PublishError, TransportError
from streamtask_contrib.bot.decisions import Action, Evict, Finish, Restart, Sight, Signal, Wait, decide
from streamtask_contrib.bot.logs import Logs
from streamtask_contrib.bot.processes import Processes
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.states import Bot, Eviction, ProcessIdentity
from streamtask_contrib.bot.tenure import LateError, Tenure
from streamtask_contrib.events import BotRequested
from streamtask_contrib.leases import Lease

log = logging.getLogger(__name__)

_START_OF_TIME = datetime.min.replace(tzinfo=UTC)

#: Sees to it that the session of a bot has a last chunk.
CloseSession = Callable[[App, BotRequested, BotSettings], Awaitable[None]]


class Care:
    """Looks after bots one by one. Whose they are is for its orchestrator to know."""

    def __init__(
        self,
        app: App,
        settings: BotSettings,
        *,
        bots: Bots,
        processes: Processes,
        tenure: Tenure,
        close_session: CloseSession,
    ) -> None:
        self._app = app
        self._settings = settings
        self._bots = bots
        self._processes = processes
        self._tenure = tenure
        self._close_session = close_session
        self._logs = Logs(app, kept=settings.kept)
        #: Processes that have had their SIGTERM from us: it is a request, and not made twice.
        self._asked: set[int] = set()
        #: Since when the broker has been there; no time limit of a bot counts what was before.
        self.reachable_since = _START_OF_TIME

    async def attend(self, bots: Sequence[Bot]) -> bool:
        """Do for bots of ours what is to be done now; whether something is under way. Trouble of one is its own.

        Raises `TransportError`, `PublishError` and `LateError`: nothing can be done for any of them.
        """
        sights = await self._look(bots)
        self._asked &= {bot.process.pid for bot in bots if bot.process is not None}
        is_busy = False
        for bot in bots:
            try:
                is_busy |= await self._attend(bot, *sights[bot.bot_id])
            except EventRefusedError as error:
                log.error("bot.status_refused", extra={"bot_id": bot.bot_id, "error": str(error)})  # noqa: TRY400
            except (TransportError, PublishError, LateError):
                raise
            except Exception:
                log.exception("bot.unattended", extra={"bot_id": bot.bot_id})
        return is_busy

    async def start(self, bot: Bot) -> None:
        """Start the process of a bot that is ours, and starting."""
        await self._tenure.check()
        try:
            process = await asyncio.to_thread(self._processes.start, bot.bot_id, bot.attempt)
        except OSError as error:
            # The next round sees a process that is gone.
            log.error("bot.not_started", extra={"bot_id": bot.bot_id, "error": str(error)})  # noqa: TRY400
            return
        log.info("bot.started", extra={"bot_id": bot.bot_id, "attempt": bot.attempt, "bot_pid": process.pid})
        await self._bots.change(bot.bot_id, self._recorded(bot, process))

    # ── what is ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self, bots: Sequence[Bot]) -> dict[str, tuple[Sight, ProcessIdentity | None]]:
        """What can be seen of each bot's process."""
        here = self._processes.here
        near = [bot for bot in bots if bot.process is None or bot.process.place == here]
        sights = await asyncio.to_thread(self._processes.look, near)
        for bot in bots:
            if bot.bot_id not in sights:
                sights[bot.bot_id] = (await self._from_afar(bot), bot.process)
        return sights

    async def _from_afar(self, bot: Bot) -> Sight:
        """A process elsewhere may live while it holds its lease, or may not have taken it yet."""
        if await self._app.records.read(_lease_key(bot)):
            return "unseen"
        began = bot.attempt_at or _START_OF_TIME
        is_beginning = (datetime.now(UTC) - began).total_seconds() < self._settings.start_timeout
        return "unseen" if bot.state == "starting" and is_beginning else "gone"

    # ── what is done ──────────────────────────────────────────────────────────────────────────────────────────

    async def _attend(self, bot: Bot, sight: Sight, process: ProcessIdentity | None) -> bool:
        if bot.process is None and process is not None:
            # Its orchestrator died, or lost the broker, before it had written down which it is.
            bot = await self._bots.change(bot.bot_id, self._recorded(bot, process)) or bot
        if bot.process is not None and bot.process.place == self._processes.here:
            await self._logs.follow(bot, is_over=sight == "gone")
        action = decide(
            bot, sight, now=datetime.now(UTC), reachable_since=self.reachable_since, settings=self._settings
        )
        await self._carry_out(bot, action)
        # What its process has left. Only now: a status that cannot be published must not keep a bot from its end.
        await self._bots.publish(bot)
        return not isinstance(action, Wait)

    async def _carry_out(self, bot: Bot, action: Action) -> None:
        match action:
            case Evict():
                await self._evict(bot, action)
            case Signal():
                await self._signal(bot, action.number)
            case Restart():
                await self._restart(bot, action)
            case Finish():
                await self._finish(bot, action)
            case Wait():
                pass

    async def _evict(self, bot: Bot, action: Evict) -> None:
        eviction = Eviction(attempt=bot.attempt, at=datetime.now(UTC), reason=action.reason, may_retry=action.may_retry)
        log.warning("bot.evicted", extra={"bot_id": bot.bot_id, "attempt": bot.attempt, "reason": action.reason})
        await self._bots.change(bot.bot_id, self._tenure.ours(bot, lambda standing: standing.with_(eviction=eviction)))

    async def _signal(self, bot: Bot, number: signal.Signals) -> None:
        if number == signal.SIGTERM and bot.process is not None:
            if bot.process.pid in self._asked:
                return
            self._asked.add(bot.process.pid)
        await self._tenure.check()
        log.warning("bot.signalled", extra={"bot_id": bot.bot_id, "attempt": bot.attempt, "signal": number.name})
        await asyncio.to_thread(self._processes.signal, bot, number)

    async def _restart(self, bot: Bot, action: Restart) -> None:
        """Start the next process of a bot whose last one is gone."""

        def restarted(standing: Bot) -> Bot | None:
            if standing.desired == "stopped":
                return None
            return starting(standing, reason=action.reason, sub_code=action.sub_code)

        log.warning("bot.lost", extra={"bot_id": bot.bot_id, "attempt": bot.attempt, "reason": action.reason})
        await self._free_lease(bot)
        changed = await self._bots.change(bot.bot_id, self._tenure.ours(bot, restarted))
        if changed is not None:
            await self.start(changed)

    async def _finish(self, bot: Bot, action: Finish) -> None:
        """Write down the end of a bot of which nothing is left."""

        def finished(standing: Bot) -> Bot | None:
            return standing.advanced(action.state, at=datetime.now(UTC), reason=action.reason, sub_code=action.sub_code)

        await self._free_lease(bot)
        await self._end_session(bot)
        await asyncio.to_thread(self._processes.tidy, bot)
        log.info("bot.ended", extra={"bot_id": bot.bot_id, "state": action.state, "reason": action.reason})
        await self._bots.change(bot.bot_id, self._tenure.ours(bot, finished))

    async def _end_session(self, bot: Bot) -> None:
        """Give its session the last chunk, unless it has one. Whoever waits for the transcript waits for that."""
        if bot.request is None:
            return
        try:
            await self._close_session(self._app, bot.request, self._settings)
        except (TransportError, PublishError):
            raise
        except Exception:
            # The bot has ended all the same, and that has to be told.
            log.exception("bot.session_left_open", extra={"bot_id": bot.bot_id})

    async def _free_lease(self, bot: Bot) -> None:
        """Let go of the lease that a dead process has left, so that the next one need not wait until it runs out."""
        ttl = self._settings.lease_ttl
        holder = await Lease(self._app.records, _lease_key(bot), "", ttl=ttl).holder()
        if holder is not None and holder.startswith(f"{bot.bot_id}:{bot.attempt}:"):
            await Lease(self._app.records, _lease_key(bot), holder, ttl=ttl).release()

    def _recorded(self, bot: Bot, process: ProcessIdentity) -> Callable[[Bot], Bot | None]:
        return self._tenure.ours(bot, lambda standing: standing.with_(process=process))


def starting(bot: Bot, *, reason: str, sub_code: str = "") -> Bot | None:
    """The bot with its next process on the way."""
    now = datetime.now(UTC)
    next_one = bot.with_(attempt=bot.attempt + 1, attempt_at=now, process=None, ending=None)
    return next_one.advanced("starting", at=now, reason=reason, sub_code=sub_code, participants=())


def _lease_key(bot: Bot) -> str:
    return f"bot-lease-{bot.bot_id}"
