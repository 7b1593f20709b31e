"""The worker of the group `monitoring`: keeps what services report on the board, and watches."""

from __future__ import annotations

from collections.abc import AsyncIterator

from streamtask import App, Backoff, Context, Retry, Router
from streamtask_contrib.duties import running
from streamtask_contrib.events import ServiceHealthReport, UsageMetrics
from streamtask_contrib.monitoring.board import Board
from streamtask_contrib.monitoring.seeing import GROUP
from streamtask_contrib.monitoring.settings import MonitoringSettings
from streamtask_contrib.monitoring.watching import Watcher

#: A report is worth a few tries: the next one says more.
_RETRY = Retry(3, backoff=Backoff(base=1, cap=5))


def router(settings: MonitoringSettings) -> Router:
    """What keeps the board and watches. Who is told is another matter: see `alerts.routers`."""
    routes = Router()

    @routes.worker_lifespan
    async def watching(app: App) -> AsyncIterator[None]:
        async with running(Watcher(app, settings).run(), ended="monitoring.watch_ended"):
            yield

    # Not de-duplicated: reports have no key, and writing one twice changes nothing.
    @routes.on(ServiceHealthReport, group=GROUP, retry=_RETRY, dedupe=False)
    async def keep_health(report: ServiceHealthReport, ctx: Context) -> None:
        await Board(ctx.app.records).note_health(report)

    @routes.on(UsageMetrics, group=GROUP, retry=_RETRY, dedupe=False)
    async def keep_usage(usage: UsageMetrics, ctx: Context) -> None:
        await Board(ctx.app.records).note_usage(usage)

    return routes
