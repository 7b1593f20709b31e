"""The orchestrator: brings what its bots' processes do towards what is wanted of them, every second and when woken.

It holds a lease of its own; a bot whose owner has none is anybody's. Nothing is kept in memory that its successor would
miss: what is decided of a bot is written down before it is done, from what stood, and only by its owner. One that finds
its lease run out, for it was paused or the broker was away, is another orchestrator from then on, and owns nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from typing import Self

from streamtask import App, PublishError, TransportError
from streamtask_contrib.bot.decisions import (
    Action,
    Evict,
    Finish,
    Owner,
    Restart,
    Sight,
    Signal,
    Wait,
    decide,
    may_adopt,
)
from streamtask_contrib.bot.logs import Logs
from streamtask_contrib.bot.processes import PROGRAM, Processes
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.states import Bot, Eviction, ProcessIdentity
from streamtask_contrib.events import BotRequested
from streamtask_contrib.leases import Lease

log = logging.getLogger(__name__)

#: Seconds between two rounds, and between two in which something is under way.
_EVERY, _SOON = 1.0, 0.2
#: Seconds for which the last round may go on when the orchestrator is to end.
_LAST_ROUND = 4.0
#: Seconds between two looks at what is remembered, at most.
_HOUSEKEEPING = 3600.0
_START_OF_TIME = datetime.min.replace(tzinfo=UTC)

#: Sees to it that the session of a bot has a last chunk.
CloseSession = Callable[[App, BotRequested, BotSettings], Awaitable[None]]


class _NotOursError(Exception):
    """The lease has run out in the middle of a round: what was read may be another's by now."""


class Orchestrator(AbstractAsyncContextManager["Orchestrator"]):
    """Looks after bots while the `async with` lasts. The app has to be connected. The bots go on living after it."""

    def __init__(
        self,
        app: App,
        settings: BotSettings,
        *,
        close_session: CloseSession,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """`program`: what is started for a bot, with its arguments."""
        self._app = app
        self._settings = settings
        self._close_session = close_session
        self._program = program
        self._bots = Bots(app, kept=settings.kept)
        self._logs = Logs(app, kept=settings.kept)
        self._woken = asyncio.Event()
        self._is_ending = False
        self._is_new = True
        self._task: asyncio.Task[None] | None = None
        #: Since when each owner's lease has been missing, by the monotonic clock.
        self._missing: dict[str, float] = {}
        #: Bots that wait for room, and were said to.
        self._waiting: set[str] = set()
        #: Processes that have had their SIGTERM: it is a request, and not made twice.
        self._asked: set[tuple[str, int]] = set()
        self._reachable_since = _START_OF_TIME
        self._is_reachable = True
        self._tidy_at = 0.0

    async def __aenter__(self) -> Self:
        """Begin to look after bots."""
        address = await asyncio.to_thread(getattr, self._app, "address")
        self._processes = Processes(self._settings, address, program=self._program)
        self._become_another()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End in order: the round that goes on is done, and the bots are others' at once."""
        self._is_ending = True
        self.wake()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_LAST_ROUND)
            self._task.cancel()
            await asyncio.wait([self._task])
        with suppress(TransportError):
            await self._lease.release()

    def wake(self) -> None:
        """Something is wanted: do not wait for the next second."""
        self._woken.set()

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        while not self._is_ending:
            self._woken.clear()
            pause = await self._round()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), pause)

    async def _round(self) -> float:
        """Look after everything once; seconds until the next time."""
        try:
            is_busy = await self._look_after_all()
        except (TransportError, PublishError) as error:
            if self._is_reachable:
                log.warning("orchestrator.cut_off", extra={"orchestrator": self._id, "error": str(error)})
            self._is_reachable = False
            # Nobody could renew a lease meanwhile: none of them is missing.
            self._missing.clear()
        except _NotOursError:
            log.warning("orchestrator.late", extra={"orchestrator": self._id})
        except Exception:
            log.exception("orchestrator.round_failed", extra={"orchestrator": self._id})
        else:
            return _SOON if is_busy else _EVERY
        return _EVERY

    async def _look_after_all(self) -> bool:
        """One round; whether something is under way that will not take a second."""
        await self._hold()
        await asyncio.to_thread(self._processes.reap)
        living = await self._bots.living()
        known = {bot.bot_id: bot for bot in living}
        known |= {bot.bot_id: bot for bot in await self._adopt(living)}
        mine = [bot for bot in known.values() if bot.owner == self._id and not bot.is_final]
        sights = await self._look(mine)
        busy = [await self._attend(bot, *sights[bot.bot_id]) for bot in mine]
        requested = [bot for bot in living if bot.state == "requested" and not bot.owner]
        busy += [await self._start_requested(requested, running=len(mine))]
        await self._keep_house(living)
        return any(busy)

    async def _hold(self) -> None:
        """Hold the lease for longer. Where it has run out, go on as another."""
        facts = {"place": self._processes.here.encode()}
        if self._is_new:
            self._is_new = not await self._lease.take(facts)
        elif not self._lease.remaining or not await self._lease.renew(facts):
            self._become_another()
            self._is_new = not await self._lease.take(facts)
        if not self._is_reachable:
            self._is_reachable, self._reachable_since = True, datetime.now(UTC)
            log.info("orchestrator.back", extra={"orchestrator": self._id})

    def _become_another(self) -> None:
        self._id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._lease = Lease(self._app.records, _lease_of(self._id), self._id, ttl=self._settings.orchestrator_ttl)
        self._is_new = True
        self._asked.clear()
        log.info("orchestrator.begins", extra={"orchestrator": self._id})

    async def _check(self) -> None:
        """Before something is done to a process: what was read still holds, for we have been here all the time."""
        if self._lease.remaining < self._settings.orchestrator_ttl / 2 and (
            not self._lease.remaining or not await self._lease.renew()
        ):
            raise _NotOursError

    # ── whose ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _adopt(self, living: Sequence[Bot]) -> list[Bot]:
        """Take over whom nobody looks after, and publish what has been left behind; the bots that are ours by it."""
        owners = {name: await self._owner(name) for name in {bot.owner for bot in living} - {"", self._id}}
        now = time.monotonic()
        self._missing = {name: self._missing.get(name, now) for name, owner in owners.items() if owner is None}
        room = self._settings.max_bots - sum(bot.owner == self._id for bot in living)
        adopted: list[Bot] = []
        for bot in living:
            is_left = not bot.owner or bot.owner in self._missing
            if bot.is_final or bot.state == "requested":
                if is_left and (bot.unpublished or bot.is_final):
                    await self._bots.publish(bot)
                continue
            if bot.owner in owners and self._may_adopt(bot, owners[bot.owner], room=room - len(adopted)):
                changed = await self._bots.change(bot.bot_id, self._adoption(bot))
                if changed is not None:
                    log.info("bot.adopted", extra={"bot_id": bot.bot_id, "from": bot.owner, "orchestrator": self._id})
                    adopted.append(changed)
        return adopted

    def _may_adopt(self, bot: Bot, owner: Owner | None, *, room: int) -> bool:
        here = self._processes.here
        missing_for = time.monotonic() - self._missing.get(bot.owner, time.monotonic())
        # What runs here takes its room here, whoever looks after it; what has to be ended takes none.
        is_here = bot.process is not None and bot.process.place == here
        fits = is_here or room > 0 or bot.desired == "stopped"
        return fits and may_adopt(
            bot, owner, here=here, missing_for=missing_for, grace=self._settings.orchestrator_ttl / 2
        )

    def _adoption(self, bot: Bot) -> Callable[[Bot], Bot | None]:
        return lambda standing: standing.with_(owner=self._id) if standing.owner == bot.owner else None

    async def _owner(self, name: str) -> Owner | None:
        fields = await self._app.records.read(_lease_of(name))
        return Owner(place=fields.get("place", b"").decode()) if fields else None

    def _ours(self, bot: Bot, change: Callable[[Bot], Bot | None]) -> Callable[[Bot], Bot | None]:
        """A change that is made only while the bot is ours, and has had no other process since it was read."""
        return lambda standing: (
            change(standing)
            if standing.owner == self._id and standing.attempt == bot.attempt and not standing.is_final
            else None
        )

    # ── what is ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self, bots: Sequence[Bot]) -> dict[str, tuple[Sight, ProcessIdentity | None]]:
        """What can be seen of each bot's process."""
        here = self._processes.here
        near = [bot for bot in bots if bot.process is None or bot.process.place == here]
        sights = await asyncio.to_thread(self._processes.look, near) if near else {}
        for bot in bots:
            if bot.bot_id not in sights:
                sights[bot.bot_id] = (await self._from_afar(bot), bot.process)
        return sights

    async def _from_afar(self, bot: Bot) -> Sight:
        """A process elsewhere may live while it holds its lease, or may not have taken it yet."""
        if await self._app.records.read(_lease_of_bot(bot.bot_id)):
            return "unseen"
        began = bot.attempt_at or _START_OF_TIME
        is_beginning = (datetime.now(UTC) - began).total_seconds() < self._settings.start_timeout
        return "unseen" if bot.state == "starting" and is_beginning else "gone"

    # ── what is done ──────────────────────────────────────────────────────────────────────────────────────────

    async def _attend(self, bot: Bot, sight: Sight, process: ProcessIdentity | None) -> bool:
        """Do for one of our bots what is to be done now; whether something is under way. Trouble of one is its own."""
        try:
            if bot.process is None and process is not None:
                # Its orchestrator died, or lost the broker, before it had written down which it is.
                bot = await self._bots.change(bot.bot_id, self._recorded(bot, process)) or bot
            if bot.unpublished:
                bot = await self._bots.publish(bot)
            if bot.process is not None and bot.process.place == self._processes.here:
                await self._logs.follow(bot, is_over=sight == "gone")
            action = decide(
                bot, sight, now=datetime.now(UTC), reachable_since=self._reachable_since, settings=self._settings
            )
            await self._carry_out(bot, action)
        except (TransportError, _NotOursError):
            raise
        except Exception:
            log.exception("bot.unattended", extra={"bot_id": bot.bot_id})
            return False
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
        await self._bots.change(bot.bot_id, self._ours(bot, lambda standing: standing.with_(eviction=eviction)))

    async def _signal(self, bot: Bot, number: signal.Signals) -> None:
        if number == signal.SIGTERM:
            if (bot.bot_id, bot.attempt) in self._asked:
                return
            self._asked.add((bot.bot_id, bot.attempt))
        await self._check()
        log.warning("bot.signalled", extra={"bot_id": bot.bot_id, "attempt": bot.attempt, "signal": number.name})
        await asyncio.to_thread(self._processes.signal, bot, number)

    async def _restart(self, bot: Bot, action: Restart) -> None:
        """Start the next process of a bot whose last one is gone."""

        def restarted(standing: Bot) -> Bot | None:
            if standing.desired == "stopped":
                return None
            return self._starting(standing, reason=action.reason, sub_code=action.sub_code)

        log.warning("bot.lost", extra={"bot_id": bot.bot_id, "attempt": bot.attempt, "reason": action.reason})
        await self._free_lease(bot)
        await self._spawn(await self._bots.change(bot.bot_id, self._ours(bot, restarted)))

    async def _start_requested(self, requested: Sequence[Bot], *, running: int) -> bool:
        """Start bots that wait, the oldest first, for as many as there is room; whether one was started or ended."""
        self._waiting &= {bot.bot_id for bot in requested}
        is_busy = False
        for bot in requested:
            if bot.desired == "stopped":
                await self._bots.change(bot.bot_id, _before_start)
            elif running < self._settings.max_bots and self._is_load_bearable():
                claimed = await self._bots.change(bot.bot_id, self._claim)
                running += claimed is not None
                await self._spawn(claimed)
            elif bot.bot_id not in self._waiting:
                self._waiting.add(bot.bot_id)
                log.warning("bot.waits", extra={"bot_id": bot.bot_id, "running": running})
                continue
            else:
                continue
            is_busy = True
        return is_busy

    def _claim(self, standing: Bot) -> Bot | None:
        if standing.state != "requested" or standing.owner or standing.desired == "stopped":
            return None
        return self._starting(standing.with_(owner=self._id), reason=standing.reason)

    @staticmethod
    def _starting(bot: Bot, *, reason: str, sub_code: str = "") -> Bot | None:
        now = datetime.now(UTC)
        next_one = bot.with_(attempt=bot.attempt + 1, attempt_at=now, process=None, ending=None)
        return next_one.advanced("starting", at=now, reason=reason, sub_code=sub_code, participants=())

    async def _spawn(self, bot: Bot | None) -> None:
        """Start the process of a bot that is ours and starting; None: it is not, another was faster."""
        if bot is None:
            return
        await self._check()
        try:
            process = await asyncio.to_thread(self._processes.start, bot.bot_id, bot.attempt)
        except OSError as error:
            # Seen in the next round as a process that is gone.
            log.error("bot.not_started", extra={"bot_id": bot.bot_id, "error": str(error)})  # noqa: TRY400
            return
        log.info("bot.started", extra={"bot_id": bot.bot_id, "attempt": bot.attempt, "bot_pid": process.pid})
        await self._bots.change(bot.bot_id, self._recorded(bot, process))

    def _recorded(self, bot: Bot, process: ProcessIdentity) -> Callable[[Bot], Bot | None]:
        return self._ours(bot, lambda standing: standing.with_(process=process))

    async def _finish(self, bot: Bot, action: Finish) -> None:
        """Write down the end of a bot of which nothing is left."""
        await self._free_lease(bot)
        if bot.request is not None:
            try:
                await self._close_session(self._app, bot.request, self._settings)
            except (TransportError, PublishError):
                raise
            except Exception:
                log.exception("bot.session_left_open", extra={"bot_id": bot.bot_id})
        await asyncio.to_thread(self._processes.tidy, bot)
        finished = self._ours(
            bot,
            lambda standing: standing.advanced(
                action.state, at=datetime.now(UTC), reason=action.reason, sub_code=action.sub_code
            ),
        )
        log.info("bot.ended", extra={"bot_id": bot.bot_id, "state": action.state, "reason": action.reason})
        await self._bots.change(bot.bot_id, finished)

    async def _free_lease(self, bot: Bot) -> None:
        """Let go of the lease that a dead process has left, so that the next one need not wait until it runs out."""
        key = _lease_of_bot(bot.bot_id)
        holder = await Lease(self._app.records, key, "", ttl=self._settings.lease_ttl).holder()
        if holder is not None and holder.startswith(f"{bot.bot_id}:{bot.attempt}:"):
            await Lease(self._app.records, key, holder, ttl=self._settings.lease_ttl).release()

    # ── beside it ─────────────────────────────────────────────────────────────────────────────────────────────

    def _is_load_bearable(self) -> bool:
        limit = self._settings.max_load
        return not limit or os.getloadavg()[0] / (os.cpu_count() or 1) <= limit

    async def _keep_house(self, living: Collection[Bot]) -> None:
        """Now and then: what lives is to be remembered, and what is long over to be forgotten."""
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + min(_HOUSEKEEPING, self._settings.kept / 4)
        await self._bots.keep(living)
        await self._bots.forget()
        names = {bot.bot_id for bot in living}
        await asyncio.to_thread(self._processes.sweep, names, older_than=self._settings.kept)


def _before_start(standing: Bot) -> Bot | None:
    """The end of a bot that waited to be started, and was asked to stop meanwhile."""
    if standing.state != "requested" or standing.owner:
        return None
    return standing.advanced("stopped", at=datetime.now(UTC), reason=standing.stop_reason, sub_code="before_start")


def _lease_of(orchestrator: str) -> str:
    return f"bot-orchestrator-{orchestrator}"


def _lease_of_bot(bot_id: str) -> str:
    return f"bot-lease-{bot_id}"
