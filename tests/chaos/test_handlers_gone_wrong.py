"""Handlers that exit, crash, hang or eat memory, wherever they run: their own event fails, and nothing else does."""

from __future__ import annotations

import time
from collections import Counter

from tests.chaos.conftest import Measured, StartWorker
from tests.chaos.workers import LONG, Job, Ledger, WorkerProcess, dead_letters, lives, nothing_pending, publish, until
from tests.servers import RedisServer

#: What each kind of event does to whoever handles it.
MISDEEDS = """
import ctypes, resource, signal, subprocess, sys


class NoException(BaseException):
    pass


def allocate():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
    return bytearray(1 << 34)


def spin():
    while True:
        pass


def wait_in_c():
    ctypes.PyDLL(None).sleep(3600)  # holds the interpreter


def leave_a_child():
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"])
    note("child", child.pid)
    time.sleep(3600)


def raise_(error):
    raise error


MISDEEDS = {
    "": lambda: None,
    "exits": lambda: os._exit(9),
    "segfaults": lambda: ctypes.string_at(0),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "calls sys.exit": lambda: sys.exit(3),
    "is interrupted": lambda: raise_(KeyboardInterrupt()),
    "raises no Exception": lambda: raise_(NoException("gone")),
    "ends a generator": lambda: raise_(GeneratorExit()),
    "stops an iteration": lambda: raise_(StopIteration()),
    "runs out of memory": allocate,
    "spins": spin,
    "sleeps": lambda: time.sleep(3600),
    "hangs in C": wait_in_c,
    "leaves a child": leave_a_child,
    "cancels itself": lambda: asyncio.current_task().cancel(),
}
"""

HERE = (
    MISDEEDS
    + """
@app.on(Job, retry=Retry(2, backoff=0.1))
async def on_the_loop(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt, kind=job.kind)
    await asyncio.sleep(0.05)
    MISDEEDS[job.kind]()
    await asyncio.sleep(0.05)
    note("end", job.n, ctx.attempt)


# Before it has waited for anything, in the task that serves the others, too.
@app.on(Job, group="at-once", retry=Retry(2, backoff=0.1))
async def at_once(job: Job, ctx: Context) -> None:
    MISDEEDS[job.kind]()
    await asyncio.sleep(0)
    note("once-end", job.n, ctx.attempt)


@app.on(Job, group="threads", retry=Retry(2, backoff=0.1))
def in_a_thread(job: Job, ctx: Context) -> None:
    if job.kind != "cancels itself":
        MISDEEDS[job.kind]()
    note("thread-end", job.n, ctx.attempt)
"""
)

APART = (
    MISDEEDS
    + """
@app.on(Job, pool="process", timeout=1.0, retry=Retry(2, backoff=0.1), concurrency=2)
def apart(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt, kind=job.kind)
    MISDEEDS[job.kind]()
    note("end", job.n, ctx.attempt)
"""
)

RAISING = ["calls sys.exit", "is interrupted", "raises no Exception", "ends a generator", "stops an iteration"]
DYING = ["exits", "segfaults", "is killed"]
HANGING = ["spins", "sleeps", "hangs in C", "leaves a child"]

#: Rounds of each kind.
ROUNDS = 25 if LONG else 1


async def test_a_handler_that_raises_what_is_no_error_or_cancels_itself_has_failed_and_its_worker_lives(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    worker = await start_worker(url, HERE, concurrency=20)
    before = await worker.child_pids()
    kinds = [*RAISING, "cancels itself"] * ROUNDS
    bad, good = _mixed(kinds)
    await publish(url, _in_turn(bad, good))

    await until(lambda: set(good) <= {int(key) for key in ledger.count("end")}, 20)
    for group in ("chaos", "at-once", "threads"):
        await nothing_pending(url, group=group, within=20)

    dead = await dead_letters(url, "jobs")
    assert Counter(letter.group for letter in dead) == {
        "chaos": len(kinds),
        "at-once": len(kinds),
        "threads": len(kinds) - ROUNDS,
    }
    assert ledger.count("once-end") == {str(n): 1 for n in good}
    assert {(letter.reason, letter.attempts) for letter in dead} == {("max_attempts", 2)}
    _only_the_bad_failed(ledger, bad, good)
    assert await worker.child_pids() == before
    _nobody_died(worker)


async def test_a_handler_in_a_process_that_dies_hangs_or_eats_memory_fails_its_own_event_and_frees_its_place(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    worker = await start_worker(url, APART)
    before = await worker.child_pids()
    kinds = [*RAISING, *DYING, *HANGING, "runs out of memory"] * ROUNDS
    bad, good = _mixed(kinds)
    began = time.monotonic()
    await publish(url, _in_turn(bad, good))

    await until(lambda: set(good) <= {int(key) for key in ledger.count("end")}, 60 * ROUNDS)
    await nothing_pending(url, within=60 * ROUNDS)
    measured("seconds for two places, all kinds twice", time.monotonic() - began)

    reasons = {bad[n]: set[tuple[str, int]]() for n in bad}
    for letter in await dead_letters(url, "jobs"):
        text = b"".join(letter.fields).decode()
        kind = next(kind for kind in reasons if f'"{kind}"' in text)
        reasons[kind].add((letter.reason, letter.attempts))
    expected = {kind: {("worker_lost" if kind in DYING else "max_attempts", 2)} for kind in reasons}
    assert reasons == expected
    _only_the_bad_failed(ledger, bad, good)
    starts = {kind: [line.at for line in ledger.lines("start") if line.more["kind"] == kind] for kind in HANGING}
    if ROUNDS == 1:
        # A second until it is killed, a tenth to wait; then there has to be a place, and perhaps a process.
        gaps = [second - first for first, second in starts.values()]
        measured("longest time between the two runs of what hangs, timeout 1 s", max(gaps))
        assert min(gaps) >= 1.0
    children = [int(line.key) for line in ledger.lines("child")]
    assert len(children) == 2 * ROUNDS
    await until(lambda: not any(map(lives, children)), 2)
    assert await worker.child_pids() == before
    _nobody_died(worker)


def _mixed(kinds: list[str]) -> tuple[dict[int, str], list[int]]:
    """Numbers of bad events with what they do, and of good ones."""
    return dict(enumerate(kinds)), [1000 + n for n in range(3 * len(kinds))]


def _in_turn(bad: dict[int, str], good: list[int]) -> list[Job]:
    """Three good ones behind each bad one."""
    jobs = [Job(n=n) for n in good]
    for n, kind in sorted(bad.items(), reverse=True):
        jobs.insert(3 * n, Job(n=n, kind=kind))
    return jobs


def _only_the_bad_failed(ledger: Ledger, bad: dict[int, str], good: list[int]) -> None:
    assert ledger.count("end") == {str(n): 1 for n in good}
    assert ledger.count("start") == {str(n): 1 for n in good} | {str(n): 2 for n in bad}


def _nobody_died(worker: WorkerProcess) -> None:
    assert worker.logs("child.ended") == worker.logs("event.isolated") == []
