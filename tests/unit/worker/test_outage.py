"""Trouble is told when it begins, every ten seconds, and when it is over; if it comes and goes, not more often."""

from __future__ import annotations

import logging

import pytest

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.worker import outage
from streamtask.worker.outage import Outage


class Time:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(outage, "time", time)
    return time


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_trouble_is_told_at_once_every_ten_seconds_and_when_it_is_over(
    time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    metrics = Metrics()
    fetch = Outage("fetch", metrics, group="shipping")
    for _ in range(25):
        fetch.failed(TransportError("away"))
        time.now += 1
    fetch.over()

    assert events(caplog) == ["fetch.failed"] * 3 + ["fetch.works_again"]
    assert caplog.records[-1].failed_for == 25
    assert metrics.total("streamtask_transport_errors_total", kind="fetch") == 25


def test_trouble_that_comes_and_goes_is_not_told_more_often(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fetch = Outage("fetch", Metrics())
    for _ in range(150):
        fetch.failed(TransportError("cut off"))
        fetch.over()
        time.now += 0.1

    assert events(caplog) == ["fetch.failed", "fetch.works_again"] * 2


def test_a_duty_that_works_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Outage("fetch", Metrics()).over()

    assert events(caplog) == []
