"""Priorities: a long backlog of low ones holds up no high one, and is worked off all the same."""

from __future__ import annotations

import asyncio
import time

from streamtask import App, Event
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Ledger, until
from tests.servers import RedisServer

BACKLOG, HIGH = (100_000, 1000) if LONG else (5000, 200)
#: Seconds between two high events.
EVERY = 0.01

APP = """
class Ranked(Event, stream="ranked", priorities=("high", "low")):
    n: int
    high: bool = False

@app.on(Ranked)
async def ranked(event: Ranked) -> None:
    await asyncio.sleep(0.05)
    note("high" if event.high else "low", event.n)
"""


class Ranked(Event, stream="ranked", priorities=("high", "low")):
    n: int
    high: bool = False


async def latencies(app: App, ledger: Ledger, first: int) -> list[float]:
    """Publish high events at a steady pace; the seconds from each publish to its end, sorted."""
    published: dict[str, float] = {}
    for n in range(first, first + HIGH):
        published[str(n)] = time.monotonic()
        await app.publish(Ranked(n=n, high=True), priority="high")
        await asyncio.sleep(max(0.0, published[str(n)] + EVERY - time.monotonic()))
    await until(lambda: len([line for line in ledger.lines("high") if line.key in published]) == HIGH, 60)
    return sorted(line.at - published[line.key] for line in ledger.lines("high") if line.key in published)


@one_server
async def test_a_backlog_of_low_events_holds_up_no_high_one_and_does_not_starve(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    await start_worker(redis_server.url, APP, concurrency=50)
    async with App("chaos", broker=redis_server.url) as app:
        alone = await latencies(app, ledger, 0)
        await app.publish_many([Ranked(n=n) for n in range(BACKLOG)], priority="low")
        await until(lambda: len(ledger.lines("low")) > 100, 20)
        low = len(ledger.lines("low"))
        beside = await latencies(app, ledger, HIGH)
        low = len(ledger.lines("low")) - low

    assert len(ledger.lines("low")) < BACKLOG, "there was a backlog all the time"
    place = HIGH * 99 // 100
    for name, found in (("alone", alone), ("beside the backlog", beside)):
        measured(f"median of high events in seconds, {name}", found[HIGH // 2])
        measured(f"p99 of high events in seconds, {name}", found[place])
    measured("low events meanwhile", low)
    # CI's machines are busy: what a high event would wait for behind low ones is a second and more.
    assert beside[place] < (alone[place] * 1.2 if LONG else alone[place] + 0.2)
    assert low > HIGH * EVERY * 100
