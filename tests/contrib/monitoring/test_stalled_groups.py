"""Real workers that stand still, as processes: what monitoring says of it, when, and how often."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from streamtask_contrib.events import AnomalyDetected

from streamtask import App, StoredEnvelope
from tests.chaos.conftest import Measured, StartWorker
from tests.chaos.workers import LONG, Job, Ledger, publish, until
from tests.contrib.listening import listening
from tests.servers import RedisServer

#: Seconds within which a stall has to be told, and its end.
PROMISED = 30.0
#: A watcher that looks more often and loses patience sooner, for what is the same after ten seconds as after twenty;
#: and the seconds by which it has to tell of a stall sooner.
HASTY = {} if LONG else {"STALLED": "10", "INTERVAL": "1", "LEASE_TTL": "2"}
SOONER = 10.0 if HASTY else 0.0
_CONTRIB = str(Path(__file__).parents[3] / "contrib")

MONITORING = """
from streamtask_contrib.monitoring.application import make_app

app = make_app()
"""
WORK = """
@app.on(Job, concurrency=4)
async def work(job: Job) -> None:
    note("start", job.n)
    if job.kind == "hang":
        await gate("hang")
    note("end", job.n)
"""


class Told:
    """What was told of anomalies, in order, each with the moment that it was heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[AnomalyDetected, float]] = []

    def take(self, stored: StoredEnvelope) -> None:
        if stored.event_type == "AnomalyDetected":
            self.heard.append((AnomalyDetected.model_validate(stored.payload), time.monotonic()))

    def of(self, subject: str, state: str) -> list[tuple[AnomalyDetected, float]]:
        return [(event, at) for event, at in self.heard if (event.subject, event.state) == (subject, state)]


@asynccontextmanager
async def hearing(url: str) -> AsyncIterator[Told]:
    told = Told()
    async with listening(App("test", broker=url), "monitoring", told.take):
        yield told


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    chosen = {f"STREAMTASK_MONITORING_{name}": value for name, value in (settings or {}).items()}
    return {"PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), _CONTRIB]), **chosen}


async def some_work(url: str, ledger: Ledger, n: int) -> None:
    """Events that are worked off."""
    await publish(url, [Job(n=number) for number in range(n, n + 20)])
    await until(lambda: len(ledger.count("end")) >= n + 20, 20)


async def told_once(
    told: Told, subject: str, state: str, since: float, measured: Measured, *, within: float = PROMISED
) -> AnomalyDetected:
    """What was told within what is promised, counted from the beginning."""
    await until(lambda: told.of(subject, state), since + within - time.monotonic())
    event, at = told.of(subject, state)[0]
    measured(f"{subject} {event.kind} {state} after, in seconds", at - since)
    return event


@pytest.mark.timeout(150)
@pytest.mark.parametrize("was_idle", [True, False] if LONG else [False], ids=["idle", "busy"] if LONG else ["busy"])
async def test_a_group_whose_worker_is_stopped_is_told_once_and_so_is_its_recovery(
    server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured, was_idle: bool
) -> None:
    await start_worker(server.url, MONITORING, environment=environment())
    worker = await start_worker(server.url, WORK)
    async with hearing(server.url) as told:
        await some_work(server.url, ledger, 0)
        if not was_idle:
            await some_work(server.url, ledger, 20)
        await worker.stop_whole()
        began = time.monotonic()
        await publish(server.url, [Job(n=100 + n) for n in range(10)])
        event = await told_once(told, "jobs/chaos", "detected", began, measured)
        assert event.kind == "stalled"
        assert event.severity == "critical"
        assert "no worker of the group lives" in event.evidence
        # Long enough for others of the same, were there any.
        await asyncio.sleep(7)
        await worker.continue_whole()
        began = time.monotonic()
        await until(lambda: len(ledger.count("end")) >= 30, 30)
        await told_once(told, "jobs/chaos", "recovered", began, measured)
        assert [event.state for event, _ in told.heard] == ["detected", "recovered"]


@pytest.mark.timeout(150)
async def test_handlers_that_hang_with_everything_taken_are_told_though_their_worker_lives(
    server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    await start_worker(server.url, MONITORING, environment=environment(HASTY))
    await start_worker(server.url, WORK)
    async with hearing(server.url) as told:
        began = time.monotonic()
        await publish(server.url, [Job(n=n, kind="hang") for n in range(3)])
        event = await told_once(told, "jobs/chaos", "detected", began, measured, within=PROMISED - SOONER)
        assert event.kind == "stalled"
        assert "3 run" in event.evidence
        assert "its one worker lives" in event.evidence
        began = ledger.open_gate("hang")
        await told_once(told, "jobs/chaos", "recovered", began, measured)
        assert [event.state for event, _ in told.heard] == ["detected", "recovered"]


@pytest.mark.timeout(200)
async def test_a_watcher_that_is_killed_in_between_is_replaced_and_nothing_is_told_twice_or_forgotten(
    server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    first = await start_worker(server.url, MONITORING, environment=environment(HASTY))
    worker = await start_worker(server.url, WORK)
    second = await start_worker(server.url, MONITORING, environment=environment(HASTY))
    async with hearing(server.url) as told:
        await some_work(server.url, ledger, 0)
        # No worker at all, in order this time, while events come.
        await worker.terminate()
        began = time.monotonic()
        await publish(server.url, [Job(n=100 + n) for n in range(10)])
        # It has watched for some of the time that has to go by.
        await asyncio.sleep(4 if HASTY else 8)
        await first.kill_whole()
        event = await told_once(told, "jobs/chaos", "detected", began, measured, within=PROMISED - SOONER)
        assert "10 events wait to be taken" in event.evidence
        # The line comes behind the event.
        await until(lambda: second.logs("monitoring.detected"), 10)
        # And once more while it is open: its end is told by one that has not told of its beginning.
        third = await start_worker(server.url, MONITORING, environment=environment(HASTY))
        await second.kill_whole()
        await start_worker(server.url, WORK)
        began = time.monotonic()
        await until(lambda: len(ledger.count("end")) >= 30, 30)
        await told_once(told, "jobs/chaos", "recovered", began, measured)
        jobs = [(event.kind, event.state) for event, _ in told.heard if event.subject == "jobs/chaos"]
        assert jobs == [("stalled", "detected"), ("stalled", "recovered")]
        await until(lambda: third.logs("monitoring.recovered"), 10)
