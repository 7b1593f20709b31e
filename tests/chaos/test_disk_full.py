"""A full disk: below a worker's log, below blobs, below the server. Nothing is lost, and it goes on when there is room.

The disk is one of memory, mounted for the test: where the system does not let it, the test is skipped.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamtask import App, BlobStores, PublishError, StoreFullError, TransportError
from streamtask.worker.memory import resident_mib
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.oracle import LOAD, consuming_again, each_event_once, no_suspects, words_of
from tests.chaos.workers import (
    LONG,
    Job,
    Ledger,
    Publisher,
    WorkerProcess,
    dead_letters,
    emitted,
    nothing_pending,
    publish,
    until,
)
from tests.processes import children_of
from tests.servers import RedisServer, ServerBinary

_MIB = 1 << 20

#: Says something of each event.
TALKS = """
@app.on(Job)
async def handle(job: Job, ctx: Context) -> None:
    ctx.log.info("job.begun", extra={"n": job.n, "details": "x" * 300})
    note("end", job.n, ctx.attempt)
"""

#: Keeps a MiB for each event, in files.
KEEPS = """
from streamtask import BlobStores

app = App("chaos", blobs=BlobStores(default="file", folder=os.environ["CHAOS_BLOBS"]))


@app.on(Job, retry=Retry(100, backoff=0.3))
async def keep(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt)
    uri = await ctx.app.blobs.put(bytes([job.n]) * (1 << 20), name=f"sounds/{job.n}.wav")
    return Made(n=job.n, by=uri)
"""

#: As much as a user sees of Python's own: standard error is written when its buffer is full, or a line ends.
BUFFERED = {"PYTHONUNBUFFERED": ""}


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, *, but: int = 0) -> None:
        """Leave no room on it, or so many bytes."""
        room = os.statvfs(self.folder)
        with self._ballast.open("wb", buffering=0) as ballast:
            # Short of the last bytes where somebody else has taken them meanwhile.
            ballast.write(bytes(room.f_bavail * room.f_frsize - but))

    def holds(self, name: str, content: bytes) -> bool:
        """Whether a file on it is exactly this."""
        return (self.folder / name).read_bytes() == content

    def make_room(self) -> None:
        """Give back what `fill` took."""
        self._ballast.unlink()

    def files(self) -> set[str]:
        """Paths of all files of others on it."""
        found = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}
        return found - {self._ballast.name}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 8 MiB. Ask for it first, so that it is the last to go."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        pytest.skip("there is no program to mount a disk")
    command = [mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this user may not mount a disk: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run([unmount, str(folder)], check=True)


# ── the log ───────────────────────────────────────────────────────────────────────────────────────────────────────


@one_server
async def test_a_worker_whose_log_fills_its_disk_goes_on_and_logs_again_when_there_is_room(
    disk: Disk, redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, n = redis_server.url, 50_000 if LONG else 3_000
    log = ledger.path.with_name("worker-1") / "log"
    log.parent.mkdir()
    log.symlink_to(disk.folder / "log")
    worker = await start_worker(url, TALKS, concurrency=10, environment=BUFFERED)
    [child] = children_of(worker.supervisor_pid)
    disk.fill(but=_MIB // 4)
    await publish(url, [Job(n=k) for k in range(1_000)])
    await until(lambda: len(ledger.count("end")) == 1_000, 30)
    written, memory = len(worker.log_text()), resident_mib(child)

    # Whatever it says now is said to nobody.
    await publish(url, [Job(n=k) for k in range(1_000, n)])
    await until(lambda: len(ledger.count("end")) == n, 30 + n / 500)
    await nothing_pending(url)
    assert len(worker.log_text()) == written
    assert children_of(worker.supervisor_pid) == [child]
    measured("MiB that the process has grown", resident_mib(child) - memory)
    assert resident_mib(child) - memory < 10

    disk.make_room()
    await publish(url, [Job(n=n)])
    await until(lambda: worker.logs("log.works_again"), 10)
    lines = worker.logs()
    assert lines[-2]["n"] == n
    assert lines[-1]["event"] == "log.works_again"
    measured("lines left out", lines[-1]["left_out"])
    assert worker.logs("not json") == []
    assert n + 1 - len(worker.logs("job.begun")) <= lines[-1]["left_out"] <= n

    # A process that dies and one that is told to end are seen to all the same.
    disk.fill()
    await worker.kill_child()
    await publish(url, [Job(n=k) for k in range(n + 1, n + 100)])
    await until(lambda: len(ledger.count("end")) == n + 100, 20)
    await nothing_pending(url)
    assert await worker.terminate() == 0
    assert ledger.count("end") == {str(k): 1 for k in range(n + 100)}
    assert {line.attempt for line in ledger.lines()} == {1}


@one_server
@pytest.mark.parametrize("burst", [False, True])
async def test_a_worker_that_can_never_log_a_line_handles_all_and_ends_with_0(
    redis_server: RedisServer, tmp_path: Path, ledger: Ledger, *, burst: bool
) -> None:
    url = redis_server.url
    await publish(url, [Job(n=n) for n in range(200)])
    options = {"burst": True} if burst else {}
    worker = WorkerProcess(url, TALKS, tmp_path / "worker", ledger, environment=BUFFERED, **options)
    worker.start(log_to=Path("/dev/full"))
    try:
        await until(lambda: len(ledger.count("end")) == 200, 20)
        assert await (worker.exit_code(20) if burst else worker.terminate()) == 0
    finally:
        await worker.close()
    assert ledger.count("end") == {str(n): 1 for n in range(200)}
    await nothing_pending(url)


COMMANDS = """
import sqlalchemy as sa
from streamtask import App
from streamtask.sql.alchemy import SqlOutbox

app = App("shop")
engine = sa.create_engine("sqlite:///shop.db")
outbox = SqlOutbox(app, engine)
metadata = sa.MetaData()
outbox.table(metadata)
metadata.create_all(engine)
"""


@one_server
@pytest.mark.parametrize(
    "command", [["bridge", "--from", "memory://", "--burst"], ["outbox", "run", "--burst"]], ids=["bridge", "outbox"]
)
def test_a_command_that_can_never_log_a_line_ends_with_0(
    redis_server: RedisServer, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "shop.py").write_text(COMMANDS)
    program = [sys.executable, "-c", "from streamtask.cli import main; main()", *command, "-A", "shop:app"]
    environment = os.environ | BUFFERED | {"STREAMTASK_BROKER": redis_server.url}
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(program, cwd=tmp_path, env=environment, stderr=full, timeout=60, check=False)
    assert ended.returncode == 0


# ── blobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("room", [0, _MIB // 2, 2 * _MIB])
async def test_a_blob_that_finds_no_room_is_an_error_that_says_so_and_leaves_nothing_behind(
    disk: Disk, *, room: int
) -> None:
    async with App("chaos", broker="memory://", blobs=BlobStores(default="file", folder=disk.folder)) as app:
        old = await app.blobs.put(b"old" * 100, name="sounds/1.wav")
        disk.fill(but=room)
        for name in ("sounds/1.wav", "sounds/2.wav", "elsewhere/3.wav"):
            with pytest.raises(TransportError, match=f"has no room for '{name}' .*: nothing was stored"):
                await app.blobs.put(os.urandom(3 * _MIB), name=name)

            assert disk.files() == {"sounds/1.wav"}
            assert await app.blobs.get(old) == b"old" * 100

        disk.make_room()
        new = await app.blobs.put(bytes(3 * _MIB), name="sounds/1.wav")
        assert new == old
        assert await app.blobs.get(new) == bytes(3 * _MIB)
        assert disk.files() == {"sounds/1.wav"}


@one_server
async def test_an_event_whose_blob_finds_no_room_is_tried_again_until_it_does(
    disk: Disk, redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    worker = await start_worker(url, KEEPS, environment={"CHAOS_BLOBS": str(disk.folder)})
    disk.fill(but=2 * _MIB + _MIB // 2)

    await publish(url, [Job(n=n) for n in range(6)])
    # Two have found room, and the others not, more than once.
    await until(lambda: all(ledger.count("start")[str(n)] for n in range(6)), 10)
    await until(lambda: len(ledger.lines("start")) >= 2 + 4 * 3, 20)
    assert len(await emitted(url, "made")) == len(disk.files()) == 2
    assert all("the folder for blobs has no room" in line["error"] for line in worker.logs("event.retry"))

    disk.make_room()
    await nothing_pending(url, within=20)
    made = {each["n"]: each["by"] for each in await emitted(url, "made")}
    assert sorted(made) == list(range(6))
    assert disk.files() == {f"sounds/{n}.wav" for n in range(6)}
    for n, uri in made.items():
        assert uri == f"file://{disk.folder}/sounds/{n}.wav"
        assert disk.holds(f"sounds/{n}.wav", bytes([n]) * _MIB)
    assert await dead_letters(url, "jobs") == []


# ── the server ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def server(disk: Disk, server_binary: ServerBinary) -> Iterator[RedisServer]:
    """A server whose append-only file is on the disk, synced as the embedded server syncs its own; not started."""
    server = RedisServer(server_binary, appendfsync="everysec")
    yield server
    server.close()


@one_server
async def test_a_server_whose_disk_is_full_refuses_publishes_at_once_and_loses_nothing_once_there_is_room(
    disk: Disk, server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    server.start("--dir", str(disk.folder))
    url = server.url
    worker = await start_worker(url, LOAD, concurrency=20)
    async with Publisher(url) as publisher, App("chaos", broker=url) as app:
        await until(lambda: len(ledger.count("end")) > 100, 20)
        disk.fill()
        await until(lambda: publisher.raised["StoreFullError"], 10)
        full, words = time.monotonic(), words_of([worker])
        for options in ({}, {"delay": 1.0}, {"dedup_key": "x"}):
            began = time.monotonic()
            with pytest.raises(StoreFullError, match="cannot write to its disk and refused the event; nothing was"):
                await app.publish(Job(n=-1), **options)
            assert time.monotonic() - began < 1
        # Longer than a heartbeat lives.
        await asyncio.sleep(30.0 if LONG else 7.0)
        told = (words_of([worker]) - words).total() / (time.monotonic() - full)
        measured("log lines a second", told)
        assert told < 5

        disk.make_room()
        measured("seconds until consuming again", await consuming_again(ledger, publisher, 15))
    await each_event_once(url, ledger, publisher, measured)
    assert set(publisher.raised) == {"StoreFullError"}
    no_suspects([worker])


@one_server
@pytest.mark.parametrize("appendfsync", ["everysec", "always"])
async def test_a_server_that_is_killed_with_its_disk_full_has_at_most_lost_what_it_said_yes_to_last(
    disk: Disk, server_binary: ServerBinary, measured: Measured, appendfsync: str
) -> None:
    """What was acknowledged while the disk filled up stands in its memory alone, until there is room."""
    server = RedisServer(server_binary, appendfsync=appendfsync)
    try:
        server.start("--dir", str(disk.folder))
        disk.fill(but=_MIB)
        acknowledged: list[int] = []
        with pytest.raises(PublishError) as refused:
            await _publish_until_refused(server.url, acknowledged)
        # Where each write is synced, it ends instead of going on without.
        assert isinstance(refused.value, StoreFullError) == (appendfsync == "everysec")
        server.kill()
        disk.make_room()
        server.start("--dir", str(disk.folder))
        kept = [each["n"] for each in await emitted(server.url, "jobs")]
    finally:
        server.close()

    measured("events acknowledged", len(acknowledged))
    measured("events lost", len(set(acknowledged) - set(kept)))
    assert len(acknowledged) > 100
    assert kept == list(range(len(kept)))
    # One, unless it was waiting for an earlier sync just then.
    assert len(acknowledged) - len(kept) <= (100 if appendfsync == "everysec" else 0)


async def _publish_until_refused(url: str, acknowledged: list[int]) -> None:
    async with App("chaos", broker=url) as app:
        for n in range(10_000):
            await app.publish(Job(n=n, kind="x" * 1_000))
            acknowledged.append(n)
