"""The board: the latest of each process, what is open, and nothing without bound."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from streamtask_contrib.events import AnomalyDetected, ServiceHealthReport, UsageMetrics
from streamtask_contrib.monitoring import board as boards
from streamtask_contrib.monitoring.anomalies import Anomalies
from streamtask_contrib.monitoring.board import Board

from streamtask import App


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def report(instance: str = "a:1", *, service: str = "billing", age: float = 0.0, **more) -> ServiceHealthReport:
    return ServiceHealthReport(service=service, instance=instance, **{"status": "ok", "reported_at": ago(age)} | more)


async def test_the_latest_of_each_process_is_shown_in_whatever_order_they_come() -> None:
    async with App("test", broker="memory://") as app:
        board = Board(app.records)
        for told in (
            report(age=10),
            report("a:2"),
            report(age=1, details=["new"]),
            report(age=20),
            report(service="b"),
        ):
            await board.note_health(told)
        shown = await board.services()

    assert [(one.service, one.instance, one.details) for one in shown] == [
        ("b", "a:1", []),
        ("billing", "a:1", ["new"]),
        ("billing", "a:2", []),
    ]


async def test_who_has_said_that_it_ends_is_shown_for_as_long_as_nobody_else_of_its_service_lives() -> None:
    async with App("test", broker="memory://") as app:
        board = Board(app.records)
        await board.note_health(report("old", status="down", age=70))
        assert [one.instance for one in await board.services()] == ["old"]
        await board.note_health(report("new"))
        assert [one.instance for one in await board.services()] == ["new"]


async def test_what_is_old_is_neither_kept_nor_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with App("test", broker="memory://") as app:
        board = Board(app.records)
        await board.note_health(report(age=boards.FORGOTTEN + 1))
        assert await board.services() == []
        await board.note_health(report())
        monkeypatch.setattr(boards, "FORGOTTEN", 0.0)
        assert await board.services() == []


async def test_there_is_a_bound_for_the_processes_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "_INSTANCES", 3)
    async with App("test", broker="memory://") as app:
        board = Board(app.records)
        for number in range(5):
            await board.note_health(report(f"a:{number}", age=5))
        await board.note_health(report("a:1", details=["still heard"]))
        shown = await board.services()

    assert [one.instance for one in shown] == ["a:0", "a:1", "a:2"]
    assert shown[1].details == ["still heard"]


async def test_a_service_of_which_nothing_is_kept_leaves_the_list_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "_SERVICES", 1)
    async with App("test", broker="memory://") as app:
        board = Board(app.records)
        await board.note_health(report(service="one"))
        await board.note_health(report(service="two"))
        assert [one.service for one in await board.services()] == ["one"]
        for key in [f"monitoring-health-{field}" for field in await app.records.read("monitoring-health")]:
            await app.records.delete(key)
        await board.tidy()
        await board.note_health(report(service="two"))
        assert [one.service for one in await board.services()] == ["two"]


async def test_what_cannot_be_read_hides_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with App("test", broker="memory://") as app:
        board = Board(app.records)
        await board.note_health(report())
        [field] = await app.records.read("monitoring-health")
        await app.records.write(f"monitoring-health-{field}", {"x": b"of another version"}, ttl=60)
        assert [one.instance for one in await board.services()] == ["a:1"]
    assert "monitoring.unreadable" in caplog.text


async def test_usage_and_open_anomalies_are_shown() -> None:
    async with App("test", broker="memory://") as app:
        board = Board(app.records)
        usage = UsageMetrics(service="b", instance="1", since=ago(60), until=ago(1), amounts={"handled_events": 3})
        await board.note_usage(usage)
        event = AnomalyDetected(
            anomaly_id="1:detected", kind="lag", subject="a/b", observed=1, expected=0, score=9, evidence="much"
        )
        anomalies = Anomalies(app)
        assert await anomalies.detected(event)
        assert await board.anomalies() == [event]
        assert await board.usage() == [usage]
        [anomaly] = await anomalies.known()
        await anomalies.recovered(anomaly, observed=0, evidence="little", at=ago(0))
        assert await board.anomalies() == []
