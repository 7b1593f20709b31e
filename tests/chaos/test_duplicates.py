"""Duplicates: one set of effects for each identity, and an event is published once however often it is tried."""

from __future__ import annotations

import asyncio
import urllib.request
from contextlib import AsyncExitStack
from typing import Any

import pytest

from streamtask import App, Event, PublishError
from streamtask.transport.connect import open_transport
from tests.chaos.conftest import Measured, StartWorker
from tests.chaos.workers import (
    Job,
    Ledger,
    WorkerProcess,
    dead_letters,
    emitted,
    nothing_pending,
    publish,
    until,
)
from tests.servers import RedisServer

BOTS = """
class BotRequested(Event, stream="bot-control", key="bot_id"):
    bot_id: str


class BotStopRequested(Event, stream="bot-control", key="bot_id"):
    bot_id: str


class Scheduled(Event, stream="bot-control", key=("room", "hour")):
    room: str
    hour: int


async def handle(event, ctx, n):
    note("start", type(event).__name__, ctx.attempt)
    ctx.emit(Made(n=n, by=type(event).__name__))
    await gate("go")
    note("end", type(event).__name__, ctx.attempt)


@app.on(BotRequested)
async def request(event: BotRequested, ctx: Context) -> None:
    await handle(event, ctx, 1)


@app.on(BotStopRequested)
async def stop(event: BotStopRequested, ctx: Context) -> None:
    await handle(event, ctx, 2)


@app.on(Scheduled)
async def schedule(event: Scheduled, ctx: Context) -> None:
    await handle(event, ctx, 3)
"""

#: One event class, a group for each way to say what a duplicate is.
WAYS = """
class Order(Event, stream="orders", key="number"):
    number: int
    customer: str | None = None
    room: str = ""
    n: int = 0


def handler(group, **options):
    @app.on(Order, group=group, **options)
    async def handle(order: Order, ctx: Context) -> None:
        note(group, order.n, ctx.attempt)


handler("by-default")
handler("on", dedupe=True)
handler("off", dedupe=False)
handler("by-field", dedupe="customer")
handler("by-callable", dedupe=lambda order: order.room.lower() or None)
"""

#: Rejects until the gate is open.
REJECTS = """
class Order(Event, stream="orders", key="number"):
    number: int
    n: int


@app.on(Order)
async def handle(order: Order, ctx: Context) -> None:
    note("start", order.n, ctx.attempt)
    if order.n == 1 and not is_open("mended"):
        raise Reject("not yet")
    ctx.emit(Made(n=order.n))
    note("end", order.n, ctx.attempt)
"""

NOTES = """
@app.on(Job)
async def handle(job: Job) -> None:
    note("end", job.n)
"""


class BotRequested(Event, stream="bot-control", key="bot_id"):
    bot_id: str


class BotStopRequested(Event, stream="bot-control", key="bot_id"):
    bot_id: str


class Scheduled(Event, stream="bot-control", key=("room", "hour")):
    room: str
    hour: int


class Order(Event, stream="orders", key="number"):
    number: int
    customer: str | None = None
    room: str = ""
    n: int = 0


async def test_two_events_of_one_key_that_run_at_once_in_two_workers_have_one_set_of_effects(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    pairs = [BotRequested(bot_id="7"), BotStopRequested(bot_id="7"), Scheduled(room="a", hour=1)]
    # The first worker has no slot left when the second of each pair comes.
    workers: list[WorkerProcess] = []
    for running in (3, 6):
        workers.append(await start_worker(url, BOTS, concurrency=3, metrics_port=0))
        await publish(url, pairs)
        await until(lambda running=running: len(ledger.lines("start")) == running, 10)  # type: ignore[misc]
    pids = [{line.pid for line in ledger.lines("start") if line.key == type(event).__name__} for event in pairs]

    ledger.open_gate("go")
    await nothing_pending(url, "bot-control")
    assert [len(each) for each in pids] == [2, 2, 2], "not at the same time in two workers"
    # Both ran, by the promise of the page on duplicates; the second one's effects are dropped.
    assert ledger.count("end") == {"BotRequested": 2, "BotStopRequested": 2, "Scheduled": 2}
    made = sorted((each["n"], each["by"]) for each in await emitted(url, "made"))
    assert made == [(1, "BotRequested"), (2, "BotStopRequested"), (3, "Scheduled")]
    # The lines come behind what they tell of.
    await until(lambda: sum(len(worker.logs("deduplicated")) for worker in workers) == 3, 10)
    assert sum([await _deduplicated(worker) for worker in workers]) == 3
    assert await dead_letters(url, "bot-control") == []

    # And later ones do not run at all.
    await publish(url, [*pairs, BotRequested(bot_id="8")])
    await until(lambda: ledger.count("end")["BotRequested"] == 3, 10)
    await nothing_pending(url, "bot-control")
    assert sum(ledger.count("end").values()) == 7
    await until(lambda: sum(len(worker.logs("deduplicated")) for worker in workers) == 6, 10)
    assert len(await emitted(url, "made")) == 4


async def test_what_a_duplicate_is_can_be_said_by_key_by_field_and_by_callable_or_not_at_all(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    await start_worker(url, WAYS)
    orders = [
        {"number": 1, "customer": "ann", "room": "A"},
        {"number": 1, "customer": "ann", "room": "a"},
        {"number": 2, "customer": "ann", "room": "b"},
        {"number": 2, "customer": "bob", "room": "B"},
        {"number": 3, "customer": None, "room": ""},
        {"number": 4, "customer": None, "room": ""},
        {"number": 5, "customer": "None", "room": "c"},
    ]
    groups = {
        "by-default": {0, 2, 4, 5, 6},
        "on": {0, 2, 4, 5, 6},
        "off": set(range(7)),
        # What has no identity is a duplicate of nothing.
        "by-field": {0, 3, 4, 5, 6},
        "by-callable": {0, 2, 4, 5, 6},
    }
    # One after the other: which of two is the duplicate is then known.
    for number, order in enumerate(orders, 1):
        await publish(url, [Order(**order, n=number - 1)])
        await until(lambda number=number: ledger.count("off")[str(number - 1)], 10)  # type: ignore[misc]
        for group in groups:
            await nothing_pending(url, "orders", group)

    handled = {group: {int(key) for key in ledger.count(group)} for group in groups}
    assert handled == groups
    assert {line.attempt for line in ledger.lines()} == {1}
    assert {n for group in groups for n in ledger.count(group).values()} == {1}


async def test_the_replay_of_a_dead_letter_ignores_the_marks_and_renews_them(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    worker = await start_worker(url, REJECTS)
    await publish(url, [Order(number=7, n=1)])
    await nothing_pending(url, "orders")
    [letter] = await _until_dead(url, "orders", 1)
    # A failure leaves no mark: the next event of the key is handled, and leaves one.
    await publish(url, [Order(number=7, n=2)])
    await until(lambda: ledger.count("end") == {"2": 1}, 10)

    ledger.open_gate("mended")
    transport = open_transport(url)
    await transport.connect()
    try:
        assert transport.dead_letters is not None
        assert await transport.dead_letters.replay("orders", letter.dead_id)
    finally:
        await transport.close()
    await until(lambda: ledger.count("end") == {"1": 1, "2": 1}, 10)
    await publish(url, [Order(number=7, n=3)])
    await until(lambda: worker.logs("deduplicated"), 10)
    await nothing_pending(url, "orders")

    assert ledger.count("end") == {"1": 1, "2": 1}
    assert [each["n"] for each in await emitted(url, "made")] == [2, 1]
    assert await dead_letters(url, "orders") == []
    assert len(worker.logs("deduplicated")) == 1


async def test_fifty_publishers_with_one_dedup_key_store_one_event(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(App("chaos", broker=url)) for _ in range(10)]
        await asyncio.gather(*(app.publish(Job(n=n), dedup_key="one") for n in range(5) for app in apps))
        await asyncio.gather(*(app.publish(Job(n=100 + n), dedup_key=f"{n}") for n in range(5) for app in apps))
        # One that is delayed counts as published too.
        await asyncio.gather(*(app.publish(Job(n=200), dedup_key="later", delay=0.5) for app in apps))
        await asyncio.gather(*(app.publish(Job(n=201), dedup_key="later") for app in apps))

    assert len(await emitted(url, "jobs")) == 6
    await start_worker(url, NOTES)
    await until(lambda: len(ledger.lines("end")) == 7, 10)
    await nothing_pending(url)
    assert sorted(ledger.count("end").values()) == [1] * 7


#: How an app writes its events: publishing again has to find them in each form.
FORMS: dict[str, dict[str, Any]] = {"plain": {}, "gzip": {"compress": "gzip"}, "msgpack": {"codec": "msgpack"}}


@pytest.mark.timeout(90)
async def test_an_event_that_is_published_again_after_an_error_is_stored_once(
    private_redis: RedisServer, measured: Measured
) -> None:
    """The server stands still for longer than a publisher waits, and then does what it was asked to do."""
    client = private_redis.client()
    events = {"plain": Job(n=1), "gzip": Job(n=2), "msgpack": Job(n=3)}
    async with AsyncExitStack() as stack:
        apps = {
            form: await stack.enter_async_context(App("chaos", broker=private_redis.url, **options))
            for form, options in FORMS.items()
        }
        warm = [await apps[form].publish(Job(n=0)) for form in FORMS]
        late = await stack.enter_async_context(App("chaos", broker=private_redis.url))
        await late.publish(Job(n=0), delay=0.01)
        client.close()

        private_redis.pause()
        failed = await asyncio.gather(
            *(apps[form].publish(event) for form, event in events.items()),
            late.publish(Job(n=4), delay=3600),
            return_exceptions=True,
        )
        assert all(type(error) is PublishError for error in failed), failed
        ids = [error.event_id for error in failed if isinstance(error, PublishError)]
        # Impatient: again while it still stands still.
        again = asyncio.gather(
            *(apps[form].publish(event, event_id=id_) for (form, event), id_ in zip(events.items(), ids, strict=False)),
            return_exceptions=True,
        )
        await asyncio.sleep(0.5)
        private_redis.resume()
        await again
        for form, event_id in zip(events, ids, strict=False):
            for _ in range(3):
                assert await apps[form].publish(events[form], event_id=event_id) == event_id
        assert await late.publish(Job(n=4), delay=3600, event_id=ids[3]) == ids[3]

    client = private_redis.client()
    measured("entries for three events that were published five times each", client.xlen("stream:jobs") - len(warm))
    assert client.xlen("stream:jobs") == len(warm) + len(events)
    assert client.zcard("{stream:jobs}:delayed") == 2
    assert client.hlen("{stream:jobs}:delayed:body") == 2


async def test_an_event_whose_connection_breaks_while_it_is_published_is_stored_once(redis_server: RedisServer) -> None:
    """Cut at any moment: before the command arrives, or between it and its reply."""
    url = redis_server.url
    killer = redis_server.client()
    raised = 0
    async with App("chaos", broker=url) as app:
        for n in range(100):
            publishing = asyncio.create_task(app.publish(Job(n=n)))
            for _ in range(n % 8):
                await asyncio.sleep(0)
            killer.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            try:
                await publishing
            except PublishError as error:
                raised += 1
                while True:
                    try:
                        await app.publish(Job(n=n), event_id=error.event_id)
                    except PublishError:
                        continue
                    break

    numbers = sorted(each["n"] for each in await emitted(url, "jobs"))
    assert numbers == list(range(100))
    assert raised > 20, "the cuts hit nothing"


async def _until_dead(url: str, stream: str, n: int) -> list[Any]:
    async def there() -> bool:
        return len(await dead_letters(url, stream)) == n

    await until(there, 10)
    return await dead_letters(url, stream)


async def _deduplicated(worker: WorkerProcess) -> float:
    """What the worker has counted."""
    [line] = worker.logs("probes.started")
    with urllib.request.urlopen(f"http://127.0.0.1:{line['port']}/metrics") as answer:  # noqa: ASYNC210 - loopback
        lines = answer.read().decode().splitlines()
    return sum(float(each.rpartition(" ")[2]) for each in lines if each.startswith("streamtask_deduplicated_total{"))
