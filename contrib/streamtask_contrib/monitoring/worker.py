"""The worker of the group `monitoring`: keeps what services report on the board, and watches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from streamtask import App, Backoff, Context, Retry, Router
from streamtask_contrib.events import ServiceHealthReport, UsageMetrics
from streamtask_contrib.monitoring.board import Board
from streamtask_contrib.monitoring.seeing import GROUP
from streamtask_contrib.monitoring.settings import MonitoringSettings
from streamtask_contrib.monitoring.watching import Watcher

log = logging.getLogger(__name__)

#: A report is worth a few tries: the next one says more.
_RETRY = Retry(3, backoff=Backoff(base=1, cap=5))


def router(settings: MonitoringSettings) -> Router:
    """What keeps the board and watches. Who is told is another matter: see `alerts.routers`."""
    routes = Router()

    @routes.worker_lifespan
    async def watching(app: App) -> AsyncIterator[None]:
        watch = asyncio.create_task(Watcher(app, settings).run())
        watch.add_done_callback(_tell_end)
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    # Not de-duplicated: reports have no key, and writing one twice changes nothing.
    @routes.on(ServiceHealthReport, group=GROUP, retry=_RETRY, dedupe=False)
    async def keep_health(report: ServiceHealthReport, ctx: Context) -> None:
        await Board(ctx.app.records).note_health(report)

    @routes.on(UsageMetrics, group=GROUP, retry=_RETRY, dedupe=False)
    async def keep_usage(usage: UsageMetrics, ctx: Context) -> None:
        await Board(ctx.app.records).note_usage(usage)

    return routes


def _tell_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.critical(
            "monitoring.watch_ended", exc_info=task.exception(), extra={"meaning": "this process has to be restarted"}
        )
