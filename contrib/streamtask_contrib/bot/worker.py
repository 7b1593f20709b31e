"""The bot worker: the group `bot-orchestrator`. Its handlers write down what is wanted; its orchestrator sees to it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager

from streamtask import App, Backoff, Context, DeadEvent, PublishError, Retry, RetryLater, Router, TransportError
from streamtask_contrib.bot.care import CloseSession
from streamtask_contrib.bot.orchestrator import Orchestrator
from streamtask_contrib.bot.processes import PROGRAM
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.capture.tracks import end_session
from streamtask_contrib.events import BotRecoveryRequested, BotRequested, BotStatusUpdate, BotStopRequested

log = logging.getLogger(__name__)

#: The consumer group of all bot workers.
GROUP = "bot-orchestrator"
#: A stop is tried again for most of a day: a bot's record that this version cannot read waits for one that can.
_STUBBORN = Retry(1500, backoff=Backoff(base=1, cap=60))


def router(
    settings: BotSettings, *, program: Sequence[str] = PROGRAM, close_session: CloseSession = end_session
) -> Router:
    """The handlers of the bot worker. Its orchestrator runs in the worker's lifespan.

    `program`: what is started for a bot; `close_session`: what ends the session of one that did not do so itself.
    """
    routes = Router()
    service = _Service(settings, program, close_session)

    @routes.worker_lifespan
    async def orchestrator(app: App) -> AsyncIterator[None]:
        async with service.running(app):
            yield

    @routes.on(BotRequested, group=GROUP, retry=Retry(8, backoff=Backoff(base=1, cap=30)), on_dead=refused, timeout=60)
    async def request(event: BotRequested, ctx: Context) -> None:
        await service.write_down(service.bots(ctx).request(event))

    @routes.on(BotStopRequested, group=GROUP, retry=_STUBBORN, on_dead=unheeded, timeout=60)
    async def stop(event: BotStopRequested, ctx: Context) -> None:
        await service.write_down(service.bots(ctx).stop(event.bot_id, event.reason))

    @routes.on(BotRecoveryRequested, group=GROUP, retry=Retry(5), timeout=60)
    async def recover(event: BotRecoveryRequested, ctx: Context) -> None:
        await service.write_down(service.bots(ctx).recover(event))

    return routes


class _Service:
    """What the handlers of one router share while their worker runs."""

    def __init__(self, settings: BotSettings, program: Sequence[str], close_session: CloseSession) -> None:
        self._settings = settings
        self._program = program
        self._close_session = close_session
        self._orchestrator: Orchestrator | None = None

    @asynccontextmanager
    async def running(self, app: App) -> AsyncIterator[None]:
        """Bots are looked after."""
        async with Orchestrator(
            app, self._settings, program=self._program, close_session=self._close_session
        ) as self._orchestrator:
            yield
        self._orchestrator = None

    def bots(self, ctx: Context) -> Bots:
        """What is written down of bots."""
        return Bots(ctx.app, kept=self._settings.kept)

    async def write_down(self, wish: Awaitable[object]) -> None:
        """Write down a wish, and have it seen to at once. The broker's trouble is not the event's."""
        try:
            await wish
        except PublishError as error:
            # It is written down, and whoever looks after the bot publishes it.
            log.warning("bot.told_later", extra={"error": str(error)})
        except TransportError as error:
            raise RetryLater(str(error), delay=1.0) from error
        if self._orchestrator is not None:
            self._orchestrator.wake()


def refused(event: BotRequested, dead: DeadEvent) -> BotStatusUpdate:
    """Say that a bot will not come: who has asked for it waits for its status, and for nothing else."""
    return BotStatusUpdate(
        bot_id=event.bot_id,
        session_id=event.session_id,
        sequence=0,
        state="failed",
        reason="request_failed",
        sub_code=dead.reason,
    )


def unheeded(event: BotStopRequested, dead: DeadEvent) -> None:
    """Say that a bot may go on in its meeting although it was asked to leave: somebody has to look."""
    log.error("bot.stop_unheeded", extra={"bot_id": event.bot_id, "reason": dead.reason, "error": dead.error})
