"""`streamtask worker --reload` while the code is edited, and `--burst`, which ends by itself when all is done."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from streamtask import App
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import Job, Ledger, WorkerProcess, dead_letters, emitted, nothing_pending, publish, until
from tests.servers import RedisServer

#: The release that is edited; `RELEASE` is what changes.
EDITED = """
RELEASE = 0


@app.on(Job)
async def handle(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    await asyncio.sleep(0.05)
    ctx.emit(Made(n=job.n, by=str(RELEASE)))
    note("end", job.n, ctx.attempt, release=RELEASE)
"""

#: Two streams, emits from one to the other, and a retry after a second.
BURST = """
class Next(Event, stream="next"):
    n: int


@app.on(Job, retry=Retry(3, backoff=1.0))
async def first(job: Job, ctx: Context) -> Next:
    note("first", job.n, ctx.attempt)
    if job.kind == "fails once" and ctx.attempt == 1:
        raise ValueError("once")
    await asyncio.sleep(0.05)
    return Next(n=job.n)


@app.on(Next, concurrency=3)
async def second(event: Next, ctx: Context) -> Job | None:
    note("second", event.n, ctx.attempt)
    await asyncio.sleep(0.02)
    if event.n % 10 == 3 and event.n < 1000:
        return Job(n=event.n + 1000)
"""

#: Takes its time.
SLOW = """
@app.on(Job)
async def handle(job: Job) -> None:
    note("start", job.n)
    await asyncio.sleep(1.5)
    note("end", job.n)
"""


@one_server
async def test_edits_under_load_run_within_seconds_and_no_event_is_lost_by_them(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    worker = await start_worker(url, EDITED, reload=True, concurrency=20, shutdown_timeout=5)
    supervisor = worker.supervisor_pid
    published, enough = 0, False

    async def keep_on() -> None:
        nonlocal published
        async with App("chaos", broker=url) as app:
            while not enough:
                await app.publish(Job(n=published))
                published += 1
                await asyncio.sleep(0.01)

    load = asyncio.create_task(keep_on())
    seconds = []
    for release in (1, 2, 3):
        await until(lambda release=release: _runs(ledger, release - 1), 15)  # type: ignore[misc]
        if release == 2:
            # An editor saves what is half-written, too.
            _edit(worker, "RELEASE = 1\n", "RELEASE = (\n")
            await until(lambda: worker.logs("supervisor.waiting_for_change"), 15)
            _edit(worker, "RELEASE = (\n", "RELEASE = 1\n")
        _edit(worker, f"RELEASE = {release - 1}\n", f"RELEASE = {release}\n")
        edited = time.monotonic()
        await until(lambda release=release: _runs(ledger, release), 15)  # type: ignore[misc]
        seconds.append(next(line.at for line in ledger.lines("end") if line.more["release"] == release) - edited)
    enough = True
    await load
    await nothing_pending(url, within=20)

    assert worker.supervisor_pid == supervisor
    assert sorted(each["n"] for each in await emitted(url, "made")) == list(range(published))
    assert set(ledger.count("end").values()) == {1}
    assert {line.attempt for line in ledger.lines()} == {1}
    assert await dead_letters(url, "jobs") == []
    measured("events", published)
    measured("seconds from an edit to the first event that the new code handled, longest", max(seconds))
    assert max(seconds) < 5


async def test_a_burst_ends_with_0_when_nothing_is_ready_pending_or_due_for_a_retry(
    redis_server: RedisServer, tmp_path: Path, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    # Two streams, with emits from each to the other, and a retry in a second; what is due in an hour holds up nothing.
    await publish(url, [Job(n=n, kind="fails once" if n == 7 else "") for n in range(50)])
    async with App("chaos", broker=url) as app:
        await app.publish(Job(n=9999), delay=3600)

    seconds = await _burst(url, BURST, tmp_path / "first", ledger)
    every = {str(n) for n in (*range(50), 1003, 1013, 1023, 1033, 1043)}
    assert ledger.count("first") == dict.fromkeys(every, 1) | {"7": 2}
    assert ledger.count("second") == dict.fromkeys(every, 1)
    assert seconds > 1.0
    measured("seconds of a burst with a retry in 1 s", seconds)
    for stream in ("jobs", "next"):
        await nothing_pending(url, stream)
    assert redis_server.client().zcard("{stream:jobs}:delayed") == 1

    # With nothing to do it ends at once, and a stream that nobody has written to is nothing to do.
    measured("seconds of a burst with nothing to do", await _burst(url, BURST, tmp_path / "second", ledger))
    redis_server.flush()
    measured("seconds of a burst on an empty server", await _burst(url, BURST, tmp_path / "third", ledger))
    assert sum(ledger.count("first").values()) == 56


@one_server
async def test_a_burst_waits_for_what_another_worker_runs_and_for_what_a_dead_one_left(
    redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    other = await start_worker(url, SLOW.replace("1.5", "60"), concurrency=5)
    await publish(url, [Job(n=n) for n in range(5)])
    await until(lambda: len(ledger.lines("start")) == 5, 10)
    await other.kill_whole()
    seconds = await _burst(url, SLOW, tmp_path / "burst", ledger)
    measured("seconds of a burst that takes over from a worker that was killed", seconds)
    assert ledger.count("end") == {str(n): 1 for n in range(5)}
    await nothing_pending(url)


@pytest.mark.parametrize("processes", [1, 3])
async def test_a_burst_of_several_processes_loses_nothing_at_its_end(
    redis_server: RedisServer, tmp_path: Path, ledger: Ledger, *, processes: int
) -> None:
    """The first process that sees nothing ends; what the others emit after that is theirs."""
    url, n = redis_server.url, 300 if os.environ.get("STREAMTASK_LONG") else 100
    await publish(url, [Job(n=k) for k in range(n)])
    await _burst(url, BURST, tmp_path / "burst", ledger, processes=processes, concurrency=5)
    every = {str(k) for k in range(n)} | {str(1000 + k) for k in range(3, n, 10)}
    assert ledger.count("first") == ledger.count("second") == dict.fromkeys(every, 1)
    for stream in ("jobs", "next"):
        await nothing_pending(url, stream)


async def _burst(url: str, source: str, folder: Path, ledger: Ledger, **options: object) -> float:
    """Run a burst to its end; the seconds that it took."""
    began = time.monotonic()
    worker = WorkerProcess(url, source, folder, ledger, burst=True, **options).start()
    try:
        code = await worker.exit_code(30)
        assert code == 0, worker.log_text()
    finally:
        await worker.close()
    return time.monotonic() - began


def _runs(ledger: Ledger, release: int) -> bool:
    return any(line.more["release"] == release for line in ledger.lines("end"))


def _edit(worker: WorkerProcess, old: str, new: str) -> None:
    path = worker.folder / "chaos_app.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
