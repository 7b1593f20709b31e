"""Reporting: a line in an app, and each of its processes says how it is, until it ends and after that no more."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Counter
from streamtask_contrib.events import ServiceHealthReport, UsageMetrics
from streamtask_contrib.reporting import Reporter, reporter
from streamtask_contrib.reporting import router as reporting
from streamtask_contrib.reporting.figures import Counts, counts, quantiles

from streamtask import App, Event, Reject, Retry, StoredEnvelope
from tests.chaos.workers import until
from tests.contrib.listening import listening
from tests.servers import RedisServer, available_servers


class Bill(Event, stream="bills"):
    n: int


class Heard:
    """All that was reported on a broker."""

    def __init__(self) -> None:
        self.health: list[ServiceHealthReport] = []
        self.usage: list[UsageMetrics] = []

    def take(self, stored: StoredEnvelope) -> None:
        if stored.event_type == "ServiceHealthReport":
            self.health.append(ServiceHealthReport.model_validate(stored.payload))
        else:
            self.usage.append(UsageMetrics.model_validate(stored.payload))


@asynccontextmanager
async def hearing(app: App) -> AsyncIterator[Heard]:
    heard = Heard()
    async with listening(app, "monitoring", heard.take):
        yield heard


def billing(**options: Any) -> App:
    app = App("billing", broker="memory://")
    app.include(reporting("billing", **{"every": 0.1} | options))

    @app.on(Bill, retry=Retry(1))
    async def charge(bill: Bill) -> None:
        if bill.n % 4 == 3:
            raise Reject("no money")
        await asyncio.sleep(0.02)

    return app


async def test_one_line_and_a_service_says_how_it_is_and_that_it_ends() -> None:
    app = billing()
    async with app, hearing(app) as heard:
        async with app.worker():
            await app.publish_many([Bill(n=n) for n in range(8)])
            await until(lambda: heard.health and heard.health[-1].figures["handled_events"] == 6, 10)
            latest = heard.health[-1]
        await until(lambda: heard.health[-1].status == "down" and heard.usage, 10)

    assert {(each.service, each.instance) for each in heard.health} == {("billing", latest.instance)}
    assert [each.status for each in heard.health[:-1]] == ["ok"] * (len(heard.health) - 1)
    assert latest.figures["failed_events"] == latest.figures["dead_events"] == 2
    assert 0.01 <= latest.figures["handler_p50_seconds"] <= latest.figures["handler_p95_seconds"] < 2
    assert latest.figures["resident_bytes"] > 1_000_000
    assert latest.figures["recent_runs"] == 8
    assert latest.figures["running_events"] == 0
    # The last word on what was done comes before the last report.
    assert sum(usage.amounts["handled_events"] for usage in heard.usage) == 6
    assert all(usage.since < usage.until for usage in heard.usage)


async def test_amounts_are_what_was_done_since_the_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "_USAGE_EVERY", 0.2)
    app = billing(every=0.05)
    heard_seconds = Counter(
        "streamtask_audio_processed_seconds", "As the audio worker counts.", registry=app.metrics.registry
    )
    async with app, hearing(app) as heard, app.worker():
        await until(lambda: heard.health, 10)
        for _ in range(3):
            heard_seconds.inc(2.5)
            told = len(heard.usage)
            await until(lambda: len(heard.usage) > told, 10)  # noqa: B023 - awaited in this turn
        await until(lambda: sum(usage.amounts["audio_seconds"] for usage in heard.usage) == 7.5, 10)
    spans = [(usage.since, usage.until) for usage in heard.usage]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))


async def test_a_check_that_finds_something_raises_or_hangs_makes_the_service_degraded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporter, "_CHECK", 0.05)

    async def well() -> str | None:
        return None

    async def disk() -> str:
        return "the disk is full"

    async def database() -> str:
        raise OSError("no route")

    async def slow() -> None:
        await asyncio.Event().wait()

    app = billing(checks=[well, disk, database, slow])
    async with app, hearing(app) as heard, app.worker():
        await until(lambda: heard.health, 10)
    assert heard.health[0].status == "degraded"
    assert heard.health[0].details == [
        "the disk is full",
        "the check database failed: OSError: no route",
        "the check slow has not answered within 0.05 s",
    ]


async def test_a_loop_that_was_blocked_is_told() -> None:
    app = billing()
    async with app, hearing(app) as heard, app.worker():
        await until(lambda: heard.health, 10)
        await asyncio.sleep(0.01)
        time.sleep(reporter._LATE + reporter._LOOK)  # noqa: ASYNC251 - on purpose
        await until(lambda: heard.health[-1].figures["loop_lag_seconds"] > reporter._LATE, 10)
        assert heard.health[-1].status == "degraded"
        await until(lambda: heard.health[-1].status == "ok", 10)


async def test_a_broker_that_is_away_costs_a_line_in_the_log_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(available_servers()[0], tcp=True)
    server.start()
    try:
        app = App("billing", broker=server.url)
        billing = Reporter(app, "billing", every=0.1, without_worker=True)
        async with app, hearing(app) as heard, billing.running():
            await until(lambda: heard.health, 10)
            server.kill()
            await until(lambda: "reporting.unpublished" in caplog.text, 15)
            told = len(heard.health)
            server.start()
            await until(lambda: len(heard.health) > told, 20)
    finally:
        server.close()


async def test_a_publish_that_hangs_is_left_after_a_while_and_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reporter, "_PUBLISH", 0.05)
    monkeypatch.setattr(reporter, "_LAST", 0.05)
    app = billing(every=0.01)

    async def hang(*_: object, **__: object) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async with app, app.worker():
        monkeypatch.setattr(app, "publish", hang)
        await until(lambda: caplog.text.count("reporting.unpublished") >= 3, 10)
        began = time.monotonic()
    assert time.monotonic() - began < 5


async def test_a_process_without_a_worker_is_no_service_unless_it_says_so() -> None:
    app = App("child", broker="memory://")
    async with app, hearing(app) as heard:
        async with Reporter(app, "child", every=0.01).running():
            await asyncio.sleep(3 * reporter._LOOK)
        async with Reporter(app, "api", every=0.01, without_worker=True).running():
            await until(lambda: heard.health, 10)
    assert {report.service for report in heard.health} == {"api"}


async def test_what_fails_inside_is_told_and_reporting_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = billing(every=0.01)
    whole = reporter.counts
    failures = iter(range(3))

    def broken(registry: Any) -> Counts:
        if next(failures, None) is not None:
            raise RuntimeError("a collector of the user's")
        return whole(registry)

    monkeypatch.setattr(reporter, "counts", broken)
    async with app, hearing(app) as heard, app.worker():
        await until(lambda: heard.health, 10)
    assert caplog.text.count("reporting.failed") == 3


def test_a_registry_without_workers_has_counted_nothing() -> None:
    found = counts(App("idle", broker="memory://").metrics.registry)
    assert (found.handled, found.running, found.durations) == (0.0, None, {})


def test_quantiles_are_those_of_the_runs_in_between() -> None:
    earlier = Counts(durations={0.1: 90.0, 1.0: 100.0, float("inf"): 100.0})
    later = Counts(durations={0.1: 90.0, 1.0: 110.0, float("inf"): 110.0})
    assert quantiles(earlier, later, (0.5, 1.0)) == pytest.approx([0.55, 1.0])
    assert quantiles(later, later, (0.5,)) is None
    assert quantiles(Counts(), Counts(durations={1.0: 0.0, float("inf"): 4.0}), (0.5,)) == [1.0]


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=8), st.floats(0, 1))
def test_a_quantile_lies_within_the_bounds(runs: list[int], share: float) -> None:
    below = [float(sum(runs[: n + 1])) for n in range(len(runs))]
    bounds = [*[0.5 * (n + 1) for n in range(len(runs) - 1)], float("inf")]
    found = quantiles(Counts(), Counts(durations=dict(zip(bounds, below, strict=True))), (share,))
    assert (found is None) == (not any(runs))
    assert found is None or 0 <= found[0] <= bounds[-2]
