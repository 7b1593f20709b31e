"""Retention under load: it never takes what a group has not finished, and all else does not pile up.

A hundred thousand lines would cost more than what is tested: handlers note one line for each hundred events, once all
of the hundred were handled, and one for each event that is handled again.
"""

from __future__ import annotations

import asyncio
import time

import pytest
import redis

from streamtask import App, Event
from streamtask.transport.connect import open_transport
from streamtask.transport.values import Subscription
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Job, Ledger, dead_letters, nothing_pending, publish, until
from tests.servers import RedisServer

STREAM = "stream:jobs"
FLOORS = "{stream:jobs}:floors"

#: Two groups. Entries of some kind are held until a gate opens; what fails comes back in a minute.
TWO_GROUPS = """
from collections import defaultdict
from streamtask import Retention

app = App("chaos", retention=Retention(max_age=MAX_AGE, max_entries=MAX_ENTRIES))
hundreds = defaultdict(set)


def count(group, n):
    hundred = hundreds[group, n // 100]
    if n in hundred:
        note("again", f"{group} {n}")
        return
    hundred.add(n)
    if len(hundred) == 100:
        note("hundred", f"{group} {n // 100}")


@app.on(Job, group="fast")
async def fast(job: Job) -> None:
    count("fast", job.n)


@app.on(Job, group="slow", retry=Retry(2, backoff=60.0))
async def slow(job: Job, ctx: Context) -> None:
    if job.kind == "held":
        note("held", job.n)
        await gate("go")
        return
    if job.kind == "fails":
        if ctx.attempt == 1:
            raise ValueError("in a minute")
        note("came back", job.n)
        return
    count("slow", job.n)
"""

DAY = 86400.0


@one_server
@pytest.mark.timeout(300 if LONG else 120)
async def test_nothing_is_removed_that_a_group_far_behind_has_not_finished_and_all_is_once_it_has(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, n, kept = redis_server.url, 1_000_000 if LONG else 50_000, 1000
    source = _source(max_entries=kept)
    client = redis_server.client()
    # It makes its group, and is away.
    slow = await start_worker(url, source, group="slow")
    assert await slow.terminate() == 0

    await start_worker(url, source, group="fast", concurrency=200)
    began = time.monotonic()
    await _publish_many(url, [Job(n=number) for number in range(n)])
    await until(lambda: len(ledger.lines("hundred")) == n // 100, 60)
    measured("events a second through one group", n / (time.monotonic() - began))
    await until(lambda: _checkpoint(client, "fast") == _last(client), 20)
    measured("MB of the stream with one group far behind", client.memory_usage(STREAM, samples=0) / 2**20)
    assert client.xlen(STREAM) == n
    assert _checkpoint(client, "slow") == "0-0"

    began = time.monotonic()
    await start_worker(url, source, group="slow", concurrency=200)
    await until(lambda: len(ledger.lines("hundred")) == 2 * n // 100, 60)
    measured("events a second through the group that was behind", n / (time.monotonic() - began))
    for group in ("slow", "fast"):
        await nothing_pending(url, group=group)
    await until(lambda: client.xlen(STREAM) <= kept, 25)
    measured("MB of the stream in the end", client.memory_usage(STREAM, samples=0) / 2**20)

    assert client.xlen(STREAM) == kept
    assert client.memory_usage(STREAM, samples=0) < 2**20
    assert ledger.count("hundred") == _all_hundreds(("fast", "slow"), 0, n)
    assert ledger.lines("again") == []
    assert await dead_letters(url, "jobs") == []


@one_server
@pytest.mark.parametrize("bound", ["max_entries", "max_age"])
async def test_an_event_that_is_held_for_long_pins_nothing_behind_it(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured, *, bound: str
) -> None:
    url, n, kept = redis_server.url, 20_000, 1000
    source = _source(max_entries=kept) if bound == "max_entries" else _source(max_age=1.0)
    client = redis_server.client()
    await start_worker(url, source, concurrency=200)
    await publish(url, [Job(n=-1, kind="held")])
    await until(lambda: ledger.lines("held"), 10)
    await _publish_many(url, [Job(n=number) for number in range(n)])
    await until(lambda: len(ledger.lines("hundred")) == 2 * n // 100, 30)
    done = time.monotonic()

    # Two rounds of a janitor, and some.
    await until(lambda: client.xlen(STREAM) <= kept + 1, 25)
    measured("seconds until all but the held one was removed", time.monotonic() - done)
    assert client.xrange(STREAM, count=1)[0][0] == client.xpending_range(STREAM, "slow", "-", "+", 1)[0]["message_id"]
    ledger.open_gate("go")
    for group in ("slow", "fast"):
        await nothing_pending(url, group=group)
    assert ledger.lines("again") == []


@one_server
async def test_thousands_of_events_that_wait_for_a_retry_pin_nothing_behind_them(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, n, waiting, kept = redis_server.url, 20_000, 3000, 1000
    client = redis_server.client()
    await start_worker(url, _source(max_entries=kept), concurrency=200)
    await _publish_many(url, [Job(n=-1 - number, kind="fails") for number in range(waiting)])
    await until(lambda: client.zcard("{stream:jobs}:retry:slow") == waiting, 20)
    await _publish_many(url, [Job(n=number) for number in range(n)])
    await until(lambda: len([line for line in ledger.lines("hundred") if "slow" in line.key]) == n // 100, 30)
    done = time.monotonic()

    await until(lambda: client.xlen(STREAM) <= kept + waiting, 25)
    measured("seconds until all but the waiting ones was removed", time.monotonic() - done)
    pending = client.xpending_range(STREAM, "slow", "-", "+", waiting + 1)
    assert len(pending) == waiting
    assert len(client.xrange(STREAM, pending[0]["message_id"], pending[-1]["message_id"])) == waiting


@one_server
@pytest.mark.skipif(not LONG, reason="a minute; the tests above show the same at rest")
@pytest.mark.timeout(120)
async def test_the_stream_stays_bounded_while_events_come_and_one_is_held(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, kept = redis_server.url, 1000
    client = redis_server.client()
    await start_worker(url, _source(max_entries=kept), concurrency=200)
    await publish(url, [Job(n=-1, kind="held")])
    await until(lambda: ledger.lines("held"), 10)
    longest, n, began = 0, 0, time.monotonic()
    async with App("chaos", broker=url) as app:
        while time.monotonic() - began < 60.0:
            await app.publish_many([Job(n=number) for number in range(n, n + 100)])
            n += 100
            if time.monotonic() - began > 12.0:
                longest = max(longest, client.xlen(STREAM))
            await asyncio.sleep(0.1)

    measured("events", n)
    measured("entries of the stream, most", longest)
    # What comes between two rounds of a janitor, twice, and what is kept.
    assert longest < kept + 2.5 * 10 * n / 60
    ledger.open_gate("go")
    await until(lambda: len(ledger.lines("hundred")) == 2 * n // 100, 30)


async def test_a_sweep_takes_nothing_that_is_pending_though_somebody_has_deleted_what_was_pending_too(
    redis_server: RedisServer,
) -> None:
    await publish(redis_server.url, [Job(n=n) for n in range(1100)])
    client = redis_server.client()
    transport = open_transport(redis_server.url)
    await transport.connect()
    try:
        await transport.register(Subscription(stream="jobs", group="slow"))
        held = await transport.fetch("slow", "owner", ["jobs"], count=1100, wait=0.0)
        client.xdel(STREAM, *(delivery.entry_id for delivery in held[100:150]))
        assert transport.retention is not None
        assert await transport.retention.trim("jobs", max_age=DAY, max_entries=10) == 0
    finally:
        await transport.close()
    assert client.xlen(STREAM) == 1050


def _source(*, max_age: float = DAY, max_entries: int = 1_000_000) -> str:
    return f"MAX_AGE, MAX_ENTRIES = {max_age}, {max_entries}\n{TWO_GROUPS}"


async def _publish_many(url: str, jobs: list[Event]) -> None:
    async with App("chaos", broker=url) as app:
        await app.publish_many(jobs)


def _checkpoint(client: redis.Redis, group: str) -> str:
    """Where the group was when a janitor last trimmed: written by the script that removes."""
    return (client.hget(FLOORS, group) or b"").decode()


def _last(client: redis.Redis) -> str:
    return client.xrevrange(STREAM, count=1)[0][0].decode()


def _all_hundreds(groups: tuple[str, ...], first: int, end: int) -> dict[str, int]:
    return {f"{group} {hundred}": 1 for group in groups for hundred in range(first // 100, end // 100)}
