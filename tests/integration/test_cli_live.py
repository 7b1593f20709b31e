"""The command line as a program of its own, beside workers that run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from streamtask.transport.embedded import find_server
from tests.chaos.workers import Job, Ledger, WorkerProcess, dead_letters, nothing_pending, publish, until
from tests.command_line import Said, ask, run, run_on_terminal
from tests.servers import RedisServer, has_stopped

StartWorker = Callable[..., Awaitable[WorkerProcess]]

#: One group waits for a gate, another fails until its gate is open.
SOURCE = """
class Late(Event, stream="jobs"):
    n: int


@app.on(Job, group="held", timeout=60)
async def hold(job: Job) -> Made:
    note("start", job.n)
    await gate("go")
    note("end", job.n)
    return Made(n=job.n)


@app.on(Job, group="solid", timeout=60)
async def count(job: Job) -> None:
    note("solid", job.n)


@app.on(Job, group="fragile", retry=Retry(max_attempts=1), timeout=60)
async def fail(job: Job) -> None:
    note("fragile", job.n)
    if not is_open("mended"):
        raise ValueError("not yet")
    note("mended", job.n)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
async def start_worker(tmp_path: Path, ledger: Ledger) -> AsyncIterator[StartWorker]:
    async with AsyncExitStack() as stack:

        async def start(url: str, **options: Any) -> WorkerProcess:
            worker = WorkerProcess(url, SOURCE, tmp_path / "worker", ledger, **options)
            return await stack.enter_async_context(worker)

        yield start


def program(worker: WorkerProcess, *arguments: str, typed: bytes = b"") -> Said:
    """Run the command line in the worker's folder, with its app."""
    return run(
        *arguments,
        folder=worker.folder,
        typed=typed,
        STREAMTASK_APP="chaos_app:app",
        STREAMTASK_BROKER=worker.url,
        CHAOS_LEDGER=str(worker.ledger.path),
    )


# ── inspect ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_runs_is_seen_while_it_runs_and_after_its_worker_was_killed(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    worker = await start_worker(redis_server.url, group="held", concurrency=2)
    first, second, _ = await publish(redis_server.url, [Job(n=n) for n in range(3)])
    await until(lambda: len(ledger.lines("start")) == 2, 10)

    pending = program(worker, "inspect", "pending", "--json").document
    assert [(row["event_id"], row["event_type"], row["state"]) for row in pending[:2]] == [
        (first, "Job", "running"),
        (second, "Job", "running"),
    ]

    async def both_told() -> bool:
        # What a worker says of itself is as old as its last beat, a second at most.
        [told] = (await ask(redis_server.url, "inspect", "workers", "--json")).document
        return bool(told["running"] == 2)

    await until(both_told, 10, every=0.2)
    [told] = program(worker, "inspect", "workers", "--json").document
    assert (told["pid"], told["supervisor_pid"]) == ((await worker.child_pids())[0], worker.supervisor_pid)
    assert (told["groups"], told["running"]) == (["held"], 2)
    [group] = program(worker, "inspect", "groups", "--group", "held", "--json").document
    assert (group["stream"], group["consumers"], group["dead"]) == ("jobs", 1, 0)
    event = program(worker, "inspect", "event", first, "--json").document
    assert [(each["group"], each["state"], each["attempts"]) for each in event["groups"]] == [("held", "running", 1)]
    [member] = program(worker, "groups", "list", "--json").document
    assert (member["alive"], member["last_seen_ms"], member["interest"]) == (True, 0, ["Job:v1"])

    await worker.kill_whole()

    async def abandoned() -> bool:
        rows = (await ask(redis_server.url, "inspect", "pending", "--json")).document
        return [row["state"] for row in rows[:2]] == ["abandoned", "abandoned"]

    await until(abandoned, 15, every=0.2)


async def test_what_an_event_caused_is_found_from_it(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    worker = await start_worker(redis_server.url, group="held")
    ledger.open_gate("go")
    [event_id] = await publish(redis_server.url, [Job(n=1)])
    await until(lambda: ledger.lines("end"), 10)
    await nothing_pending(redis_server.url, group="held")

    event = program(worker, "inspect", "event", event_id, "--json").document

    assert [(each["group"], each["state"]) for each in event["groups"]] == [("held", "done")]
    [caused] = event["caused"]
    assert (caused["stream"], caused["event_type"]) == ("made", "Made")
    made = program(worker, "inspect", "event", caused["event_id"], "--json").document
    assert made["envelope"]["causation_id"] == event_id


# ── dead letters ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_dead_letter_goes_back_to_the_group_that_failed_and_is_handled_once(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    worker = await start_worker(url)
    ledger.open_gate("go")
    [event_id] = await publish(url, [Job(n=1)])
    await until(lambda: dead_of(url, 1), 10)

    [letter] = program(worker, "dead", "list", "--json").document
    assert (letter["group"], letter["event_id"], letter["reason"]) == ("fragile", event_id, "max_attempts")
    ledger.open_gate("mended")
    first = program(worker, "dead", "replay", letter["id"])
    second = program(worker, "dead", "replay", letter["id"])

    assert first.code == 0
    assert second.code == 1
    assert f"no dead letter {letter['id']} (any more)" in second.err
    await until(lambda: ledger.lines("mended"), 10)
    for group in ("held", "solid", "fragile"):
        await nothing_pending(url, group=group)
    assert (ledger.count("mended"), ledger.count("solid"), ledger.count("end")) == ({"1": 1}, {"1": 1}, {"1": 1})
    assert ledger.count("fragile") == {"1": 2}


async def test_all_dead_letters_are_replayed_or_purged_when_it_is_said_so(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    worker = await start_worker(url, group="fragile")
    await publish(url, [Job(n=n) for n in range(250)])
    await until(lambda: dead_of(url, 250), 20)

    assert program(worker, "dead", "replay", "--all", "--yes").out == "Replayed 250 dead letters.\n"
    await until(lambda: dead_of(url, 250), 20)
    asked = run_on_terminal("dead", "purge", folder=worker.folder, typed=b"n\n", STREAMTASK_BROKER=url)
    assert (asked.code, len(await dead_letters(url, "jobs"))) == (1, 250)
    assert "Remove every dead letter for good? [y/N]" in asked.out
    purged = run_on_terminal("dead", "purge", folder=worker.folder, typed=b"y\n", STREAMTASK_BROKER=url)
    assert purged.code == 0
    assert "Purged 250 dead letters." in purged.out
    assert await dead_letters(url, "jobs") == []
    assert ledger.count("fragile") == {str(n): 2 for n in range(250)}


async def dead_of(url: str, count: int) -> bool:
    return len(await dead_letters(url, "jobs")) == count


# ── publish and replay ────────────────────────────────────────────────────────────────────────────────────────────


async def test_lines_are_published_and_bad_ones_told(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    worker = await start_worker(redis_server.url, group="solid")
    lines = [json.dumps({"n": n}) for n in range(1500)]
    lines[700] = '{"n": "seven hundred"}'
    lines[1499] = "the end"

    said = program(worker, "publish", "Job", "-", typed="\n".join(lines).encode())

    assert said.code == 1
    assert len(set(said.out.split())) == 1498
    assert "line 701: Job v1: n: Input should be a valid integer" in said.err
    assert "line 1500: Job v1: Invalid JSON" in said.err
    assert "Published 1498 events." in said.err
    await until(lambda: len(ledger.lines("solid")) == 1498, 20)


async def test_a_line_is_published_when_it_comes_and_not_when_the_input_ends(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    worker = await start_worker(redis_server.url, group="solid")
    with feeding(worker) as feeder:
        assert feeder.stdin is not None
        feeder.stdin.write(b'{"n": 1}\n{"n": 2')
        feeder.stdin.flush()
        # The event is handled before, or after, its id is printed.
        assert feeder.stdout is not None
        told = await asyncio.to_thread(feeder.stdout.readline)
        await until(lambda: ledger.count("solid") == {"1": 1}, 20)
        feeder.send_signal(signal.SIGINT)
        out, err = feeder.communicate(timeout=20)

    assert (feeder.returncode, len(told.split()), out) == (1, 1, b"")
    assert b"Published 1 event." in err
    assert b"Traceback" not in err


def feeding(worker: WorkerProcess) -> subprocess.Popen[bytes]:
    """`streamtask publish Job -`, waiting for its input."""
    variables = {"CHAOS_LEDGER": str(worker.ledger.path), "STREAMTASK_BROKER": worker.url}
    return subprocess.Popen(
        [sys.executable, "-c", "from streamtask.cli import main; main()", "publish", "-A", "chaos_app:app", "Job", "-"],
        cwd=worker.folder, env=os.environ | variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, process_group=0,
    )  # fmt: skip


async def test_one_event_is_published_and_its_id_printed(redis_server: RedisServer, start_worker: StartWorker) -> None:
    worker = await start_worker(redis_server.url, group="held")

    plain = program(worker, "publish", "Job", '{"n": 1}')
    as_json = program(worker, "publish", "Late", '{"n": 1}', "--json")

    for event_id in (plain.out.strip(), as_json.document["event_id"]):
        assert program(worker, "inspect", "event", event_id, "--json").document["event_id"] == event_id


async def test_what_is_no_event_is_said_in_one_line(redis_server: RedisServer, start_worker: StartWorker) -> None:
    worker = await start_worker(redis_server.url, group="held")

    for arguments, said in (
        (("Jop", "{}"), "no event type 'Jop'; there are Job, Late, Made"),
        (("Job", "{}"), "Job v1: n: Field required"),
        (("Job", "nonsense"), "Invalid JSON"),
        (("Job", '{"n": 1}', "--broker", "memory://"), "lives inside one process"),
    ):
        answer = program(worker, "publish", *arguments)

        assert (answer.code, answer.out) == (2, "")
        assert said in answer.err
        assert answer.err.count("\n") == 1


async def test_a_bar_shows_how_far_the_input_is(redis_server: RedisServer, start_worker: StartWorker) -> None:
    worker = await start_worker(redis_server.url, group="held")

    said = run_on_terminal(
        "publish", "-A", "chaos_app:app", "Job", "-",
        folder=worker.folder, typed=b'{"n": 1}\n{"n": 2}\n\x04', STREAMTASK_BROKER=redis_server.url,
        CHAOS_LEDGER=str(worker.ledger.path),
    )  # fmt: skip

    assert said.code == 0
    assert "Publishing" in said.out
    assert "━" in said.out
    assert "Published 2 events." in said.out


async def test_history_is_handled_again_by_the_group_it_is_handed_to(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    worker = await start_worker(url)
    ledger.open_gate("go")
    ledger.open_gate("mended")
    await publish(url, [Job(n=n) for n in range(3)])
    for group in ("held", "solid", "fragile"):
        await until(
            lambda: len(ledger.lines("solid")) + len(ledger.lines("end")) + len(ledger.lines("mended")) == 9, 10
        )
        await nothing_pending(url, group=group)

    said = program(worker, "replay", "--stream", "stream:jobs", "--group", "solid", "--since", "1h", "--json")

    assert said.document == {"stream": "jobs", "group": "solid", "events": 3, "created": False}
    await until(lambda: len(ledger.lines("solid")) == 6, 10)
    assert len(ledger.lines("end")) == 3
    made = program(worker, "replay", "--stream", "jobs", "--group", "nwe", "--since", "0")
    assert "Made group nwe on stream jobs: it will see 3 events" in made.out
    assert "streamtask groups drop jobs nwe" in made.out
    assert program(worker, "groups", "drop", "jobs", "nwe").code == 0


# ── without a broker URL ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(find_server() is None, reason="no Redis server for the embedded broker")
async def test_without_a_url_it_is_the_embedded_server_of_the_folder_and_that_is_said(tmp_path: Path) -> None:
    said = run("inspect", "groups", "--json", folder=tmp_path)

    assert said.document == []
    assert said.err == "Using the embedded server of this folder (.streamtask): no broker URL was given.\n"
    await until(lambda: has_stopped(tmp_path / ".streamtask"), 30)
