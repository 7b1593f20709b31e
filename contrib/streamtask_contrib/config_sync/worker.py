"""The configuration worker: the group `config-sync`. It watches the sources, restores versions and finds drifts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib import import_module

from streamtask import App, Application, ConfigurationError, Context, Reject, Router
from streamtask_contrib.config_sync.drifts import Drifts, Expected, judge
from streamtask_contrib.config_sync.keeping import Keeper
from streamtask_contrib.config_sync.redaction import Sealing
from streamtask_contrib.config_sync.settings import ConfigSettings
from streamtask_contrib.config_sync.sources.folder import FolderSource
from streamtask_contrib.config_sync.sources.port import Source
from streamtask_contrib.config_sync.versions import Configs, Version
from streamtask_contrib.config_sync.watching import Watch
from streamtask_contrib.duties import running
from streamtask_contrib.events import ID, ConfigReported, ConfigRollbackRequested
from streamtask_contrib.reporting import Check

#: The consumer group of all configuration workers.
GROUP = "config-sync"


def router(settings: ConfigSettings) -> Router:
    """The handlers of the configuration worker. Its sources are watched in the worker's lifespan."""
    routes = Router()
    service = _Service(settings)

    @routes.worker_lifespan
    async def watching(app: App) -> AsyncIterator[None]:
        async with service.running(app):
            yield

    # By its key, a request is fulfilled once; the keeper sees to what a worker that dies in between has left.
    @routes.on(ConfigRollbackRequested, group=GROUP)
    async def restore(request: ConfigRollbackRequested, ctx: Context) -> None:
        await service.restore(request, ctx)

    @routes.on(ConfigReported, group=GROUP)
    async def compare(report: ConfigReported, ctx: Context) -> None:
        await service.compare(report, ctx)

    return routes


def all_sources(app: App) -> Check:
    """A check for `reporting`: what is wrong with the sources, whoever watches them."""

    async def sources() -> str:
        troubles = await Configs(app.records).all_troubles()
        return "; ".join(f"{service}: {text}" for service, each in troubles.items() for text in each.values())

    return sources


class _Service:
    """What the handlers of one router share while their worker runs."""

    def __init__(self, settings: ConfigSettings) -> None:
        self._settings = settings
        self._watches: list[Watch] = []

    @asynccontextmanager
    async def running(self, app: App) -> AsyncIterator[None]:
        """The sources are watched, each by this worker or another."""
        ttl = self._settings.lease_ttl
        keeper = self._keeper(app)
        self._watches = [Watch(source, keeper, app.records, lease_ttl=ttl) for source in sources(self._settings)]
        try:
            async with running(*(watch.run() for watch in self._watches), ended="config.watch_ended"):
                yield
        finally:
            self._watches = []

    async def restore(self, request: ConfigRollbackRequested, ctx: Context) -> None:
        """Make an earlier version the head; who watches the source writes it there."""
        await self._keeper(ctx.app).restore(request)
        for watch in self._watches:
            watch.nudge()

    async def compare(self, report: ConfigReported, ctx: Context) -> None:
        """Tell where a service runs with something else than it should."""
        if not re.fullmatch(ID, report.service):
            raise Reject(f"{report.service!r} is no name of a service")
        configs, drifts = self._keeper(ctx.app).configs, Drifts(ctx.app.records, report.service)
        state = await configs.state(report.service)
        if state is None or state.head is None:
            return
        drift = None
        if report.checksum != state.head.checksum:
            head = await configs.version(report.service, state.head)
            if head is None:
                return  # there is a newer one already
            expected = _expected(head, bytes.fromhex(state.key))
            drift = judge(report, expected, grace=self._settings.grace, now=datetime.now(UTC))
        if drift is not None and await drifts.is_news(report, drift):
            # Told before it is remembered: whoever dies in between tells it again, and that is one event.
            about = f"{drift.service}:{drift.instance}:{drift.expected_version}:{drift.actual_checksum}"
            await ctx.app.publish(drift, dedup_key=about)
            told = {"service": drift.service, "instance": drift.instance, "keys": drift.changed_keys}
            ctx.log.warning("config.drift", extra=told)
        await drifts.remember(report, drift)

    def _keeper(self, app: Application) -> Keeper:
        return Keeper(app, keep=self._settings.keep, patterns=self._settings.secret_names)


def _expected(head: Version, key: bytes) -> Expected:
    return Expected(
        version=head.number,
        checksum=head.checksum,
        taken_at=head.taken_at,
        values=head.shown(),
        secrets=Sealing(key, head.patterns).digests(head.values),
        patterns=head.patterns,
    )


def sources(settings: ConfigSettings) -> list[Source]:
    """What there is to be watched.

    Raises:
        ConfigurationError: there is nothing, or something is missing for it.
    """
    found: list[Source] = []
    if settings.folder is not None:
        found.append(FolderSource(settings.folder, every=settings.every))
    if settings.hashes:
        url = settings.redis_url.get_secret_value()
        if not url:
            raise ConfigurationError("STREAMTASK_CONFIG_HASHES needs STREAMTASK_CONFIG_REDIS_URL")
        redis_hash = import_module("streamtask_contrib.config_sync.sources.redis_hash")
        found.append(redis_hash.RedisHashSource(url, settings.hashes, every=settings.every))
    if settings.pages:
        # Only who has pages needs httpx, and who has hashes redis.
        found.append(import_module("streamtask_contrib.config_sync.sources.http").HttpSource(settings))
    if not found:
        raise ConfigurationError("nothing is to be watched: set STREAMTASK_CONFIG_FOLDER, _HASHES or _PAGES")
    return found
