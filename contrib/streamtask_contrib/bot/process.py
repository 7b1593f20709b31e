"""The process of one bot: `python -m streamtask_contrib.bot.process`, started by an orchestrator.

    STREAMTASK_BOT_ID, STREAMTASK_BOT_ATTEMPT   which bot, and the how manieth process of it this is
    STREAMTASK_BOT_BROKER                       may have a password in it, and so is no argument
    STREAMTASK_BOT_FOLDER                       an empty folder, for whatever the driver needs

It waits for the lease of its bot, joins the meeting, and is there until one of these wants it to go: the bot's desired
state, SIGTERM, the meeting, the time limits, a fault. Then it leaves as a person does, says how it wants to be
remembered (`Ending`), and gives its session the last chunk. Each step has its limit, for the orchestrator has one, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from streamtask import App, ConfigurationError, TransportError
from streamtask_contrib.bot.attendance import Attendance, BehindError
from streamtask_contrib.bot.drivers.port import Ended, JoinError
from streamtask_contrib.bot.lifeline import Lifeline, kill_group
from streamtask_contrib.bot.logbook import Secrets, configure
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.reporting import ReplacedError, Reporter, insisted
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.states import Bot, Ending
from streamtask_contrib.capture.register import SessionTakenError
from streamtask_contrib.capture.tracks import SessionEndedError, Tracks, tracks_of
from streamtask_contrib.leases import Lease
from streamtask_contrib.settings import blob_stores, from_environment

#: Not by `__name__`, which is "__main__" here.
log = logging.getLogger("streamtask_contrib.bot.process")

#: Exit codes: it has said how it ended; something is wrong; there is nothing to do for it; it was told to end, no more.
IN_ORDER, FAULT, NOT_WANTED, TERMINATED = 0, 1, 3, 4

#: Seconds between two looks at what is wanted.
_POLL = 0.5
#: Seconds that the lease of one who has died may still stand, beyond its time.
_GRACE = 2.0
#: Seconds that leaving, what is still told meanwhile, closing, and each of the last writes may take; and leaving where
#: SIGTERM has come.
_LEAVE, _LAST_HEARD, _CLOSE, _WRITE, _LEAVE_AT_ONCE = 4.0, 1.0, 3.0, 5.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What the environment says of this process."""

    bot_id: str
    attempt: int
    broker: str
    folder: Path

    @classmethod
    def from_environment(cls) -> Self:
        """As the orchestrator has set it. Raises `ConfigurationError`."""
        try:
            return cls(
                bot_id=os.environ["STREAMTASK_BOT_ID"],
                attempt=int(os.environ["STREAMTASK_BOT_ATTEMPT"]),
                broker=os.environ["STREAMTASK_BOT_BROKER"],
                folder=Path(os.environ["STREAMTASK_BOT_FOLDER"]),
            )
        except (KeyError, ValueError) as error:
            raise ConfigurationError(
                f"this process is started by an orchestrator, with its environment: {error}"
            ) from None


class BotProcess:
    """One process of one bot, from the lease to the ending."""

    def __init__(self, app: App, assignment: Assignment, settings: BotSettings, struck: Secrets) -> None:
        self._app = app
        self._assignment = assignment
        self._settings = settings
        self._struck = struck
        self._bots = Bots(app, kept=settings.kept)
        holder = f"{assignment.bot_id}:{assignment.attempt}:{secrets.token_hex(8)}"
        lease = Lease(app.records, f"bot-lease-{assignment.bot_id}", holder, ttl=settings.lease_ttl)
        self._lifeline = Lifeline(lease, ttl=settings.lease_ttl)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_hurried = False
        #: Why it goes: the first that says so is believed. None: without an ending.
        self._cause: asyncio.Future[Ending | None] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """Be the bot. Returns the exit code."""
        if await self._wanted() is None:
            return NOT_WANTED
        if not await self._lifeline.take(within=self._settings.lease_ttl + _GRACE):
            log.error("bot.lease_is_anothers", extra={"meaning": "another process is this bot, and goes on"})
            return NOT_WANTED
        # Somebody may have been it meanwhile, and have ended.
        bot = await self._wanted()
        if bot is None or bot.request is None:
            await self._lifeline.release()
            return NOT_WANTED
        reporter = Reporter(self._bots, bot.bot_id, attempt=bot.attempt, state=bot.state or "starting")
        try:
            tracks = tracks_of(self._app, bot.request, self._settings, guard=self._lifeline.check)
        except ValueError as error:
            log.error("bot.wrong_request", extra={"error": str(error)})  # noqa: TRY400 - the message says it all
            await reporter.write_ending(Ending(state="failed", reason="wrong_request"))
            await self._lifeline.release()
            return IN_ORDER
        attendance = Attendance(
            bot.request, settings=self._settings, tracks=tracks, reporter=reporter, secrets=self._struck
        )
        return await self._run(reporter, tracks, attendance)

    async def _wanted(self) -> Bot | None:
        """The bot, if it is this process' to be."""
        bot = await insisted(lambda: self._bots.load(self._assignment.bot_id))
        if bot is not None and bot.attempt == self._assignment.attempt and not bot.is_final and bot.ending is None:
            return bot
        state, attempt = (None, None) if bot is None else (bot.state, bot.attempt)
        log.error("bot.not_ours", extra={"state": state, "attempt": attempt, "ours": self._assignment.attempt})
        return None

    async def _run(self, reporter: Reporter, tracks: Tracks, attendance: Attendance) -> int:
        def facts() -> dict[str, bytes]:
            heard = attendance.last_audio
            return {
                "at": datetime.now(UTC).isoformat().encode(),
                "last_audio": b"" if heard is None else heard.isoformat().encode(),
                "chunks": str(tracks.sequence).encode(),
                "state": reporter.state.encode(),
            }

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: self._start(self._terminated()))
        self._start(self._lifeline.renew(facts))
        self._start(reporter.run())
        self._start(self._watch())
        self._start(attendance.deliver())
        self._start(self._until_time_to_go(attendance))
        attending = self._start(self._attend(attendance))
        ending = await self._cause
        log.info("bot.leaves", extra={"ending": None if ending is None else ending.model_dump()})
        if ending is not None and ending.state == "stopped":
            reporter.tell("leaving", reason=ending.reason, sub_code=ending.sub_code)
        is_clean = await self._leave(attendance, attending)
        code = await self._end(ending, reporter, tracks)
        await self._cancel_all()
        await self._lifeline.release()
        log.info("bot.ended", extra={"code": code, "chunks": tracks.sequence})
        if not is_clean:
            # The driver has left something running; what had to be written is.
            kill_group()
        return code

    # ── what makes it go ──────────────────────────────────────────────────────────────────────────────────────

    async def _attend(self, attendance: Attendance) -> None:
        ended: Ended = await attendance.attend(self._assignment.folder)
        state: Literal["stopped", "failed"] = "failed" if ended.is_fault else "stopped"
        self._go(Ending(state=state, reason=ended.reason, sub_code=ended.sub_code, may_retry=ended.is_fault))

    async def _until_time_to_go(self, attendance: Attendance) -> None:
        self._go(Ending(state="stopped", reason=await attendance.look()))

    async def _watch(self) -> None:
        """Look whether it is still wanted, and still this process."""
        while True:
            with suppress(TransportError):
                bot = await self._bots.load(self._assignment.bot_id)
                if bot is None or bot.attempt != self._assignment.attempt or bot.is_final:
                    raise ReplacedError("the bot goes on without this process")
                if bot.desired == "stopped":
                    self._go(Ending(state="stopped", reason=bot.stop_reason))
            await asyncio.sleep(_POLL)

    async def _terminated(self) -> None:
        """SIGTERM: for a stop that takes too long, or to start the bot again; then this is no ending of the bot."""
        log.warning("bot.terminated")
        self._is_hurried = True
        bot = None
        with suppress(TransportError, TimeoutError):
            async with asyncio.timeout(_LEAVE_AT_ONCE):
                bot = await self._bots.load(self._assignment.bot_id)
        is_stopped = bot is not None and bot.desired == "stopped"
        self._go(Ending(state="stopped", reason=bot.stop_reason) if bot and is_stopped else None)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if self._cause.done():
            log.warning("bot.late_error", exc_info=error)
            return
        self._go(ending_of(error))

    def _go(self, ending: Ending | None) -> None:
        if self._cause.done():
            return
        if ending is not None:
            # A driver has chosen the words, and they become a status.
            told = {"reason": self._struck.strike(ending.reason), "sub_code": self._struck.strike(ending.sub_code)}
            ending = ending.model_copy(update=told)
        self._cause.set_result(ending)

    # ── going ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _leave(self, attendance: Attendance, attending: asyncio.Task[None]) -> bool:
        """Leave the meeting, and hear what was said until then; whether nothing of the driver is left."""
        attendance.goes()
        driver = attendance.driver
        limit = _LEAVE_AT_ONCE if self._is_hurried else _LEAVE
        is_there = driver is not None and attendance.is_joined and not attending.done()
        if driver is not None and is_there and await _bounded("leave", driver.leave(), limit):
            await asyncio.wait([attending], timeout=_LAST_HEARD)
        attending.cancel()
        await asyncio.wait([attending], timeout=_LAST_HEARD)
        return driver is None or await _bounded("close", driver.close(), _CLOSE)

    async def _end(self, ending: Ending | None, reporter: Reporter, tracks: Tracks) -> int:
        """Write down how it ends, and what was heard last."""
        goes_on = ending is None or (ending.may_retry and self._assignment.attempt < self._settings.max_attempts)
        is_written = ending is None
        if ending is not None:
            is_written = await _bounded("report", reporter.written(), _WRITE) and await _bounded(
                "ending", reporter.write_ending(ending), _WRITE
            )
        is_complete = await _bounded("words", _send_rest(tracks, goes_on=goes_on), _WRITE)
        if not (is_written and is_complete):
            return FAULT
        return TERMINATED if ending is None else IN_ORDER

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_HEARD)


def ending_of(error: BaseException) -> Ending | None:
    """How a bot ends that something has happened to; None: it does not, only its process."""
    match error:
        case JoinError():
            log.error("bot.cannot_join", extra={"reason": error.reason, "error": str(error)})
            return Ending(state="failed", reason=error.reason, may_retry=error.may_retry)
        case ReplacedError():
            log.error("bot.replaced", extra={"error": str(error)})
            return None
        case SessionTakenError():
            log.error("bot.session_taken", extra={"error": str(error)})
            return Ending(state="failed", reason="session_taken")
        case SessionEndedError():
            return Ending(state="stopped", reason="session_ended")
        case BehindError():
            log.error("bot.behind", extra={"error": str(error)})
            return Ending(state="failed", reason="storage_away", may_retry=True)
        case _:
            log.error("bot.fault", exc_info=error)
            return Ending(state="failed", reason="fault", sub_code=type(error).__name__, may_retry=True)


async def _send_rest(tracks: Tracks, *, goes_on: bool) -> None:
    """Send what was said last. `goes_on`: there may be more of the session, by another process."""
    tracks.flush()
    with suppress(SessionTakenError, SessionEndedError):
        await insisted(tracks.write if goes_on else tracks.end)


async def _bounded(name: str, work: Awaitable[object], limit: float) -> bool:
    """Whether it has worked, and within so many seconds. Its task is left behind where it does not even end then."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait([task], timeout=limit)
    if not done or task.cancelled():
        task.cancel()
        log.error("bot.takes_too_long", extra={"what": name, "limit": limit})
        return False
    if (error := task.exception()) is not None:
        log.error("bot.failed_to", extra={"what": name}, exc_info=error)
    return error is None


async def _run() -> int:
    struck = Secrets()
    configure(struck)
    try:
        assignment, settings = Assignment.from_environment(), from_environment(BotSettings)
        log.info("bot.process", extra={"bot_id": assignment.bot_id, "attempt": assignment.attempt, "pid": os.getpid()})
        async with App("bot", broker=assignment.broker, blobs=blob_stores()) as app:
            return await BotProcess(app, assignment, settings, struck).run()
    except Exception:
        # Whatever it is: what Python would print of it has not been through the log.
        log.exception("bot.fault")
        return FAULT


def main() -> None:
    """Be a bot's process."""
    code = asyncio.new_event_loop().run_until_complete(_run())
    logging.shutdown()
    sys.stdout.flush()
    # Not by `sys.exit`, which waits for threads: one that a driver has left hanging must not keep the process.
    os._exit(code)


if __name__ == "__main__":
    main()
