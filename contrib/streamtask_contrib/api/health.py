"""How the system is: for people (`/api/system/health`), for orchestrators (`/live`, `/ready`), for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, Gauge
from pydantic import BaseModel, Field

from streamtask import Inspector, StreamtaskError
from streamtask_contrib.api.pressure import GROUP, STREAM
from streamtask_contrib.api.service import Service, Serving

router = APIRouter(tags=["system"])

#: Groups without which nobody gets words; the translators are missed only where somebody has asked for them.
_NEEDED = (GROUP, "transcripts")
#: Seconds after which the oldest chunk that is being worked on is a problem.
_OLD = 300.0


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
    if not service.hub.is_reading:
        response.status_code = 503
        return {"status": "down", "reason": "the stream of results cannot be read"}
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
        inspector = Inspector(service.events)
        streams = await inspector.stream_infos()
        groups = await inspector.groups()
        workers = await inspector.workers()
    except StreamtaskError as error:
        return Health(status="down", problems=[f"the broker cannot be reached: {error}"])
    found = Health(
        status="ok",
        redis_ping_ms=round(ping * 1000, 2),
        connections=service.connections.taken,
        streams=[StreamHealth(stream=one.stream, length=one.length, dead=one.dead) for one in streams],
        groups=[
            GroupHealth(
                stream=one.stream,
                group=one.group,
                lag=one.lag,
                pending=one.pending,
                oldest_pending=None if one.oldest_pending_ms is None else one.oldest_pending_ms / 1000,
                dead=one.dead,
            )
            for one in groups
        ],
        workers=[
            WorkerHealth(
                worker=one.worker,
                host=one.host,
                groups=list(one.groups),
                running=one.running,
                last_beat=one.last_beat_ms / 1000,
            )
            for one in workers
        ],
    )
    found.problems = list(_problems(found, service))
    found.status = "degraded" if found.problems else "ok"
    return found


async def _ping(service: Service) -> float:
    """Seconds of one question to the broker."""
    began = time.monotonic()
    await service.events.records.read("audio-ping")
    return time.monotonic() - began


def _problems(found: Health, service: Service) -> Iterable[str]:
    if not service.hub.is_reading:
        yield "this process cannot read the stream of results: its clients wait"
    alive = {group for worker in found.workers for group in worker.groups}
    wanted = {*_NEEDED, *(one.group for one in found.groups if one.stream in (STREAM, "audio-results"))}
    for group in sorted(wanted - alive):
        yield f"no worker of group {group} lives: what it should do waits"
    for one in found.groups:
        if one.stream == STREAM and (one.lag or 0) > service.settings.max_lag:
            yield f"{one.lag} chunks wait for group {one.group}: clients are asked to pause; start more workers"
        if (one.oldest_pending or 0) > _OLD:
            yield f"group {one.group} has been at an event of {one.stream} for {one.oldest_pending:.0f} s"
