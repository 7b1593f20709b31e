"""Batches of events that are ordered by a key: one of each key in a list, and each key's events in their order."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from streamtask import App, Batch, BatchContext, BatchError, Event, Retry
from tests.servers import RedisServer


class Step(Event, stream="steps"):
    key: str
    n: int


class Taken(Event, stream="taken"):
    steps: list[str]


async def test_a_batch_holds_one_event_of_each_key_and_what_fails_keeps_its_place(redis_server: RedisServer) -> None:
    app, lists = App("steps", broker=redis_server.url), list[list[tuple[str, int]]]()

    @app.on(batch=Batch(10, wait=0.05), ordered_by="key", retry=Retry(3, backoff=0.05))
    async def take(steps: list[Step], ctx: BatchContext) -> None:
        lists.append([(step.key, step.n) for step in steps])
        await asyncio.sleep(0.01)
        again = {
            place: OSError("again")
            for place, step in enumerate(steps)
            if step.key != "k0" and step.n == 2 and ctx.attempts[place] == 1
        }
        ctx.emit(Taken(steps=[f"{step.key}-{step.n}" for place, step in enumerate(steps) if place not in again]))
        if again:
            raise BatchError(again)

    async with app.worker(concurrency=5) as worker:
        await app.publish_many([Step(key=f"k{n % 4}", n=n // 4) for n in range(24)])
        await asyncio.wait_for(worker.burst_done(), 20)
        taken = await app.transport.read("taken", after="0", count=1000, wait=0)

    handled = [step for steps in lists for step in steps]
    for key in ("k0", "k1", "k2", "k3"):
        order = [n for each, n in handled if each == key]
        assert all(after - before in (0, 1) for before, after in pairwise(order))
        assert len(order) == (6 if key == "k0" else 7)
    assert all(len({key for key, _ in steps}) == len(steps) for steps in lists)
    assert max(map(len, lists)) > 1
    emitted = b"".join(bytes(entry.body or b"") for entry in taken)
    assert all(emitted.count(f'"k{n % 4}-{n // 4}"'.encode()) == 1 for n in range(24))
