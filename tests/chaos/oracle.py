"""The usual load, and what has to have become of it: every event handled, committed once, and nothing left anywhere."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress

from tests.chaos.conftest import Measured
from tests.chaos.workers import Job, Ledger, Publisher, WorkerProcess, dead_letters, emitted, nothing_pending, until

LOAD = """
@app.on(Job)
async def load(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt)
    await asyncio.sleep(0.001 + job.n % 10 / 200)
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)
"""

#: Beside the load, events that run until the test opens the gate.
LONG_RUNNING = (
    LOAD
    + """

class Task(Event, stream="tasks"):
    n: int


@app.on(Task)
async def task(task: Task, ctx: Context) -> Made:
    note("long", task.n, ctx.attempt)
    await gate("go")
    note("long-end", task.n, ctx.attempt)
    return Made(n=task.n, by="long")
"""
)


class Task(Job, stream="tasks"):
    pass


async def consuming_again(ledger: Ledger, publisher: Publisher, within: float) -> float:
    """Seconds from now until an event is handled that is published from now on."""
    now = time.monotonic()

    def handled() -> bool:
        return any(publisher.asked[int(line.key)] > now for line in ledger.lines("end")[-200:])

    await until(handled, within, every=0.01)
    return time.monotonic() - now


async def each_event_once(
    url: str, ledger: Ledger, publisher: Publisher, measured: Measured, *, long_ones: int = 0
) -> None:
    """All that was published is handled to its end, committed once, and nothing else stands anywhere."""
    published = Counter(publisher.returned.keys())
    stopped = time.monotonic()
    with suppress(AssertionError):
        await until(lambda: len(ledger.count("end")) == len(published), 20)
    await nothing_pending(url, within=20)

    async def arrived() -> bool:
        return len(await emitted(url, "made")) >= len(published) + long_ones

    # On a cluster an emit comes after the ack of its cause.
    with suppress(AssertionError):
        await until(arrived, 20, every=0.2)
    measured("seconds until all was settled", time.monotonic() - stopped)
    measured("events", len(published))
    measured("publishes that raised", publisher.raised.total())
    measured("extra runs", ledger.count("start").total() - len(published))

    made = await emitted(url, "made")
    assert {str(n) for n in published} - set(ledger.count("end")) == set()
    found = Counter(each["n"] for each in made if not each["by"])
    assert found == published, f"lost {published - found}, doubled {found - published}"
    assert Counter(each["n"] for each in made if each["by"]) == dict.fromkeys(range(long_ones), 1)
    assert {line.attempt for line in ledger.lines()} == {1}
    assert await dead_letters(url, "jobs") == []


def words_of(workers: list[WorkerProcess]) -> Counter[str]:
    """What the workers have logged, without what is said of each event that was under way."""
    lines = [line["event"] for worker in workers for line in worker.logs()]
    return Counter(event for event in lines if event not in ("lease_lost", "settle.unconfirmed"))


def no_suspects(workers: list[WorkerProcess]) -> None:
    """No process died, and no event is taken for one that kills."""
    for worker in workers:
        assert worker.logs("event.isolated") == worker.logs("child.ended") == []
