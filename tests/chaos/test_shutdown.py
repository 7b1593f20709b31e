"""SIGTERM: what runs may end, what has not is handed back and charged to nobody; a second one ends it now."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from contextlib import suppress
from functools import partial

from streamtask.transport.connect import open_transport
from streamtask.transport.values import Delivery, Subscription
from tests.chaos.conftest import Measured, StartWorker
from tests.chaos.oracle import LOAD, consuming_again, each_event_once
from tests.chaos.workers import Job, Ledger, Publisher, dead_letters, nothing_pending, pending, publish, until
from tests.servers import RedisServer

#: `quick` ends when asked to, what is of no kind when the test lets it.
HELD = """
@app.on(Job)
async def held(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    if job.kind == "quick":
        await gate("quick")
    else:
        await gate("go")
    note("end", job.n, ctx.attempt)


@app.on(Job, group="threads", concurrency=3)
def held_in_a_thread(job: Job, ctx: Context) -> None:
    note("start", f"thread-{job.n}", ctx.attempt)
    blocking_gate("go")
    note("end", f"thread-{job.n}", ctx.attempt)
"""

ALL = {str(n): 1 for n in range(30)} | {f"thread-{n}": 1 for n in range(30)}


async def test_sigterm_drains_exits_with_0_and_hands_the_rest_back_uncharged(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    worker = await start_worker(url, HELD, concurrency=20, shutdown_timeout=2)
    await publish(url, [Job(n=n, kind="quick" if n < 5 else "") for n in range(30)])
    await until(lambda: len(ledger.running()) >= 20, 10)

    worker.send(signal.SIGTERM)
    asked = time.monotonic()
    await until(lambda: bool(worker.logs("worker.draining")), 5)
    ledger.open_gate("quick")
    assert await worker.exit_code() == 0

    measured("seconds until the worker had drained, of which it waits 2", time.monotonic() - asked)
    ended = ledger.count("end")
    # At the head of the stream, so they were running; they had their time and are done.
    assert ended == {str(n): 1 for n in range(5)}
    for group, left in (("chaos", 25), ("threads", 30)):
        handed_back = await _what_is_due(url, group)
        assert {each.crashes for each in handed_back} <= {0}
        assert {each.attempt for each in handed_back} <= {1}
        assert await _unfinished(url, group) == left

    successor = await start_worker(url, HELD, concurrency=100)
    ledger.open_gate("go")
    await until(lambda: ledger.count("end") == ALL, 20)
    await nothing_pending(url)
    await nothing_pending(url, group="threads")
    assert {line.attempt for line in ledger.lines()} == {1}
    assert await dead_letters(url, "jobs") == []
    assert successor.logs("event.isolated") == []


async def test_many_restarts_in_order_make_no_event_a_suspect(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    await publish(url, [Job(n=n) for n in range(30)])
    for _ in range(4):
        before = len(ledger.lines("start"))
        worker = await start_worker(url, HELD, concurrency=100, shutdown_timeout=0.2)
        await until(partial(_started, ledger, before + 33), 10)
        assert await worker.terminate() == 0

    successor = await start_worker(url, HELD, concurrency=100)
    ledger.open_gate("go")
    await until(lambda: ledger.count("end") == ALL, 20)
    assert {line.attempt for line in ledger.lines()} == {1}
    assert successor.logs("event.isolated") == []


async def test_a_second_sigterm_ends_it_now_and_what_it_ran_is_restarted_uncharged(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    worker = await start_worker(url, HELD, concurrency=100, shutdown_timeout=60)
    await publish(url, [Job(n=n, kind="") for n in range(30)])
    await until(lambda: len(ledger.running()) == 33, 10)
    (child,) = await worker.child_pids()

    worker.send(signal.SIGTERM)
    await until(lambda: bool(worker.logs("worker.draining")), 5)
    worker.send(signal.SIGTERM)
    asked = time.monotonic()
    await worker.exit_code(5)
    measured("seconds until the worker had ended after the second SIGTERM", time.monotonic() - asked)

    successor = await start_worker(url, HELD, concurrency=100)
    await until(lambda: sum(line.pid != child for line in ledger.lines("start")) >= 33, 20)
    ledger.open_gate("go")
    await until(lambda: ledger.count("end") == ALL, 20)
    await nothing_pending(url)
    assert {line.attempt for line in ledger.lines()} == {1}
    assert successor.logs("event.isolated") == []


async def test_a_storm_of_signals_loses_nothing_whether_it_asks_to_replace_or_to_end(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured, chance: random.Random
) -> None:
    url = redis_server.url
    worker = await start_worker(url, LOAD, processes=2, concurrency=10)
    async with Publisher(url) as publisher:
        before = set(await worker.child_pids())
        for _ in range(20):
            worker.send(signal.SIGHUP)
            await asyncio.sleep(chance.uniform(0.0, 0.05))

        async def are_replaced() -> bool:
            pids = set(await worker.child_pids())
            return len(pids) == 2 and not pids & before

        await until(are_replaced, 30)
        handled = len(ledger.lines("end"))
        await until(lambda: len(ledger.lines("end")) > handled + 10, 10)

        asked = time.monotonic()
        numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1]
        chance.shuffle(numbers)
        with suppress(ProcessLookupError):
            for number in numbers * 3:
                worker.send(number)
                await asyncio.sleep(chance.uniform(0.0, 0.02))
        await worker.exit_code(10)
        measured("seconds until it had ended", time.monotonic() - asked)
        assert time.monotonic() - asked < 5

        await start_worker(url, LOAD, concurrency=10)
        await consuming_again(ledger, publisher, 15)
    await each_event_once(url, ledger, publisher, measured)


def _started(ledger: Ledger, least: int) -> bool:
    return len(ledger.lines("start")) >= least


async def _what_is_due(url: str, group: str) -> list[Delivery]:
    """Look at what was handed back by taking it, and hand it back again uncharged."""
    transport = open_transport(url)
    await transport.connect()
    try:
        job = Subscription(stream="jobs", group=group)
        claimed = await transport.recovery.claim(job, "onlooker", count=1000)
        await transport.recovery.hand_back("jobs", group, "onlooker", started=())
        await transport.recovery.retire("onlooker", [job])
        return list(claimed.deliveries)
    finally:
        await transport.close()


async def _unfinished(url: str, group: str) -> int:
    transport = open_transport(url)
    await transport.connect()
    try:
        (stats,) = await transport.stats("jobs", group)
        return await pending(url, "jobs", group) + (stats.lag or 0)
    finally:
        await transport.close()
