"""Health: what is said of a system that is well, of one that is not, and of one that is away."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

pytest.importorskip("fastapi", reason="the extra `api` is not installed")

from streamtask_contrib.events import (
    AnomalyDetected,
    AudioChunkReceived,
    ServiceHealthReport,
    TranscriptionCompleted,
)
from streamtask_contrib.monitoring.anomalies import Anomalies
from streamtask_contrib.monitoring.board import Board

from streamtask import App
from tests.contrib.api.serving import Served, hear, served, until, worker_app
from tests.contrib.bots import advance
from tests.servers import RedisServer, available_servers


async def status(api: Served) -> tuple[int, str]:
    answer = await api.client.get("/api/system/health")
    return answer.status_code, answer.json()["status"]


async def test_a_system_with_its_workers_is_ok(broker: str) -> None:
    async with served(broker) as api, worker_app(broker).worker():

        async def is_ok() -> bool:
            return await status(api) == (200, "ok")

        await until(is_ok)
        health = (await api.client.get("/api/system/health")).json()
        assert health["redis_ping_ms"] > 0
        assert {group["group"] for group in health["groups"]} >= {"audio-pipeline", "transcripts"}
        assert {stream["stream"] for stream in health["streams"]} >= {"audio-ingest", "audio-results"}
        assert all(worker["last_beat"] < 10 for worker in health["workers"])


async def test_a_system_without_a_worker_says_what_waits(broker: str) -> None:
    async with served(broker, max_lag=1) as api, App("test", broker=broker) as app:
        chunks = [AudioChunkReceived(session_id="talk", chunk_id=f"talk-{n}", sequence=n) for n in range(3)]
        await app.publish_many(chunks)
        answer = await api.client.get("/api/system/health")
        assert answer.status_code == 200
        assert answer.json()["status"] == "degraded"
        assert any("audio-pipeline" in problem for problem in answer.json()["problems"])


async def test_bots_are_counted_by_state_and_missed_orchestrators_are_told(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app, worker_app(broker).worker():
        for bot_id in ("one", "two", "three"):
            wish = {"meeting_url": "https://meet.example.org/", "bot_id": bot_id}
            assert (await api.client.post("/api/bots", json=wish)).status_code == 202
        await advance(app, "two", "starting", "joining", "in_call")
        await advance(app, "three", "stopped")
        health = (await api.client.get("/api/system/health")).json()
        assert health["bots"] == {"requested": 1, "in_call": 1}
        assert health["status"] == "degraded"
        [problem] = [one for one in health["problems"] if "bot-orchestrator" in one]
        assert problem.endswith("start one: streamtask worker -A streamtask_contrib.bot:app")
        for bot_id in ("one", "two"):
            await advance(app, bot_id, "stopped")

        async def is_ok() -> bool:
            return await status(api) == (200, "ok")

        await until(is_ok)


async def test_what_services_say_and_what_is_unusual_is_shown(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app:
        board, anomalies = Board(app.records), Anomalies(app)
        await board.note_health(ServiceHealthReport(service="mail", instance="host:1", status="ok"))
        sick = ServiceHealthReport(
            service="billing", instance="host:2", status="degraded", details=["the bank is away"]
        )
        await board.note_health(sick)
        await board.note_health(ServiceHealthReport(service="search", instance="host:3", status="down"))
        await board.note_health(ServiceHealthReport(service="mail", instance="host:4", status="down"))
        stalled = AnomalyDetected(
            anomaly_id="stall:detected",
            kind="stall",
            subject="orders/shipping",
            observed=30,
            expected=0,
            score=9,
            evidence="12 events wait and none was done for 30 s",
            detected_at=datetime.now(UTC),
        )
        await anomalies.detected(stalled)
        health = (await api.client.get("/api/system/health")).json()
        said = {(one["service"], one["instance"]): one for one in health["services"]}
        assert said["billing", "host:2"]["details"] == ["the bank is away"]
        assert 0 <= said["billing", "host:2"]["last_report"] < 20
        assert [one["subject"] for one in health["anomalies"]] == ["orders/shipping"]
        problems = "\n".join(health["problems"])
        assert "stall of orders/shipping: 12 events wait" in problems
        assert "billing on host:2 says: the bank is away" in problems
        assert "search has ended" in problems
        assert "mail" not in problems, "another process of it lives"
        [open_one] = await anomalies.known()
        await anomalies.recovered(open_one, observed=0, evidence="", at=datetime.now(UTC))
        assert (await api.client.get("/api/system/health")).json()["anomalies"] == []


async def test_a_broker_that_is_away_is_told_and_forgotten_when_it_is_back() -> None:
    server = RedisServer(available_servers()[0], tcp=True, appendfsync="always")
    server.start()
    try:
        async with served(server.url) as api, App("test", broker=server.url) as app:
            await api.service.register("talk").begin("local", "test")
            await app.publish(TranscriptionCompleted(session_id="talk", chunk_id="talk-0", text="before"))

            async def is_ready() -> bool:
                return (await api.client.get("/ready")).status_code == 200

            await until(is_ready)
            server.kill()

            async def is_down() -> bool:
                return await status(api) == (503, "down") and (await api.client.get("/ready")).status_code == 503

            await until(is_down)
            assert (await api.client.get("/live")).status_code == 200
            answer = await api.client.post("/api/audio/upload", files={"file": b"RIFF0000WAVE"})
            assert answer.status_code in (415, 503)
            server.start()
            await until(is_ready)
            # The reader of results has gone on where it was.
            async with api.socket("/api/sessions/talk/events") as socket:
                await app.publish(TranscriptionCompleted(session_id="talk", chunk_id="talk-1", text="back"))
                assert [(await hear(socket, "final"))["text"] for _ in range(2)] == ["before", "back"]
    finally:
        server.close()


async def test_what_is_counted_can_be_scraped(broker: str) -> None:
    async with served(broker) as api:
        page = (await api.client.get("/metrics")).text
    assert "streamtask_api_connections 0.0" in page
    assert "streamtask_api_lag" in page


async def test_the_documentation_of_the_api_has_every_path(broker: str) -> None:
    async with served(broker) as api:
        paths = (await api.client.get("/openapi.json")).json()["paths"]
    assert set(paths) >= {"/api/audio/upload", "/api/sessions/{session_id}/transcript", "/api/system/health", "/live"}


async def test_a_process_that_does_not_read_results_any_more_is_not_ready(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(broker) as api, App("test", broker=broker) as app:
        monkeypatch.setattr(api.service.hub, "take", _fail)
        await app.publish(TranscriptionCompleted(session_id="talk", chunk_id="talk-0"))

        async def is_not_ready() -> bool:
            return (await api.client.get("/ready")).status_code == 503

        await until(is_not_ready)
        problems = (await api.client.get("/api/system/health")).json()["problems"]
        assert any("cannot read" in problem for problem in problems)


def _fail(stored: object) -> None:
    raise RuntimeError("a bug")
