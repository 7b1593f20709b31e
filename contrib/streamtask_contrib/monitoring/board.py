"""What is known of the services and of what is wrong with them: written by the group `monitoring`, read by anyone.

The latest report of each process stands here, and the anomalies that are open. It reads and writes records only, so
that the API can show it wherever it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from streamtask import Records
from streamtask_contrib.events import AnomalyDetected, ServiceHealthReport, UsageMetrics
from streamtask_contrib.monitoring.anomalies import digest, read_anomalies, readable

log = logging.getLogger(__name__)

#: Seconds after which a process that reports no more is not shown any more.
FORGOTTEN = 600.0
#: The same of one that has said that it ends, where others of its service live.
_ENDED = 60.0
#: Services, and processes of one, that are kept; text of a report, in characters, and its lines and figures.
_SERVICES, _INSTANCES, _TEXT, _LINES = 500, 500, 500, 50

_HEALTH, _USAGE = "monitoring-health", "monitoring-usage"

_Told = TypeVar("_Told", ServiceHealthReport, UsageMetrics)


class Board:
    """The board of an app: `Board(app.records)`. Every method raises `TransportError` where the broker is away."""

    def __init__(self, records: Records) -> None:
        self._records = records

    # ── what is shown ─────────────────────────────────────────────────────────────────────────────────────────

    async def services(self) -> list[ServiceHealthReport]:
        """The latest report of each process, by service and instance. Those that are gone are left out."""
        found = await self._all(_HEALTH, ServiceHealthReport)
        now = datetime.now(UTC)
        living = {report.service for report in found if report.status != "down" and _age(report, now) < FORGOTTEN}
        shown = [report for report in found if _age(report, now) < _shown_for(report, living)]
        return sorted(shown, key=lambda report: (report.service, report.instance))

    async def usage(self) -> list[UsageMetrics]:
        """What each process has done in its last span, by service and instance."""
        now = datetime.now(UTC)
        found = [usage for usage in await self._all(_USAGE, UsageMetrics) if _age(usage, now) < FORGOTTEN]
        return sorted(found, key=lambda usage: (usage.service, usage.instance))

    async def anomalies(self) -> list[AnomalyDetected]:
        """What is wrong now, the oldest first, each as it was told when it began."""
        return [one.event for one in await read_anomalies(self._records) if not one.is_over]

    # ── what is written ───────────────────────────────────────────────────────────────────────────────────────

    async def note_health(self, report: ServiceHealthReport) -> None:
        """Keep a report, unless a newer one of its process is here."""
        await self._note(_HEALTH, _bounded(report))

    async def note_usage(self, usage: UsageMetrics) -> None:
        """Keep what a process has done, unless something newer of it is here."""
        await self._note(_USAGE, usage.model_copy(update={"amounts": dict(list(usage.amounts.items())[:_LINES])}))

    async def tidy(self) -> None:
        """Take services off the list of which nothing is kept any more."""
        for of in (_HEALTH, _USAGE):
            known = await self._records.read(of)
            gone = [field for field in known if not await self._records.read(f"{of}-{field}")]
            if gone:
                await self._records.swap(of, dict.fromkeys(gone), expected={}, ttl=2 * FORGOTTEN)

    async def _note(self, of: str, told: _Told) -> None:
        now = datetime.now(UTC)
        if _age(told, now) >= FORGOTTEN or not await self._listed(of, told.service):
            return
        key, field = f"{of}-{digest(told.service)}", digest(told.instance)
        written = told.model_dump_json().encode()
        while True:
            standing = await self._records.read(key)
            gone, latest = _sorted_out(standing, type(told), now)
            before = latest.get(field)
            if before is not None and _moment(before) >= _moment(told):
                return
            if before is None and len(latest) >= _INSTANCES:
                log.warning("monitoring.too_many_instances", extra={"service": told.service, "kept": _INSTANCES})
                return
            changed: dict[str, bytes | None] = {**dict.fromkeys(gone), field: written}
            if await self._records.swap(key, changed, expected={field: standing.get(field)}, ttl=2 * FORGOTTEN):
                return

    async def _listed(self, of: str, service: str) -> bool:
        """Have a service on the list; False where that is full."""
        known = await self._records.read(of)
        field = digest(service)
        if field not in known and len(known) >= _SERVICES:
            log.warning("monitoring.too_many_services", extra={"service": service, "kept": _SERVICES})
            return False
        await self._records.write(of, {field: service.encode("utf-8", "replace")}, ttl=2 * FORGOTTEN)
        return True

    async def _all(self, of: str, model: type[_Told]) -> list[_Told]:
        found = []
        for field in await self._records.read(of):
            found += _readable((await self._records.read(f"{of}-{field}")).values(), model)
        return found


def _readable(values: Iterable[bytes], model: type[_Told]) -> list[_Told]:
    return [told for value in values if (told := readable(model, value)) is not None]


def _sorted_out(standing: Mapping[str, bytes], model: type[_Told], now: datetime) -> tuple[list[str], dict[str, _Told]]:
    """The fields of processes that are gone, and what is told of the others."""
    told = {field: readable(model, value) for field, value in standing.items()}
    latest = {field: one for field, one in told.items() if one is not None and _age(one, now) < FORGOTTEN}
    return [field for field in standing if field not in latest], latest


def _shown_for(report: ServiceHealthReport, living: set[str]) -> float:
    return _ENDED if report.status == "down" and report.service in living else FORGOTTEN


def _moment(told: ServiceHealthReport | UsageMetrics) -> datetime:
    return told.reported_at if isinstance(told, ServiceHealthReport) else told.until


def _age(told: ServiceHealthReport | UsageMetrics, now: datetime) -> float:
    return (now - _moment(told)) / timedelta(seconds=1)


def _bounded(report: ServiceHealthReport) -> ServiceHealthReport:
    """A report as it is kept: whoever may publish must not fill the broker's memory."""
    return report.model_copy(
        update={
            "details": [line[:_TEXT] for line in report.details[:_LINES]],
            "figures": dict(list(report.figures.items())[:_LINES]),
        }
    )
