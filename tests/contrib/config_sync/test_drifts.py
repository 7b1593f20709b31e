"""Drifts: told once, with the keys, to whoever is not merely a moment behind; and over when the instance says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from streamtask_contrib.config_sync import drifts as module
from streamtask_contrib.config_sync.drifts import Drifts, Expected, judge
from streamtask_contrib.config_sync.redaction import Sealing, redacted
from streamtask_contrib.events import ConfigDriftDetected, ConfigReported

from streamtask import App

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEALING = Sealing(b"key")
HEAD = {"model": "small", "password": "alpha", "beam": {"size": 5}}


def expected(values: dict[str, Any] = HEAD, *, version: int = 3) -> Expected:
    return Expected(
        version=version,
        checksum=SEALING.checksum(values),
        taken_at=NOW,
        values=redacted(values),
        secrets=SEALING.digests(values),
    )


def report(values: dict[str, Any], *, version: int = 3, after: float = 60, instance: str = "one") -> ConfigReported:
    return ConfigReported(
        service="whisper",
        instance=instance,
        version=version,
        checksum=SEALING.checksum(values),
        values=redacted(values),
        secrets=SEALING.digests(values),
        reported_at=NOW + timedelta(seconds=after),
    )


def judged(said: ConfigReported) -> ConfigDriftDetected | None:
    return judge(said, expected(), grace=5, now=NOW)


def test_what_runs_with_the_head_is_no_drift_whatever_version_it_names():
    assert judged(report(HEAD)) is None
    assert judged(report(HEAD, version=1)) is None


def test_a_drift_names_the_keys_and_no_secret():
    drift = judged(report({"model": "large", "password": "bravo", "beam": {"size": 5}}))
    assert drift is not None
    assert drift.changed_keys == ["model", "password"]
    assert drift.diff == '~ model: "small" → "large"\n~ password: a secret that differs'
    assert (drift.expected_version, drift.instance) == (3, "one")
    assert drift.expected_checksum != drift.actual_checksum


def test_a_secret_that_was_reported_by_mistake_is_not_told_on():
    said = report({**HEAD, "model": "large"})
    said.values["password"] = "alpha"
    said.values["url"] = "redis://u:bravo@h/0"
    drift = judged(said)
    assert drift is not None
    assert "alpha" not in drift.diff
    assert "bravo" not in drift.diff


@pytest.mark.parametrize(
    ("version", "after", "is_drift"),
    [(2, 4, False), (2, -60, False), (2, 6, True), (0, 4, False), (0, 6, True), (3, 0.1, True), (3, -60, True)],
)
def test_who_is_a_moment_behind_is_no_drift(version: int, after: float, *, is_drift: bool):
    assert (judged(report({"model": "old"}, version=version, after=after)) is not None) == is_drift


# ── what is remembered ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def drifts() -> AsyncIterator[Drifts]:
    async with App("test", broker="memory://") as app:
        yield Drifts(app.records, "whisper")


async def hear(drifts: Drifts, said: ConfigReported) -> bool:
    """As the worker does; whether the drift was told."""
    drift = judged(said)
    is_news = drift is not None and await drifts.is_news(said, drift)
    await drifts.remember(said, drift)
    return is_news


async def test_a_drift_is_told_once_and_remembered_until_it_is_over(drifts: Drifts):
    other = {"model": "large"}
    assert [await hear(drifts, report(other, after=n)) for n in (10, 11, 40)] == [True, False, False]
    assert [each.changed_keys for each in await drifts.open()] == [["beam", "model", "password"]]
    assert await hear(drifts, report({"model": "tiny"}, after=50)) is True
    assert len(await drifts.open()) == 1
    await hear(drifts, report(HEAD, after=60))
    assert await drifts.open() == []


async def test_each_instance_has_a_drift_of_its_own_whatever_it_is_called(drifts: Drifts):
    for instance in ("two", "one", "{odd}\n", "x" * 2_000):
        assert await hear(drifts, report({"model": "large"}, instance=instance))
    assert [each.instance for each in await drifts.open()] == ["one", "two", "x" * 2_000, "{odd}\n"]


async def test_a_report_that_comes_late_changes_nothing(drifts: Drifts):
    await hear(drifts, report(HEAD, after=40))
    assert await hear(drifts, report({"model": "large"}, after=30)) is False
    assert await drifts.open() == []
    # By more than a minute it is a clock that was set back.
    assert await hear(drifts, report({"model": "large"}, after=-60)) is True


async def test_who_says_nothing_any_more_is_forgotten(drifts: Drifts, monkeypatch: pytest.MonkeyPatch):
    await hear(drifts, report({"model": "large"}))
    monkeypatch.setattr(module, "GONE", 0.0)
    assert await drifts.open() == []
