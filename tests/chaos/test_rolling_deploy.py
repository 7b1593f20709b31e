"""Old and new releases side by side: whatever is restarted when, and whoever is deployed first, nothing is lost."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from streamtask import App, Event
from streamtask.transport.connect import open_transport
from streamtask.transport.redis import keys
from streamtask.transport.values import Subscription
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Ledger, WorkerProcess, dead_letters, emitted, nothing_pending, pending, until
from tests.servers import RedisServer

#: Restarts of the long test.
RESTARTS = 100 if LONG else 20

HANDLE = """
async def handle(event, ctx, by):
    note("start", event.n, ctx.attempt, by=by)
    await asyncio.sleep(0.02)
    ctx.emit(Made(n=event.n, by=by))
    note("end", event.n, ctx.attempt, by=by)
"""

#: The release that runs: one event type.
OLD = (
    HANDLE
    + """
class Order(Event, stream="orders"):
    n: int
    euros: float


@app.on(Order)
async def order(order: Order, ctx: Context) -> None:
    await handle(order, ctx, "old")
"""
)

#: The next release: a new version of that type, and a second type on the same stream.
NEW = (
    HANDLE
    + """
class Order(Event, stream="orders", version="v2"):
    n: int
    cents: int


@Order.upcast("v1")
def _(payload):
    return {"n": payload["n"], "cents": round(payload["euros"] * 100)}


class Refund(Event, stream="orders"):
    n: int


@app.on(Order)
async def order(order: Order, ctx: Context) -> None:
    assert order.cents == order.n * 100
    await handle(order, ctx, "new")


@app.on(Refund)
async def refund(refund: Refund, ctx: Context) -> None:
    await handle(refund, ctx, "new")
"""
)

#: As `NEW`, but the upcaster is registered below the handler.
NEW_UPSIDE_DOWN = (
    HANDLE
    + """
class Order(Event, stream="orders", version="v2"):
    n: int
    cents: int


@app.on(Order)
async def order(order: Order, ctx: Context) -> None:
    await handle(order, ctx, "new")


@Order.upcast("v1")
def _(payload):
    return {"n": payload["n"], "cents": round(payload["euros"] * 100)}
"""
)


class OldOrder(Event, stream="orders", type="Order"):
    n: int
    euros: float


class NewOrder(Event, stream="orders", type="Order", version="v2"):
    n: int
    cents: int


class Refund(Event, stream="orders"):
    n: int


class LaterOrder(Event, stream="orders", type="Order", version="v3"):
    n: int


MAKE: tuple[Callable[[int], Event], ...] = (
    lambda n: OldOrder(n=n, euros=float(n)),
    lambda n: NewOrder(n=n, cents=n * 100),
    lambda n: Refund(n=n),
)


class Producers:
    """Both releases of a producer; numbers events through."""

    def __init__(self, url: str) -> None:
        # An app knows one class of a type.
        self._apps = [App("chaos", broker=url) for _ in MAKE]
        self.published = 0
        self.enough = False

    async def publish(self, *kinds: int) -> None:
        """One event of each kind: 0 the old type, 1 its new version, 2 the new type."""
        for kind in kinds:
            async with self._apps[kind] as app:
                await app.publish(MAKE[kind](self.published))
            self.published += 1

    async def keep_on(self, pause: float) -> None:
        """Publish until it is enough."""
        async with self._apps[0], self._apps[1], self._apps[2]:
            while not self.enough:
                await self.publish(0, 1, 2)
                await asyncio.sleep(pause)


class Fleet:
    """Two workers of each release, any of which may be down."""

    def __init__(self, url: str, start_worker: StartWorker, chance: random.Random) -> None:
        self._url = url
        self._start_worker = start_worker
        self._chance = chance
        self.running: dict[str, WorkerProcess] = {}
        self.ends: Counter[str] = Counter()

    async def start(self, *names: str) -> None:
        """Start these."""
        for name in names:
            source = OLD if name.startswith("old") else NEW
            self.running[name] = await self._start_worker(self._url, source, concurrency=10, shutdown_timeout=5)

    async def end(self, *names: str) -> None:
        """End these, in one way or another."""
        for name in names:
            worker = self.running.pop(name)
            way = self._chance.choice(["terminated", "terminated", "killed"])
            self.ends[way] += 1
            if way == "killed":
                await worker.kill_whole()
            else:
                assert await worker.terminate() == 0

    async def restart(self, *names: str) -> None:
        """End and start these."""
        await self.end(*names)
        await self.start(*names)


@one_server
@pytest.mark.timeout(400 if LONG else 150)
async def test_a_rolling_deploy_with_restarts_in_any_order_loses_skips_and_dead_letters_nothing(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    seed = int(os.environ.get("STREAMTASK_SEED", time.time_ns() % 1_000_000))
    measured("seed (STREAMTASK_SEED)", seed)
    chance = random.Random(seed)
    fleet, producers = Fleet(url, start_worker, chance), Producers(url)
    await fleet.start("old-1", "old-2")
    await producers.publish(*[0] * 20)
    await fleet.start("new-1")
    load = asyncio.create_task(producers.keep_on(0.05))
    await fleet.start("new-2")

    for step in range(RESTARTS):
        if step % 7 == 3:
            # A moment without any new worker, while its events come in.
            news = [name for name in fleet.running if name.startswith("new")]
            await fleet.end(*news)
            await until(functools.partial(_ten_wait, url), 20)
            await fleet.start(*news)
        else:
            await fleet.restart(chance.choice(sorted(fleet.running)))
    producers.enough = True
    await load
    await nothing_pending(url, "orders", within=40)

    n = producers.published
    made = Counter(each["n"] for each in await emitted(url, "made"))
    assert {number: made[number] for number in range(n) if made[number] != 1} == {}
    assert sum(made.values()) == n
    assert await dead_letters(url, "orders") == []
    assert await _skipped(url) == {}
    again = {key: runs for key, runs in ledger.count("start").items() if runs > 1}
    measured("events", n)
    measured("restarts", sum(fleet.ends.values()))
    measured("of them by SIGKILL of the supervisor and its child", fleet.ends["killed"])
    measured("events handled by an old worker", sum(line.more["by"] == "old" for line in ledger.lines("end")))
    measured("events that ran more than once", len(again))


async def test_a_type_that_a_new_worker_has_just_registered_is_not_skipped_by_workers_that_started_before_it(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    """The producers go first, as soon as one new worker was seen to start; it is gone again by then."""
    url = redis_server.url
    producers = Producers(url)
    old = await start_worker(url, OLD)
    await producers.publish(0)
    await until(lambda: ledger.count("end") == {"0": 1}, 10)
    new = await start_worker(url, NEW)
    assert await new.terminate() == 0

    await producers.publish(*[1, 2] * 10)
    await producers.publish(0)
    await until(lambda: ledger.count("end")["21"], 10)
    # The old worker has been through all of them, and keeps for the new one what is its.
    assert await _skipped(url) == {}
    assert await pending(url, "orders") == 20
    await start_worker(url, NEW)
    await nothing_pending(url, "orders")

    assert ledger.count("start") == ledger.count("end") == {str(n): 1 for n in range(22)}
    assert sorted(each["n"] for each in await emitted(url, "made")) == list(range(22))
    assert {line.attempt for line in ledger.lines()} == {1}
    assert await dead_letters(url, "orders") == []
    assert old.logs("event.dead") == []


async def test_a_type_that_nobody_had_registered_is_skipped_counted_and_can_be_brought_back_when_it_is(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    producers = Producers(url)
    old = await start_worker(url, OLD)
    await producers.publish(*[2] * 10)
    await producers.publish(0)
    await until(lambda: ledger.count("end") == {"10": 1}, 10)
    await nothing_pending(url, "orders")
    entries = [delivery.entry_id for delivery in await _read(url)]
    assert await _skipped(url) == {"Refund": {"first_id": entries[0], "count": 10}}
    assert old.logs("events.were_skipped") == []

    new = await start_worker(url, NEW)
    [line] = new.logs("events.were_skipped")
    assert (line["skipped_type"], line["first_id"]) == ("Refund", entries[0])
    assert line["bring_back"] == f"streamtask replay --stream orders --group chaos --since {entries[0]}"
    assert await _skipped(url) == {}
    assert set(ledger.count("end")) == {"10"}

    # What that command does.
    transport = open_transport(url)
    await transport.connect()
    try:
        assert transport.inspection is not None
        found = await transport.inspection.replay_history("orders", "chaos", since=entries[0], generation="r1")
    finally:
        await transport.close()
    assert found == 11
    await until(lambda: len(ledger.count("end")) == 11, 10)
    await nothing_pending(url, "orders")
    assert {key for key, runs in ledger.count("end").items() if runs == 1} == {str(n) for n in range(10)}
    assert await dead_letters(url, "orders") == []


async def test_what_is_skipped_after_its_type_was_registered_could_not_be_brought_back_and_so_waits(
    redis_server: RedisServer,
) -> None:
    """A worker decides to skip, another one registers the type, the first one settles: as late as that it is kept."""
    subscription = Subscription(stream="orders", group="chaos", handles=frozenset({("Order", "v1")}))
    app = App("chaos", broker=redis_server.url)

    @app.on(OldOrder)
    async def handle(order: OldOrder) -> None: ...

    async with app, App("chaos", broker=redis_server.url) as producer:
        await app.transport.register(subscription)
        await producer.publish(Refund(n=1))
        [delivery] = await app.transport.fetch("chaos", "old", ["orders"], count=1, wait=1.0)
        outcome = app.broker.plan(delivery, {(delivery.stream, delivery.group): subscription.handles})
        newer = Subscription(stream="orders", group="chaos", handles=frozenset({("Refund", "v1")}))
        found = await app.transport.register(newer)
        await app.transport.settle([(delivery, outcome)])

        claimed = await app.transport.recovery.claim(newer, "new", count=1)
        assert found.skipped_before == {}
        assert [each.entry_id for each in claimed.deliveries] == [delivery.entry_id]
    assert await _skipped(redis_server.url) == {}


async def test_an_upcaster_that_is_registered_after_the_handler_reads_old_events_all_the_same(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    producers = Producers(url)
    await producers.publish(0, 1, 0)
    await start_worker(url, NEW_UPSIDE_DOWN)
    await until(lambda: len(ledger.lines("end")) == 3, 5)
    await nothing_pending(url, "orders")
    assert ledger.count("start") == {"0": 1, "1": 1, "2": 1}


async def test_what_waits_too_long_for_a_worker_of_its_release_becomes_a_dead_letter_that_can_be_replayed(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    client = redis_server.client()
    producers = Producers(url)
    new = await start_worker(url, NEW)
    assert await new.terminate() == 0
    await start_worker(url, OLD)
    await producers.publish(2, 1, 0)
    async with App("chaos", broker=url) as app:
        await app.publish(LaterOrder(n=-1))
    await until(lambda: ledger.count("end") == {"2": 1}, 10)

    async def three_wait() -> bool:
        return await pending(url, "orders") == 3

    await until(three_wait, 10)
    assert await dead_letters(url, "orders") == []
    # Ten minutes pass, but for those of the new version.
    late = [("Refund", "v1"), ("Order", "v3")]
    for type_, version in late:
        index = keys.wait("orders", "chaos", type_, version)
        [(entry_id, due)] = client.zrange(index, 0, -1, withscores=True)
        assert 590 < due / 1000 - time.time() < 610
        client.zadd(index, {entry_id: due - 600_000})

    async def two_are_dead() -> bool:
        return len(await dead_letters(url, "orders")) == 2

    await until(two_are_dead, 10)
    letters = {letter.event_type: letter for letter in await dead_letters(url, "orders")}
    assert {type_: letter.reason for type_, letter in letters.items()} == {
        "Refund": "unsupported_type",
        "Order": "unsupported_version",
    }
    assert {letter.attempts for letter in letters.values()} == {1}
    assert await pending(url, "orders") == 1

    await start_worker(url, NEW)
    async with App("chaos", broker=url) as app:
        assert app.transport.dead_letters is not None
        await app.transport.dead_letters.replay("orders", letters["Refund"].dead_id)
    await until(lambda: len(ledger.lines("end")) == 3, 10)
    await nothing_pending(url, "orders")
    assert ledger.count("end") == {"0": 1, "1": 1, "2": 1}
    assert client.smembers(keys.waits("orders", "chaos")) == set()


@pytest.mark.parametrize("version", ["v1\tx", "v1:x", "v9\n", "\x1b[2J", "v" * 512])
async def test_a_version_of_odd_letters_waits_no_longer_than_any_other(redis_server: RedisServer, version: str) -> None:
    """From a foreign producer. It must neither wait for ever nor go round in circles."""
    client = redis_server.client()
    app = App("chaos", broker=redis_server.url)
    handled: list[int] = []

    @app.on(OldOrder)
    async def handle(order: OldOrder) -> None:
        handled.append(order.n)

    body = app.broker.outgoing(OldOrder(n=1, euros=1.0), event_id="e", trace_id="t").body
    odd = body.replace(b'"schema_version":"v1"', b'"schema_version":' + json.dumps(version).encode())
    assert odd != body
    client.execute_command("XADD", "stream:orders", "*", "envelope", odd)
    client.execute_command("XADD", "stream:orders", "*", "envelope", body)

    async def settled_or_waiting() -> bool:
        owners = {each["name"]: each["pending"] for each in client.xinfo_consumers("stream:orders", "chaos")}
        return all(not n or name == b"~waiting" for name, n in owners.items())

    async with app.worker() as worker:
        await until(lambda: handled == [1], 10)
        await until(settled_or_waiting, 10)
        # Ten minutes pass, for whatever waits; and the janitor has been round.
        for key in client.keys("{stream:orders}:wait:*"):
            client.zadd(key, dict.fromkeys(client.zrange(key, 0, -1), 0))
        await app.transport.recovery.mend("orders", "chaos")

        async def is_dead() -> bool:
            return len(await dead_letters(redis_server.url, "orders")) == 1

        await until(is_dead, 5)
        assert worker.still_running == 0
    [letter] = await dead_letters(redis_server.url, "orders")
    assert letter.reason in {"unsupported_version", "undecodable"}
    assert await pending(redis_server.url, "orders") == 0


async def _ten_wait(url: str) -> bool:
    """Whether old workers have put events aside for new ones."""
    transport = open_transport(url)
    await transport.connect()
    try:
        assert transport.inspection is not None
        entries = await transport.inspection.pending("orders", "chaos", limit=10_000)
    finally:
        await transport.close()
    return sum(entry.consumer == keys.WAITING for entry in entries) >= 10


async def _read(url: str) -> list[Any]:
    transport = open_transport(url)
    await transport.connect()
    try:
        return await transport.read("orders", after="0", count=10_000, wait=0.0)
    finally:
        await transport.close()


async def _skipped(url: str) -> Mapping[str, object]:
    """What the group has skipped: type -> first id and count."""
    transport = open_transport(url)
    await transport.connect()
    try:
        assert transport.inspection is not None
        [group] = await transport.inspection.groups("orders")
    finally:
        await transport.close()
    skipped = group["skipped"]
    assert isinstance(skipped, Mapping)
    return skipped
