"""Clocks that are wrong: a worker's may show anything; what the server's may do, when it is set, is counted.

Programs are given a time of day of their own (`clock.c`), which the test sets while they run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from streamtask import App
from streamtask.transport.connect import open_transport
from streamtask.transport.redis import keys
from streamtask.transport.values import Subscription
from tests.chaos.clocks import HOUR, WrongClock
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.oracle import LONG_RUNNING, Task, consuming_again, each_event_once, no_suspects
from tests.chaos.preload import compiled
from tests.chaos.workers import LONG, Job, Ledger, Publisher, emitted, nothing_pending, publish, until
from tests.servers import RedisServer, ServerBinary

#: Seconds that this machine may be late by.
MARGIN = 4.0

#: (ahead=0.0) -> a clock of its own.
MakeClock = Callable[..., WrongClock]


@pytest.fixture
def make_clock(tmp_path: Path) -> MakeClock:
    """Clocks for programs."""
    library = compiled("clock", tmp_path)
    made: list[WrongClock] = []

    def make(**options: float) -> WrongClock:
        made.append(WrongClock(library, tmp_path / f"clock-{len(made)}", **options))
        return made[-1]

    return make


@pytest.fixture
def server_clock(make_clock: MakeClock) -> WrongClock:
    """That of the server."""
    return make_clock()


@pytest.fixture
def server(server_binary: ServerBinary, server_clock: WrongClock) -> Iterator[RedisServer]:
    """One whose clock can be set."""
    server = RedisServer(server_clock.of(server_binary), appendfsync="always")
    server.start()
    yield server
    server.close()


IN_SOME_TIME = """
from datetime import UTC, datetime, timedelta

from streamtask import Tick


@app.on(Job, retry=Retry(3, backoff=1.0))
async def handle(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt, clock=time.time())
    if job.kind == "fails" and ctx.attempt < 3:
        raise ValueError("again")
    await asyncio.sleep(6.0 if job.kind == "long" else 0.0)
    if job.kind == "plans":
        note("planned", job.n, clock=time.time())
        ctx.emit(Job(n=job.n + 1000), delay=1.0)
        await app.publish(Job(n=job.n + 2000), delay=1.0)
        await app.publish(Job(n=job.n + 3000), at=datetime.now(UTC) + timedelta(seconds=1.0))
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)


@app.every(1, name="beat", missed="all")
async def beat(tick: Tick) -> None:
    note("tick", tick.at.timestamp())
"""


@one_server
@pytest.mark.timeout(300 if LONG else 120)
async def test_a_worker_whose_clock_is_an_hour_off_and_jumps_loses_no_lease_and_comes_at_the_servers_time(
    redis_server: RedisServer,
    make_clock: MakeClock,
    start_worker: StartWorker,
    ledger: Ledger,
    measured: Measured,
) -> None:
    url = redis_server.url
    clocks = [make_clock(ahead=ahead) for ahead in (HOUR, -HOUR)]
    workers = [
        # Fewer slots than there are long ones: both have a part in it.
        await start_worker(url, IN_SOME_TIME, concurrency=8, lease=1.5, environment=clock.environment)
        for clock in clocks
    ]
    kinds = ["long"] * 10 + ["fails"] * 10 + ["plans"] * 10
    rounds = 10 if LONG else 1
    events = [Job(n=100 * which + n, kind=kind) for which in range(rounds) for n, kind in enumerate(kinds)]
    for which in range(rounds):
        await publish(url, events[which * len(kinds) : (which + 1) * len(kinds)])
        for jumps in ((-HOUR, HOUR), (HOUR, 0.0), (0.0, -HOUR)):
            for clock, ahead in zip(clocks, jumps, strict=True):
                clock.set(ahead)
            # Then each goes a tenth too fast for two seconds.
            for _ in range(20):
                await asyncio.sleep(0.1)
                for clock in clocks:
                    clock.move(0.01)
    relative = [job.n + more for job in events if job.kind == "plans" for more in (1000, 2000)]
    expected = {job.n for job in events} | set(relative)
    await until(lambda: expected <= set(map(int, ledger.count("end"))), 30)
    await nothing_pending(url)

    since_1970 = time.time() - time.monotonic()
    assert {round((line.more["clock"] - since_1970 - line.at) / HOUR) for line in ledger.lines("planned")} & {-1, 1}
    assert [line for worker in workers for line in worker.logs("lease_lost")] == []
    no_suspects(workers)
    attempts = {str(job.n): 3 if job.kind == "fails" else 1 for job in events} | {str(n): 1 for n in relative}
    assert {key: n for key, n in ledger.count("start").items() if int(key) % 10_000 < 3000} == attempts
    starts: dict[int, list[float]] = {}
    for line in ledger.lines("start"):
        starts.setdefault(int(line.key), []).append(line.at)
    pauses = [late - early for job in events if job.kind == "fails" for early, late in pairwise(starts[job.n])]
    planned = {int(line.key): line for line in ledger.lines("planned")}
    delays = [starts[n + more][0] - line.at for n, line in planned.items() for more in (1000, 2000)]
    measured("seconds between two runs that are 1 s apart, longest", max(pauses))
    measured("seconds of a delay of 1 s, longest", max(delays))
    assert 0.99 < min(pauses) <= max(pauses) < 1.0 + MARGIN
    assert 0.99 < min(delays) <= max(delays) < 1.0 + MARGIN
    ticks = sorted((float(line.key), line.at) for line in ledger.lines("tick"))
    late = [ran + since_1970 - at for at, ran in ticks]
    measured(f"latest of {len(ticks)} ticks, s", max(late))
    assert [at for at, _ in ticks] == [ticks[0][0] + n for n in range(len(ticks))]
    assert -0.1 < min(late) <= max(late) < MARGIN


@one_server
async def test_a_moment_is_taken_as_the_publishers_clock_has_it_and_a_delay_as_the_servers(
    redis_server: RedisServer, make_clock: MakeClock, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, clock = redis_server.url, make_clock()
    await start_worker(url, IN_SOME_TIME, environment=clock.environment)
    client = redis_server.client()
    for n, ahead in enumerate((HOUR, -HOUR, 5.0)):
        clock.set(ahead)
        await publish(url, [Job(n=n, kind="plans")])
        relative = {str(n + 1000), str(n + 2000)}
        await until(lambda relative=relative: relative <= set(ledger.count("end")), 10)
        [planned] = [line for line in ledger.lines("planned") if line.key == str(n)]
        assert abs(planned.more["clock"] - ahead - (time.time() - time.monotonic() + planned.at)) < 0.5
        starts = {line.key: line.at - planned.at for line in ledger.lines("start")}
        assert all(0.99 < starts[key] < 1.0 + MARGIN for key in relative)
        if ahead == HOUR:
            [(_, due)] = client.zrange(keys.delayed("jobs"), 0, -1, withscores=True)
            at = due / 1000 - time.time() + time.monotonic() - planned.at
            client.delete(keys.delayed("jobs"), keys.delayed_bodies("jobs"))
        else:
            await until(lambda n=n: str(n + 3000) in ledger.count("start"), 20)
            at = {line.key: line.at - planned.at for line in ledger.lines("start")}[str(n + 3000)]
        measured(f"clock ahead by {ahead:g} s: seconds until a moment that is 1 s away", at)
        assert max(0.0, 1.0 + ahead) - 0.1 < at < max(0.0, 1.0 + ahead) + MARGIN


#: Beside the usual load and the long ones, what comes later and again and again.
LATER = (
    LONG_RUNNING
    + """

class Later(Event, stream="later"):
    n: int


@app.on(Later)
async def later(later: Later) -> None:
    note("later", later.n)


from streamtask import Tick


@app.every(1, name="beat")
async def beat(tick: Tick) -> None:
    note("tick", tick.at.timestamp())
"""
)


class Later(Job, stream="later"):
    pass


@one_server
@pytest.mark.timeout(600 if LONG else 120)
@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "ahead"])
async def test_a_server_whose_clock_is_set_under_load_loses_and_doubles_nothing_and_no_worker_loses_a_lease(
    server: RedisServer,
    server_clock: WrongClock,
    start_worker: StartWorker,
    ledger: Ledger,
    measured: Measured,
    *,
    hours: int,
) -> None:
    url, jumps = server.url, 5 if LONG else 1
    workers = [await start_worker(url, LATER, concurrency=20, lease=6.0) for _ in range(2)]
    await publish(url, [Task(n=n) for n in range(10)])
    await until(lambda: len(ledger.lines("long")) == 10, 10)
    set_at: list[float] = []
    async with App("chaos", broker=url) as app, Publisher(url) as publisher:
        # Until they have been there for long enough to say of anybody that he is dead.
        await asyncio.sleep(7.0)
        for n in range(jumps):
            await app.publish(Later(n=n), delay=2.0)
            server_clock.move(hours * HOUR)
            set_at.append(time.monotonic())
            await app.publish(Later(n=n + 100), delay=2.0)
            measured("seconds until consuming again", await consuming_again(ledger, publisher, 15))
            await until(lambda n=n: str(n + 100) in ledger.count("later"), 10)
            # Until whoever takes the living for dead, or their leases for old, has had time enough.
            await asyncio.sleep(12.0)
        ended = time.monotonic()
        ledger.open_gate("go")
    await nothing_pending(url, "tasks")

    assert [line for worker in workers for line in worker.logs("lease_lost")] == []
    assert [len(worker.logs("server.clock_set")) for worker in workers] == [jumps, jumps]
    assert ledger.count("long") == ledger.count("long-end") == {str(n): 1 for n in range(10)}
    # Ids go on to grow: what is published later stands further behind.
    order = [each["n"] for each in await emitted(url, "jobs")]
    assert order == sorted(order)
    await each_event_once(url, ledger, publisher, measured, long_ones=10)
    no_suspects(workers)
    ticks = [line.at for line in ledger.lines("tick") if set_at[0] + 1.0 < line.at < ended]
    measured("ticks a second since it was set", len(ticks) / (ended - set_at[0]))
    if hours < 0:
        # What was to come at a time comes when the clock shows it again.
        waiting = server.client().zrange(keys.delayed("later"), 0, -1, withscores=True)
        latest = max(due for _, due in waiting) / 1000 - server_clock.ahead - time.time()
        measured("seconds that one of 2 s before has still to wait", latest)
        assert len(waiting) == jumps
        assert ticks == []
        server_clock.set(0.0)
    await until(lambda: len(ledger.lines("later")) == 2 * jumps, 10)
    waits = {int(line.key): line.at - set_at[int(line.key) % 100] for line in ledger.lines("later")}
    measured("seconds that one of 2 s before has waited", waits[0])
    assert set(ledger.count("later").values()) == {1}
    assert all(2.0 - 0.1 < waits[n + 100] < 2.0 + MARGIN for n in range(jumps))


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["ahead", "back"])
async def test_nobody_is_lost_to_whoever_looks_in_the_moment_that_the_clock_was_set(
    server: RedisServer, server_clock: WrongClock, *, ahead: float
) -> None:
    transport = open_transport(server.url)
    await transport.connect()
    try:
        await transport.register(Subscription(stream="jobs", group="chaos"))
        await publish(server.url, [Job(n=1)])
        await transport.recovery.beat("beats", b"{}", ttl=5.0)
        assert len(await transport.fetch("chaos", "beats", ["jobs"], count=1, wait=0.0)) == 1
        assert await transport.recovery.lost_owners("jobs", "chaos", lease=60.0) == {}
        server_clock.move(ahead)
        assert await transport.recovery.lost_owners("jobs", "chaos", lease=60.0) == {}
    finally:
        await transport.close()


@one_server
async def test_a_worker_that_dies_as_the_servers_clock_is_set_back_is_taken_over_from_within_seconds(
    server: RedisServer, server_clock: WrongClock, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    doomed = await start_worker(server.url, LATER, lease=60.0)
    await publish(server.url, [Task(n=n) for n in range(10)])
    await until(lambda: len(ledger.lines("long")) == 10, 10)
    await start_worker(server.url, LATER, lease=60.0)

    await doomed.kill_whole()
    # Its last word is from an hour ahead now, and would be kept until then.
    server_clock.move(-HOUR)
    killed = time.monotonic()
    await until(lambda: set(ledger.count("long").values()) == {2}, 40)
    measured("seconds until it was taken over from", time.monotonic() - killed)
    ledger.open_gate("go")
    await nothing_pending(server.url, "tasks")

    assert sorted(each["n"] for each in await emitted(server.url, "made")) == list(range(10))
