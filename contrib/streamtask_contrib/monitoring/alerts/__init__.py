"""Who is told of anomalies: each sink is a router with a consumer group of its own, so that none delays another."""

from __future__ import annotations

from streamtask import Router
from streamtask_contrib.extras import require
from streamtask_contrib.monitoring.alerts import log
from streamtask_contrib.monitoring.settings import MonitoringSettings


def routers(settings: MonitoringSettings) -> list[Router]:
    """The sinks that the settings ask for. Raises ConfigurationError where one of them cannot work."""
    found = []
    if settings.alert_log:
        found.append(log.router())
    if settings.webhook_url is not None:
        require("monitoring", "httpx")
        from streamtask_contrib.monitoring.alerts import webhook  # noqa: PLC0415 - who has no webhook needs no client

        found.append(webhook.router(settings))
    if settings.apprise:
        from streamtask_contrib.monitoring.alerts import others  # noqa: PLC0415 - an extra of its own, seldom wanted

        found.append(others.router(settings))
    return found
