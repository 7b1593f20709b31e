"""Rights taken from the Redis user of workers under load, each in turn, and given back: nothing is lost or doubled.

Redis does not undo a script that is refused half-way, and refuses by the command: this tries each place where it can.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from streamtask.transport.redis import keys
from tests.acl import Users, rights
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Ledger, Publisher, dead_letters, emitted, nothing_pending, until

#: A seventh fails at first, a fifth has effects that come later, and all of them have effects.
LOAD = """
@app.on(Job, retry=Retry(5, backoff=0.2), dedupe=lambda job: str(job.n))
async def load(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt)
    await asyncio.sleep(0.002)
    if job.n % 7 == 0 and ctx.attempt == 1:
        raise ValueError("at first")
    if job.n % 5 == 0:
        ctx.emit(Made(n=job.n, by="later"), delay=0.1)
    note("end", job.n, ctx.attempt)
    return Made(n=job.n)


@app.on(Made)
async def count(made: Made) -> None:
    note("made", f"{made.n} {made.by}")
"""

#: Seconds for which one right is taken, and then all of them are there.
_WITHOUT, _WITH = (2.0, 1.0) if LONG else (0.3, 0.1)


@one_server
@pytest.mark.timeout(600 if LONG else 150)
async def test_each_right_taken_in_turn_from_working_workers_loses_and_doubles_nothing(
    users: Users, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    # Redis 6.2 gives subcommands singly and cannot take them back.
    whole = users.server.binary.name.startswith("redis-6.")
    taken = [word for word in rights()["worker"] if word.startswith("+") and not (whole and "|" in word)]
    random.shuffle(taken)
    url, admin = users.url("worker"), users.server.url
    workers = [await start_worker(url, LOAD, concurrency=20) for _ in range(2)]
    async with Publisher(admin, every=0.01) as publisher:
        for right in taken:
            users.take("worker", f"-{right[1:]}")
            await asyncio.sleep(_WITHOUT)
            users.take("worker", right)
            await asyncio.sleep(_WITH)
    published = publisher.returned
    await until(lambda: len(ledger.count("end")) == len(published), 30)
    for stream in ("jobs", "made"):
        await nothing_pending(admin, stream, within=30)
    await until(lambda: users.admin.zcard("{stream:made}:delayed") == 0, 10)
    await nothing_pending(admin, "made", within=30)

    made = Counter((each["n"], each["by"]) for each in await emitted(admin, "made"))
    assert made == Counter([(n, "") for n in published] + [(n, "later") for n in published if n % 5 == 0])
    assert set(ledger.count("made")) == {f"{n} {by}" for n, by in made}
    assert await dead_letters(admin, "jobs") == await dead_letters(admin, "made") == []
    said = Counter(line["event"] for worker in workers for line in worker.logs() if "NOPERM" in str(line.get("error")))
    measured("rights taken", len(taken))
    measured("events", len(published))
    measured("log lines that name a right", said.total())
    assert said.total() > 5
    for worker in workers:
        assert worker.logs("event.isolated") == worker.logs("child.ended") == []
    # HDEL was among what was taken: the counts of some finished entries stay, and are no leak of the workers.
    for stream in ("jobs", "made"):
        users.admin.delete(keys.history(stream, "chaos"))
