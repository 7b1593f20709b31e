"""Retries: when they come, what they count, and what they survive."""

from __future__ import annotations

import itertools
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streamtask.retry import Backoff
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Job, Ledger, Line, dead_letters, nothing_pending, pending, publish, until
from tests.servers import RedisServer

#: Seconds by which a retry may come early, by the server's clock.
EARLY = 0.05

ALWAYS_FAILS = """
from streamtask import Backoff

@app.on(Job, retry=Retry(5, backoff=Backoff(base=0.25, factor=2, cap=1.0, jitter=JITTER)))
async def fails(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    await asyncio.sleep(0.01)
    note("fail", job.n, ctx.attempt)
    raise ValueError(f"attempt {ctx.attempt}")
"""

#: Fails twice, at once, and ends the third time.
FAILS_TWICE = """
@app.on(Job, retry=Retry(3, backoff=BACKOFF))
async def fails(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    if ctx.attempt < 3:
        raise ValueError(f"attempt {ctx.attempt}")
    ctx.emit(Made(n=job.n))
"""

FAILS_ONCE = """
@app.on(Job, retry=Retry(2, backoff=BACKOFF))
async def fails(job: Job, ctx: Context) -> None:
    if job.kind == "warm":
        note("warm", job.n)
        return
    note("start", job.n, ctx.attempt)
    if ctx.attempt < 2:
        raise ValueError(f"attempt {ctx.attempt}")
"""

KINDS = """
from streamtask import RetryLater

times = {}


@app.on(Job, retry=Retry(2, backoff=0.1))
async def handle(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    if job.kind == "reject":
        raise Reject("no such order")
    if job.kind == "raise":
        raise ValueError(f"attempt {ctx.attempt} of {job.n}")
    times[job.n] = times.get(job.n, 0) + 1
    if job.kind == "later" and times[job.n] <= 7:
        raise RetryLater(delay=0.2)
    if job.kind == "later, then raise" and times[job.n] <= 3:
        raise RetryLater(delay=0.2)
    if job.kind == "later, then raise":
        raise ValueError("now")
    note("end", job.n, ctx.attempt)
"""


@one_server
@pytest.mark.parametrize("jitter", [False, True], ids=["exact", "jitter"])
async def test_a_retry_comes_within_the_bounds_of_its_policy_and_never_early(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured, *, jitter: bool
) -> None:
    url, n = redis_server.url, 1000 if LONG else 200
    source = f"JITTER = {jitter}\n{ALWAYS_FAILS}"
    workers = [await start_worker(url, source, concurrency=50) for _ in range(2)]
    ids = await publish(url, [Job(n=number) for number in range(n)])
    await until(lambda: len(ledger.lines("fail")) == 5 * n, 40)
    await nothing_pending(url)

    assert _attempts(ledger) == {str(number): [1, 2, 3, 4, 5] for number in range(n)}
    # What each worker has drawn, as it logged it.
    drawn = {
        (str(ids.index(line["event_id"])), line["attempt"]): float(line["delay"])
        for worker in workers
        for line in worker.logs("event.retry")
    }
    assert len(drawn) == 4 * n
    policy = Backoff(base=0.25, factor=2, cap=1.0, jitter=jitter)
    early, late = [], []
    for attempt in range(1, 5):
        low, high = policy.bounds(attempt)
        delays = [delay for (_, number), delay in drawn.items() if number == attempt]
        assert low <= min(delays) <= max(delays) <= high
        if jitter:
            # Evenly drawn: spread over the whole range, its middle in the middle.
            assert min(delays) < high * 0.1 < high * 0.9 < max(delays)
            assert abs(sum(delays) / n - high / 2) < high * 0.1
    for (key, attempt), waited in _waited(ledger).items():
        early.append(drawn[key, attempt] - waited)
        late.append(waited - drawn[key, attempt])
    measured("seconds that a retry came early, most", max(early))
    measured("seconds that a retry came late, most", max(late))
    assert max(early) < EARLY
    assert max(late) < 3
    letters = await dead_letters(url, "jobs")
    assert [(each.reason, each.attempts) for each in letters] == [("max_attempts", 5)] * n
    assert len({each.event_id for each in letters}) == n


@one_server
@pytest.mark.parametrize("harm", ["SIGTERM", "SIGKILL", "the server is killed"])
async def test_what_waits_for_a_retry_survives_a_restart_with_its_count_and_its_moment(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured, *, harm: str
) -> None:
    url, n, backoff = private_redis.url, 200, 3.0
    source = f"BACKOFF = {backoff}\n{FAILS_TWICE}"
    worker = await start_worker(url, source)
    await publish(url, [Job(n=number) for number in range(n)])
    for attempt in (1, 2):
        await until(lambda expected=attempt * n: len(ledger.lines("start")) == expected, 20)
        await until(lambda: _parked(private_redis) == n, 5)
        if harm == "SIGTERM":
            assert await worker.terminate() == 0
        elif harm == "SIGKILL":
            await worker.kill_whole()
        else:
            private_redis.kill()
            private_redis.start()
        if harm != "the server is killed":
            worker = await start_worker(url, source)
    await nothing_pending(url, within=20)

    assert _attempts(ledger) == {str(number): [1, 2, 3] for number in range(n)}
    # The moment of the failure is that of the start here.
    starts = {(line.key, line.attempt): line.at for line in ledger.lines("start")}
    waits = [at - starts[key, attempt - 1] for (key, attempt), at in starts.items() if attempt > 1]
    measured("seconds until a retry after 3, least", min(waits))
    measured("seconds until a retry after 3, most", max(waits))
    assert min(waits) > backoff - EARLY
    assert max(waits) < backoff + 5
    assert await dead_letters(url, "jobs") == []
    assert worker.logs("event.isolated") == []


@one_server
@pytest.mark.timeout(120)
async def test_ten_thousand_events_that_wait_for_a_retry_take_no_memory_of_the_worker_and_all_come_back(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, n, backoff = redis_server.url, 50_000 if LONG else 10_000, 60.0 if LONG else 12.0
    worker = await start_worker(url, f"BACKOFF = {backoff}\n{FAILS_ONCE}")
    (pid,) = await worker.child_pids()
    # What it takes to be at work at all is not asked for here.
    await publish(url, [Job(n=number, kind="warm") for number in range(2000)])
    await until(lambda: len(ledger.lines("warm")) == 2000, 20)
    await nothing_pending(url)
    before = _resident(pid)
    await publish(url, [Job(n=number) for number in range(n)])
    await until(lambda: _parked(redis_server) == n, 40)
    after = _resident(pid)
    measured("MB that the worker has before", before)
    measured("MB that it has more with all waiting", after - before)
    assert after - before < 30

    await until(lambda: len(ledger.lines("start")) == 2 * n, 60)
    await nothing_pending(url)
    assert _attempts(ledger) == {str(number): [1, 2] for number in range(n)}
    starts = {(line.key, line.attempt): line.at for line in ledger.lines("start")}
    waits = [at - starts[key, 1] for (key, attempt), at in starts.items() if attempt == 2]
    measured("seconds that a retry came early, most", backoff - min(waits))
    measured("seconds that a retry came late, most", max(waits) - backoff)
    measured("MB that it has more with all done", _resident(pid) - before)
    assert min(waits) > backoff - EARLY
    assert await dead_letters(url, "jobs") == []


async def test_retry_later_is_not_counted_and_a_rejection_is_final(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    kinds = ["later", "reject", "later, then raise"]
    ids = await publish(url, [Job(n=n, kind=kind) for n, kind in enumerate(kinds)])
    worker = await start_worker(url, KINDS)
    await until(lambda: ledger.lines("end"), 15)
    await nothing_pending(url)

    assert _attempts(ledger) == {"0": [1] * 8, "1": [1], "2": [1, 1, 1, 1, 2]}
    letters = {each.event_id: each for each in await dead_letters(url, "jobs")}
    assert {ids.index(each): letters[each].reason for each in letters} == {1: "rejected", 2: "max_attempts"}
    assert {ids.index(each): letters[each].attempts for each in letters} == {1: 1, 2: 2}
    assert "no such order" in letters[ids[1]].error
    assert worker.logs("event.isolated") == []


async def test_a_dead_letter_holds_the_whole_event_and_all_that_is_known_of_its_end(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url, before = redis_server.url, datetime.now(UTC)
    (event_id,) = await publish(url, [Job(n=7, kind="raise")])
    [(entry_id, fields)] = redis_server.client().xrange("stream:jobs")
    worker = await start_worker(url, KINDS)
    await until(lambda: len(ledger.lines("start")) == 2, 10)
    await nothing_pending(url)

    (letter,) = await dead_letters(url, "jobs")
    (ready,) = worker.logs("child.ready")
    assert (letter.reason, letter.attempts, letter.deliveries) == ("max_attempts", 2, 2)
    assert (letter.stream, letter.group, letter.entry_id) == ("jobs", "chaos", entry_id.decode())
    assert (letter.event_id, letter.event_type, letter.worker) == (event_id, "Job", ready["owner"])
    assert letter.error == "ValueError: attempt 2 of 7"
    assert 'raise ValueError(f"attempt {ctx.attempt} of {job.n}")' in letter.traceback
    assert list(letter.fields) == list(itertools.chain.from_iterable(fields.items()))
    assert abs((letter.first_seen - before).total_seconds()) < 5
    assert 0 <= (letter.dead_at - letter.first_seen).total_seconds() < 15
    assert await pending(url, "jobs") == 0


def _attempts(ledger: Ledger) -> dict[str, list[int]]:
    """The attempt numbers of each event, in the order in which they began."""
    found = defaultdict(list)
    for line in ledger.lines("start"):
        found[line.key].append(line.attempt)
    return dict(found)


def _waited(ledger: Ledger) -> dict[tuple[str, int], float]:
    """Seconds between the failure of an attempt and the start of the next one, by (event, attempt)."""
    failed = {(line.key, line.attempt): line for line in ledger.lines("fail")}
    starts: list[Line] = [line for line in ledger.lines("start") if line.attempt > 1]
    return {(line.key, line.attempt - 1): line.at - failed[line.key, line.attempt - 1].at for line in starts}


def _parked(server: RedisServer) -> int:
    """How many entries wait for a retry."""
    return server.client().zcard("{stream:jobs}:retry:chaos")


def _resident(pid: int) -> float:
    """Megabytes of memory that a process has."""
    (line,) = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) / 1024
