"""Anomalies wherever apprise reaches: mail, chat, pagers, by addresses that hold secrets and stand in no log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from streamtask_contrib.extras import require

require("alerts", "apprise")

import apprise  # noqa: E402 - what is missing is said before it is missed

from streamtask import App, ConfigurationError, Context, Router  # noqa: E402
from streamtask_contrib.events import AnomalyDetected  # noqa: E402
from streamtask_contrib.monitoring.alerts.delivering import RETRY, AlertError, alert_of, text_of  # noqa: E402
from streamtask_contrib.monitoring.alerts.hushing import hushed  # noqa: E402
from streamtask_contrib.monitoring.alerts.keys import lines  # noqa: E402
from streamtask_contrib.monitoring.anomalies import digest  # noqa: E402
from streamtask_contrib.monitoring.settings import MonitoringSettings  # noqa: E402

#: The consumer group.
GROUP = "alert-apprise"
#: Who writes of an address: apprise, and what it sends with.
_TALKS = ("apprise", "urllib3.connectionpool")


def router(settings: MonitoringSettings) -> Router:
    """The sink. Raises ConfigurationError where an address is none that apprise knows."""
    routes = Router()
    addresses = _addresses(lines(settings.apprise), settings.apprise)

    @routes.worker_lifespan
    async def quiet(_: App) -> AsyncIterator[None]:
        with hushed(*_TALKS):
            yield

    @routes.on(AnomalyDetected, group=GROUP, start="latest", retry=RETRY)
    async def notify(anomaly: AnomalyDetected, ctx: Context) -> None:
        alert = alert_of(GROUP, anomaly, ctx, settings)
        if not alert.is_wanted:
            return
        delivered = await alert.begin()
        title, body = text_of(anomaly)
        failed = 0
        for name, service in addresses.items():
            if name in delivered:
                continue
            # In a thread of ours: apprise's own outlive it.
            if await asyncio.to_thread(service.notify, body=body, title=title, notify_type=_type(anomaly)):
                await alert.delivered(name)
            else:
                failed += 1
        if failed:
            raise AlertError(f"{failed} of {len(addresses)} addresses were not reached")
        await alert.settled()

    return routes


def _addresses(urls: list[str], reference: str) -> dict[str, Any]:
    """What apprise makes of each address, by a name that is no secret."""
    with hushed(*_TALKS):
        found = {digest(url): apprise.Apprise.instantiate(url) for url in urls}
    wrong = [number for number, service in enumerate(found.values(), 1) if service is None]
    if wrong:
        numbers = ", ".join(map(str, wrong))
        raise ConfigurationError(f"{reference}: line {numbers} is no address that apprise knows")
    return found


def _type(anomaly: AnomalyDetected) -> Any:
    if anomaly.state == "recovered":
        return apprise.NotifyType.SUCCESS
    return apprise.NotifyType.FAILURE if anomaly.severity == "critical" else apprise.NotifyType.WARNING
