"""A worker that stands still past its lease and then goes on: whatever it does with its old events is refused."""

from __future__ import annotations

import asyncio

from streamtask import Event
from tests.chaos.conftest import Measured, StartWorker
from tests.chaos.workers import Job, Ledger, dead_letters, emitted, nothing_pending, publish, until
from tests.servers import RedisServer

#: The first run of each event belongs to the worker that is stopped, the second to its successor, which is still busy
#: when the first goes on. `Order` is handled on the loop and can be cancelled, `Job` in a thread and cannot.
TWICE = """
class Order(Event, stream="orders", key="n"):
    n: int
    kind: str = ""


def begin(event, ctx):
    first = not is_open("successor")
    note("start", event.n, ctx.attempt, first=first)
    ctx.emit(Made(n=event.n, by="first" if first else "successor"))
    return first


def finish(event, ctx, first):
    note("end", event.n, ctx.attempt, first=first)
    if first and event.kind == "raise":
        raise ValueError("too late")
    if first and event.kind == "reject":
        raise Reject("too late")


@app.on(Order)
async def on_the_loop(order: Order, ctx: Context) -> None:
    first = begin(order, ctx)
    await gate("first" if first else "second")
    finish(order, ctx, first)


@app.on(Job, dedupe="n")
def in_a_thread(job: Job, ctx: Context) -> None:
    first = begin(job, ctx)
    blocking_gate("first" if first else "second")
    finish(job, ctx, first)
"""

KINDS = ("", "raise", "reject")


class Order(Event, stream="orders", key="n"):
    n: int
    kind: str = ""


async def test_what_a_stopped_worker_does_after_its_lease_is_refused_and_its_successors_effects_stand(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    stopped = await start_worker(url, TWICE, lease=1.5)
    events: list[Event] = [Order(n=n, kind=KINDS[n % 3]) for n in range(30)]
    events += [Job(n=n, kind=KINDS[n % 3]) for n in range(30, 60)]
    await publish(url, events)
    await until(lambda: len(ledger.running()) == 60, 10)

    await stopped.stop_whole()
    ledger.open_gate("successor")
    successor = await start_worker(url, TWICE, lease=1.5)
    await until(lambda: len(ledger.running()) == 120, 30)
    ledger.open_gate("first")
    await stopped.continue_whole()
    await until(lambda: len(stopped.logs("lease_lost")) >= 60, 15)
    ledger.open_gate("second")
    await nothing_pending(url, "orders")
    await nothing_pending(url, "jobs")

    made = await emitted(url, "made")
    assert sorted(each["n"] for each in made) == list(range(60))
    assert {each["by"] for each in made} == {"successor"}
    assert await dead_letters(url, "jobs") == await dead_letters(url, "orders") == []
    await until(lambda: len(stopped.logs("lease_lost")) == 60, 10)
    assert successor.logs("lease_lost") == successor.logs("deduplicated") == []
    assert {line.attempt for line in ledger.lines()} == {1}
    measured("late runs that came to their end", sum(line.more["first"] for line in ledger.lines("end")))


async def test_a_pause_shorter_than_a_heartbeat_lives_costs_nothing(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    stopped = await start_worker(url, TWICE)
    other = await start_worker(url, TWICE)
    await publish(url, [Job(n=n) for n in range(20)])
    await until(lambda: len(ledger.running()) == 20, 10)

    await stopped.stop_whole()
    await asyncio.sleep(2.0)
    await stopped.continue_whole()
    ledger.open_gate("first")
    await nothing_pending(url)

    assert set(ledger.count("start").values()) == set(ledger.count("end").values()) == {1}
    assert stopped.logs("lease_lost") == other.logs("lease_lost") == []
