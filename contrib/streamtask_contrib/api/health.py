"""How the system is: for people (`/api/system/health`), for orchestrators (`/live`, `/ready`), for Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, Gauge
from pydantic import BaseModel, Field

from streamtask import Inspector, StreamtaskError
from streamtask_contrib.api.pressure import GROUP, STREAM
from streamtask_contrib.api.service import Service, Serving
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.events import AnomalyDetected, ServiceHealthReport
from streamtask_contrib.monitoring.board import Board

router = APIRouter(tags=["system"])

#: Groups without which nobody gets words; the translators are missed only where somebody has asked for them.
_NEEDED = (GROUP, "transcripts")
#: The same where there are bots that have not ended.
_ORCHESTRATORS = "bot-orchestrator"
#: Group → the app whose worker is of it.
_APPS: Mapping[str, str] = {
    GROUP: "streamtask_contrib.audio:app",
    "translation": "streamtask_contrib.translation:app",
    _ORCHESTRATORS: "streamtask_contrib.bot:app",
}
#: Seconds after which the oldest chunk that is being worked on is a problem.
_OLD = 300.0
#: The same of a bot that waits to be started.
_WAITED = 60.0


class StreamHealth(BaseModel):
    """A stream."""

    stream: str
    length: int
    dead: int


class GroupHealth(BaseModel):
    """How far a group is. None: the server cannot tell."""

    stream: str
    group: str
    #: Not taken yet, and taken but not done.
    lag: int | None
    pending: int
    #: Age of the oldest event that is taken, in seconds.
    oldest_pending: float | None
    dead: int


class WorkerHealth(BaseModel):
    """A worker that lives."""

    worker: str
    host: str | None
    groups: list[str]
    running: int | None
    #: Seconds since it last said so.
    last_beat: float


class ServiceHealth(BaseModel):
    """What a process of a service has said of itself last."""

    service: str
    instance: str
    status: Literal["ok", "degraded", "down"]
    details: list[str]
    figures: dict[str, float]
    #: Seconds since it said so.
    last_report: float


class AnomalyHealth(BaseModel):
    """Something that is not as it usually is."""

    anomaly_id: str
    kind: str
    subject: str
    severity: Literal["warning", "critical"]
    observed: float
    expected: float
    evidence: str
    #: Seconds since it was detected.
    age: float


class Health(BaseModel):
    """The whole system, as this process sees it."""

    #: "degraded": it works, and a person should look at `problems`. "down": the broker cannot be reached.
    status: Literal["ok", "degraded", "down"]
    problems: list[str] = Field(default_factory=list)
    #: Milliseconds of one question to the broker; None where it did not answer.
    redis_ping_ms: float | None = None
    #: Sockets and event streams of this process.
    connections: int = 0
    streams: list[StreamHealth] = Field(default_factory=list)
    groups: list[GroupHealth] = Field(default_factory=list)
    workers: list[WorkerHealth] = Field(default_factory=list)
    #: State → bots that have not ended, of all users.
    bots: dict[str, int] = Field(default_factory=dict)
    services: list[ServiceHealth] = Field(default_factory=list)
    anomalies: list[AnomalyHealth] = Field(default_factory=list)


@router.get("/api/system/health", responses={503: {"model": Health}})
async def health(service: Serving, response: Response) -> Health:
    """200 where the system is ok or degraded, 503 where it is down."""
    found = await look(service)
    if found.status == "down":
        response.status_code = 503
    return found


@router.get("/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(service: Serving, response: Response) -> dict[str, str]:
    """The process reaches the broker, and reads results."""
    try:
        await _ping(service)
    except StreamtaskError as error:
        response.status_code = 503
        return {"status": "down", "reason": str(error)}
    for reader in (service.hub, service.statuses):
        if not reader.is_reading:
            response.status_code = 503
            return {"status": "down", "reason": f"stream {reader.stream} cannot be read"}
    return {"status": "ok"}


@router.get("/metrics")
async def metrics(service: Serving) -> Response:
    """What this process has counted, in Prometheus' text format."""
    return Response(service.events.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def measure(service: Service) -> None:
    """Have the process' connections among its metrics."""
    registry = service.events.metrics.registry
    for name, what, value in (
        ("streamtask_api_connections", "Open sockets and event streams.", lambda: service.connections.taken),
        ("streamtask_api_uploads", "Uploads that are being taken in.", lambda: service.uploads.taken),
        ("streamtask_api_lag", "Chunks that wait for an audio worker.", lambda: service.pressure.lag),
    ):
        Gauge(name, what, registry=registry).set_function(value)


async def look(service: Service) -> Health:
    """Ask the broker about everything."""
    try:
        ping = await _ping(service)
        inspector, board = Inspector(service.events), Board(service.events.records)
        bots = [bot for bot in await service.bots.living() if bot.state is not None and not bot.is_final]
        found = Health(
            status="ok",
            redis_ping_ms=round(ping * 1000, 2),
            connections=service.connections.taken,
            streams=await _streams(inspector),
            groups=await _groups(inspector),
            workers=await _workers(inspector),
            bots=Counter(str(bot.state) for bot in bots),
            services=[_service_health(one) for one in await board.services()],
            anomalies=[_anomaly_health(one) for one in await board.anomalies()],
        )
    except StreamtaskError as error:
        return Health(status="down", problems=[f"the broker cannot be reached: {error}"])
    found.problems = [*_problems(found, service), *_problems_of_services(found), *_problems_of_bots(bots)]
    found.status = "degraded" if found.problems else "ok"
    return found


async def _streams(inspector: Inspector) -> list[StreamHealth]:
    found = await inspector.stream_infos()
    return [StreamHealth(stream=one.stream, length=one.length, dead=one.dead) for one in found]


async def _groups(inspector: Inspector) -> list[GroupHealth]:
    return [
        GroupHealth(
            stream=one.stream,
            group=one.group,
            lag=one.lag,
            pending=one.pending,
            oldest_pending=None if one.oldest_pending_ms is None else one.oldest_pending_ms / 1000,
            dead=one.dead,
        )
        for one in await inspector.groups()
    ]


async def _workers(inspector: Inspector) -> list[WorkerHealth]:
    return [
        WorkerHealth(
            worker=one.worker,
            host=one.host,
            groups=list(one.groups),
            running=one.running,
            last_beat=one.last_beat_ms / 1000,
        )
        for one in await inspector.workers()
    ]


def _service_health(report: ServiceHealthReport) -> ServiceHealth:
    facts = report.model_dump(include={"service", "instance", "status", "details", "figures"})
    return ServiceHealth(**facts, last_report=_since(report.reported_at))


def _anomaly_health(anomaly: AnomalyDetected) -> AnomalyHealth:
    shown = {"anomaly_id", "kind", "subject", "severity", "observed", "expected", "evidence"}
    return AnomalyHealth(**anomaly.model_dump(include=shown), age=_since(anomaly.detected_at))


def _since(moment: datetime) -> float:
    return round(max(0.0, (datetime.now(UTC) - moment).total_seconds()), 1)


async def _ping(service: Service) -> float:
    """Seconds of one question to the broker."""
    began = time.monotonic()
    await service.events.records.read("audio-ping")
    return time.monotonic() - began


def _problems(found: Health, service: Service) -> Iterable[str]:
    """What is wrong, and what a person should do."""
    if not service.hub.is_reading:
        yield "this process cannot read the stream of results: its clients wait"
    alive = {group for worker in found.workers for group in worker.groups}
    wanted = {*_NEEDED, *(one.group for one in found.groups if one.stream in (STREAM, "audio-results"))}
    if found.bots:
        wanted.add(_ORCHESTRATORS)
    for group in sorted(wanted - alive):
        remedy = f"; start one: streamtask worker -A {_APPS[group]}" if group in _APPS else ""
        yield f"no worker of group {group} lives: what it should do waits{remedy}"
    for one in found.groups:
        if one.stream == STREAM and (one.lag or 0) > service.settings.max_lag:
            yield f"{one.lag} chunks wait for group {one.group}: clients are asked to pause; start more workers"
        if (one.oldest_pending or 0) > _OLD:
            yield f"group {one.group} has been at an event of {one.stream} for {one.oldest_pending:.0f} s"


def _problems_of_services(found: Health) -> Iterable[str]:
    for anomaly in found.anomalies:
        yield f"{anomaly.kind} of {anomaly.subject}: {anomaly.evidence or 'not as it usually is'}"
    living = {one.service for one in found.services if one.status != "down"}
    for one in found.services:
        if one.status == "degraded":
            yield f"{one.service} on {one.instance} says: {'; '.join(one.details) or 'it is not well'}"
        elif one.status == "down" and one.service not in living:
            yield f"{one.service} has ended, and no other process of it lives; start it again if it is needed"


def _problems_of_bots(bots: Iterable[Bot]) -> Iterable[str]:
    waiting = [bot for bot in bots if bot.state == "requested" and bot.desired == "running"]
    late = [bot for bot in waiting if bot.changed_at is not None and _since(bot.changed_at) > _WAITED]
    if late:
        yield (
            f"{len(late)} bots have waited for more than {_WAITED:.0f} s to be started: "
            "every orchestrator is full or too busy; start another one"
        )
