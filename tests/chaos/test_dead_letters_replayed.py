"""Dead letters, replayed: back to the one group that failed, once, as a new delivery of the same event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamtask import App
from streamtask.errors import TransportError
from streamtask.transport.connect import open_transport
from streamtask.transport.port import DeadLetters
from streamtask.transport.values import DeadLetter
from tests.chaos.conftest import Measured, StartWorker
from tests.chaos.workers import Job, Ledger, dead_letters, nothing_pending, publish, until
from tests.servers import RedisServer

#: Two groups on one stream; `fails` does so until the gate is open, and emits before it knows.
TWO_GROUPS = """
@app.on(Job, group="fails", retry=Retry(2, backoff=0.05))
async def fails(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt, event_id=ctx.envelope.event_id)
    ctx.emit(Made(n=job.n, by="emitted"))
    if not is_open("mended") or job.kind == "hopeless":
        raise ValueError("not mended")
    note("end", job.n, ctx.attempt, event_id=ctx.envelope.event_id)
    return Made(n=job.n, by="returned")


@app.on(Job, group="works")
async def works(job: Job, ctx: Context) -> None:
    note("works", job.n, ctx.attempt)
    ctx.emit(Made(n=job.n, by="works"))
"""


async def test_a_replay_reaches_only_the_group_that_failed_and_handles_the_event_once_however_often_it_is_asked_for(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, n = redis_server.url, 50
    await start_worker(url, TWO_GROUPS)
    event_ids = await publish(url, [Job(n=number) for number in range(n)])
    dead = await _dead(url, n)
    assert {(letter.group, letter.reason, letter.attempts) for letter in dead} == {("fails", "max_attempts", 2)}
    assert sorted(letter.event_id for letter in dead) == sorted(event_ids)
    await nothing_pending(url, group="works")
    # What failed has emitted nothing.
    assert {envelope["payload"]["by"] for envelope in await _envelopes(url, "made")} == {"works"}

    ledger.open_gate("mended")
    async with _open(url) as one, _open(url) as other:
        # Two operators at the same time, and each of them twice.
        answers = await asyncio.gather(
            *(each.replay("jobs", letter.dead_id) for letter in dead for each in (one, other, one, other))
        )
        replayed = [answer for answer in answers if answer is not None]
        await until(lambda: len(ledger.lines("end")) >= n, 10)
        assert await one.replay("jobs", dead[0].dead_id) is None
        assert await one.count("jobs") == 0
    for group in ("fails", "works"):
        await nothing_pending(url, group=group)

    assert len(replayed) == len(set(replayed)) == n
    ends = ledger.lines("end")
    assert ledger.count("end") == ledger.count("works") == {str(number): 1 for number in range(n)}
    assert {line.attempt for line in ends} == {1}
    assert {line.key: line.more["event_id"] for line in ends} == {str(k): id_ for k, id_ in enumerate(event_ids)}
    made = [(envelope["payload"]["n"], envelope["payload"]["by"]) for envelope in await _envelopes(url, "made")]
    assert sorted(made) == sorted((k, by) for k in range(n) for by in ("emitted", "returned", "works"))
    assert await dead_letters(url, "jobs") == []
    measured("runs of the group that failed, for each event", len(ledger.lines("start")) / n)
    assert len(ledger.lines("start")) == 3 * n


async def test_a_replayed_event_that_fails_again_becomes_a_dead_letter_again_and_what_its_replays_emit_is_new(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    await start_worker(url, TWO_GROUPS)
    [event_id] = await publish(url, [Job(n=1)])
    letters = []
    async with _open(url) as letterbox:
        for runs in (4, 6, 8):
            letters += await _dead(url, 1)
            await letterbox.replay("jobs", letters[-1].dead_id)
            await until(lambda runs=runs: len(ledger.lines("start")) == runs, 10)  # type: ignore[misc]
        letters += await _dead(url, 1)
        ledger.open_gate("mended")
        await letterbox.replay("jobs", letters[-1].dead_id)
        await until(lambda: ledger.lines("end"), 10)
        await nothing_pending(url, group="fails")

        # Another replay of the very same event, as history: what it emits must not pass for a repeat.
        transport = open_transport(url)
        await transport.connect()
        assert transport.inspection is not None
        assert await transport.inspection.replay_history("jobs", "fails", since="0-1", generation="again") == 1
        await transport.close()
    await until(lambda: len(ledger.lines("end")) == 2, 10)
    await nothing_pending(url, group="fails")

    assert {letter.event_id for letter in letters} == {event_id}
    assert {(letter.group, letter.reason, letter.attempts) for letter in letters} == {("fails", "max_attempts", 2)}
    assert len({letter.dead_id for letter in letters}) == 4
    assert [line.attempt for line in ledger.lines("start")] == [1, 2] * 4 + [1, 1]
    assert {line.more["event_id"] for line in ledger.lines("start")} == {event_id}
    assert ledger.count("works") == {"1": 1}
    made = [each for each in await _envelopes(url, "made") if each["payload"]["by"] != "works"]
    assert [each["payload"]["by"] for each in made] == ["returned", "emitted"] * 2
    assert len({each["event_id"] for each in made}) == 4
    assert {each["causation_id"] for each in made} == {event_id}
    assert await dead_letters(url, "jobs") == []


async def test_dead_letters_replayed_over_and_over_under_load_are_each_handled_or_dead_and_never_both_or_neither(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    """Three operators replay all that is dead, again and again, while a worker is killed; half of it stays hopeless."""
    url, n = redis_server.url, 100
    worker = await start_worker(url, TWO_GROUPS)
    await start_worker(url, TWO_GROUPS)
    await publish(url, [Job(n=k, kind="hopeless" if k % 2 else "") for k in range(n)])
    await _dead(url, n)
    ledger.open_gate("mended")

    async def operate(rounds: int) -> int:
        replays = 0
        async with _open(url) as letterbox:
            for _ in range(rounds):
                for letter in await letterbox.page("jobs", after="", limit=1000):
                    replays += await letterbox.replay("jobs", letter.dead_id) is not None
                await asyncio.sleep(0.02)
        return replays

    operators = asyncio.gather(*(operate(20) for _ in range(3)))
    await until(lambda: ledger.lines("end"), 10)
    await worker.kill_child()
    replays = sum(await operators)
    for group in ("fails", "works"):
        await nothing_pending(url, group=group, within=20)

    made = [each["payload"]["n"] for each in await _envelopes(url, "made") if each["payload"]["by"] == "returned"]
    dead = sorted(json.loads(dict(_pairs(letter))[b"envelope"])["payload"]["n"] for letter in await _dead(url, n // 2))
    assert sorted(made) == list(range(0, n, 2))
    assert dead == list(range(1, n, 2))
    assert set(ledger.count("works")) == {str(k) for k in range(n)}
    assert {letter.reason for letter in await _dead(url, n // 2)} == {"max_attempts"}
    measured("replays", replays)


async def test_the_replay_for_a_group_that_was_dropped_is_refused_and_the_dead_letter_stays(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    """Nobody would read it, and it would be gone with the history of the stream."""
    url = redis_server.url
    worker = await start_worker(url, TWO_GROUPS)
    await publish(url, [Job(n=1)])
    [letter] = await _dead(url, 1)
    assert await worker.terminate() == 0
    transport = open_transport(url)
    await transport.connect()
    try:
        assert transport.inspection is not None
        assert transport.dead_letters is not None
        assert await transport.inspection.drop_group("jobs", "fails")
        with pytest.raises(TransportError, match="'fails'"):
            await transport.dead_letters.replay("jobs", letter.dead_id)
        assert [each.dead_id for each in await dead_letters(url, "jobs")] == [letter.dead_id]

        # Once it is back, so is the event.
        ledger.open_gate("mended")
        await start_worker(url, TWO_GROUPS)
        await nothing_pending(url, group="fails")
        assert await transport.dead_letters.replay("jobs", letter.dead_id)
    finally:
        await transport.close()
    await until(lambda: ledger.count("end") == {"1": 2}, 10)
    await nothing_pending(url, group="fails")
    assert ledger.count("works") == {"1": 1}


@asynccontextmanager
async def _open(url: str) -> AsyncIterator[DeadLetters]:
    """The dead letters, on a connection of their own."""
    transport = open_transport(url)
    await transport.connect()
    try:
        assert transport.dead_letters is not None
        yield transport.dead_letters
    finally:
        await transport.close()


async def _dead(url: str, n: int) -> list[DeadLetter]:
    """All dead letters, once there are so many."""
    found: list[DeadLetter] = []

    async def there() -> bool:
        found[:] = await dead_letters(url, "jobs")
        return len(found) == n

    await until(there, 20)
    return found


def _pairs(letter: DeadLetter) -> list[tuple[bytes, bytes]]:
    return list(zip(letter.fields[::2], letter.fields[1::2], strict=True))


async def _envelopes(url: str, stream: str) -> list[dict[str, Any]]:
    """Every envelope in a stream, in order."""
    app = App("chaos", broker=url)
    transport = open_transport(url)
    await transport.connect()
    try:
        found = await transport.read(stream, after="0", count=10_000, wait=0.0)
    finally:
        await transport.close()
    envelopes = [app.broker.decode(delivery) for delivery in found]
    return [
        {"event_id": each.event_id, "causation_id": each.causation_id, "payload": each.payload} for each in envelopes
    ]
