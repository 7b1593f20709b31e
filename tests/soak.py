"""A soak: mixed load and faults for as long as you like; fails on a lost or doubled event, on leaks and on growth.

    python -m tests.soak --minutes 30

Two workers of two processes each handle events that are quick, long, delayed, published twice, failing at first, and
run in child processes; each is handled into one other event. Meanwhile workers are killed, stopped and replaced,
connections are dropped and the server dies. What is committed is read from the server all the time, as it is trimmed
behind its readers; what was published is kept here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import redis

from streamtask import App
from streamtask.errors import PublishError, TransportError
from tests.chaos.leaks import leaks, open_files
from tests.chaos.workers import Emitted, Job, Ledger, WorkerProcess, dead_letters, nothing_pending, until
from tests.processes import lives
from tests.servers import RedisServer, available_servers

#: A history of half a minute: the server's memory shows its size within the first part of a soak.
SOURCE = """
from streamtask import Retention

app = App("chaos", retention=Retention(max_age=30.0))


class Task(Event, stream="tasks"):
    n: int
    kind: str = ""


@app.on(Job, retry=Retry(5, backoff=0.2))
async def job(job: Job, ctx: Context) -> Made:
    note("start", job.n, ctx.attempt)
    if job.kind == "fails" and ctx.attempt == 1:
        raise ValueError("again")
    if job.kind == "long":
        await asyncio.sleep(2.0)
    return Made(n=job.n)


@app.on(Task, pool="process", concurrency=1)
def task(task: Task, ctx: Context) -> Made:
    note("start", task.n, ctx.attempt)
    return Made(n=task.n)


@app.on(Made, group="sink")
async def sink(made: Made) -> None:
    pass
"""

KINDS = {"quick": 60, "long": 5, "fails": 5, "delayed": 10, "twice": 10, "task": 10}
#: Events a second.
RATE = 100.0
#: Parts of a soak that are compared with each other, and what may be between the second and the last of them.
PARTS = 4
GROWTH, ALLOWANCE = 1.2, 10e6
#: Seconds of a soak from which on growth is looked at: in a shorter one everything grows still.
STEADY = 300.0


class Task(Job, stream="tasks"):
    pass


class Sample(NamedTuple):
    """What was held at a moment: bytes of the largest worker process and of the server, descriptors, connections."""

    worker: float
    server: float
    files: float
    connections: float


@dataclass
class Report:
    """What came out."""

    published: int = 0
    committed: int = 0
    #: Must be empty.
    faults: list[str] = field(default_factory=list)
    #: What was done, and how often; publishes that raised among it.
    done: Counter[str] = field(default_factory=Counter)
    extra_runs: int = 0
    samples: list[Sample] = field(default_factory=list)

    def table(self) -> str:
        """All of it, for people."""
        lines = [f"published {self.published}, committed {self.committed}, run more than once {self.extra_runs}"]
        lines += [", ".join(f"{what} {n}" for what, n in sorted(self.done.items()))]
        lines += [f"{'part':>6} {'worker MB':>10} {'server MB':>10} {'files':>6} {'connections':>12}"]
        for number, part in enumerate(_parts(self.samples), 1):
            middle = Sample(*(statistics.median(column) for column in zip(*part, strict=True)))
            lines.append(
                f"{number:>6} {middle.worker / 1e6:>10.1f} {middle.server / 1e6:>10.1f} {middle.files:>6.0f} "
                f"{middle.connections:>12.0f}"
            )
        return "\n".join([*lines, *(f"FAILED: {fault}" for fault in self.faults)])

    def look_for_growth(self) -> None:
        """Compare the last part with the second: in the first everything still grows to its size."""
        parts = _parts(self.samples)
        for name, before, after in zip(Sample._fields, *(zip(*parts[n], strict=True) for n in (1, -1)), strict=True):
            early, late = statistics.median(before), statistics.median(after)
            allowed = early * GROWTH + (ALLOWANCE if name in ("worker", "server") else 5)
            if late > allowed:
                self.faults.append(f"{name} grew from {early:.0f} to {late:.0f}")


def _parts(samples: list[Sample]) -> list[list[Sample]]:
    size = len(samples) // PARTS
    return [samples[n * size : (n + 1) * size] for n in range(PARTS)] if size else []


class Soak:
    """One soak, from empty folders to a report."""

    def __init__(self, seconds: float, folder: Path, seed: int) -> None:
        self._until = time.monotonic() + seconds
        self._seconds = seconds
        self._chance = random.Random(seed)
        self._ledger = Ledger(folder / "ledger")
        self._server = RedisServer(available_servers()[0], appendfsync="always")
        self._workers = [
            WorkerProcess(
                self._server.url, SOURCE, folder / f"worker-{n}", self._ledger, processes=2, concurrency=20, lease=5
            )
            for n in range(2)
        ]
        self._published: dict[int, str] = {}
        self._committed: Counter[int] = Counter()
        self._report = Report()

    async def run(self) -> Report:
        """Do all of it."""
        self._server.start()
        try:
            async with AsyncExitStack() as stack:
                for worker in self._workers:
                    await stack.enter_async_context(worker)
                async with asyncio.TaskGroup() as group:
                    reading = group.create_task(self._read())
                    group.create_task(self._sample())
                    await asyncio.gather(self._publish(), self._harm())
                    await self._settle()
                    reading.cancel()
            self._report.faults += await asyncio.to_thread(leaks, self._workers)
        finally:
            self._server.close()
        self._judge()
        return self._report

    @property
    def _is_over(self) -> bool:
        return time.monotonic() >= self._until

    # ── load ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _publish(self) -> None:
        kinds, weights = list(KINDS), list(KINDS.values())
        async with App("chaos", broker=self._server.url) as app, asyncio.TaskGroup() as group:
            while not self._is_over:
                n = len(self._published)
                kind = self._published[n] = self._chance.choices(kinds, weights)[0]
                group.create_task(self._publish_one(app, n, kind))
                await asyncio.sleep(self._chance.expovariate(RATE))

    async def _publish_one(self, app: App, n: int, kind: str) -> None:
        """Publish one, again and again until it is known to be there."""
        event = Task(n=n) if kind == "task" else Job(n=n, kind=kind)
        options = {"delayed": {"delay": 1.0}, "twice": {"dedup_key": str(n)}}.get(kind, {})
        for _ in range(2 if kind == "twice" else 1):
            event_id = None
            while True:
                try:
                    await app.publish(event, event_id=event_id, **options)
                    break
                except PublishError as error:
                    self._report.done["publishes that raised"] += 1
                    event_id = error.event_id
                    await asyncio.sleep(0.05)

    async def _read(self) -> None:
        """Count what is committed, before it is trimmed."""
        async with Emitted(self._server.url, "made") as made:
            while True:
                with suppress(TransportError):
                    self._committed = Counter(each["n"] for each in await made.all())
                await asyncio.sleep(0.5)

    # ── faults ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _harm(self) -> None:
        harms: list[Callable[[], Awaitable[None]]] = [
            self._kill_a_process,
            self._kill_a_process,
            self._stop_a_process,
            self._drop_connections,
            self._replace_processes,
            self._kill_the_server,
        ]
        while not self._is_over:
            # All of them in turn, in another order each time: a short soak has each.
            for harm in self._chance.sample(harms, len(harms)):
                await asyncio.sleep(self._chance.uniform(0.5, 2.0))
                if self._is_over:
                    return
                await harm()
                self._report.done[harm.__name__.strip("_").replace("_", " ")] += 1

    def _child(self) -> int | None:
        """A worker process, as the supervisors' logs name them."""
        told = [int(line["child_pid"]) for worker in self._workers for line in worker.logs("child.ready")]
        living = [pid for pid in told if lives(pid)]
        return self._chance.choice(living) if living else None

    async def _kill_a_process(self) -> None:
        pid = self._child()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    async def _stop_a_process(self) -> None:
        pid = self._child()
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(self._chance.uniform(1.0, 8.0))
            if lives(pid):
                os.kill(pid, signal.SIGCONT)

    async def _drop_connections(self) -> None:
        with closing(self._server.client()) as client:
            client.client_kill_filter(_type="normal", skipme=True)

    async def _replace_processes(self) -> None:
        self._chance.choice(self._workers).send(signal.SIGHUP)

    async def _kill_the_server(self) -> None:
        self._server.kill()
        await asyncio.sleep(self._chance.uniform(0.0, 2.0))
        self._server.start(wait=False)
        # After half an hour it has a lot to load, on a machine that does other things, too.
        await asyncio.to_thread(self._server.wait_until_ready, 60.0)

    # ── account ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _sample(self) -> None:
        while not self._is_over:
            await asyncio.sleep(min(5.0, self._seconds / 20))
            pids = [int(line["child_pid"]) for worker in self._workers for line in worker.logs("child.ready")]
            # The server, or a process, may be gone at this moment: then there is no sample of it.
            with suppress(redis.RedisError, OSError, ValueError), closing(self._server.client()) as client:
                info = client.info()
                held = [(_resident(pid), open_files(pid)) for pid in pids if lives(pid)]
                memory, files = max(memory for memory, _ in held), max(files for _, files in held)
                self._report.samples.append(Sample(memory, info["used_memory"], files, info["connected_clients"]))

    async def _settle(self) -> None:
        """Wait until all is handled, then let the workers end in order."""
        try:
            await until(lambda: len(self._committed) >= len(self._published), 60)
            for stream, group in (("jobs", "chaos"), ("tasks", "chaos"), ("made", "sink")):
                await nothing_pending(self._server.url, stream, group, within=30)
        except AssertionError as error:
            self._report.faults.append(str(error))
        for stream in ("jobs", "tasks", "made"):
            for letter in await dead_letters(self._server.url, stream):
                self._report.faults.append(f"dead letter in {stream}: {letter.reason} {letter.error}")
        codes = [await worker.terminate() for worker in self._workers]
        if any(codes):
            self._report.faults.append(f"workers ended with {codes}")

    def _judge(self) -> None:
        report = self._report
        report.published, report.committed = len(self._published), len(self._committed)
        fails = sum(kind == "fails" for kind in self._published.values())
        report.extra_runs = self._ledger.count("start").total() - report.published - fails
        lost = set(self._published) - set(self._committed)
        doubled = {n: times for n, times in self._committed.items() if times > 1}
        if lost:
            report.faults.append(f"lost {len(lost)}: {_some(lost, self._published)}")
        if doubled:
            report.faults.append(f"committed more than once {len(doubled)}: {_some(set(doubled), self._published)}")
        if invented := set(self._committed) - set(self._published):
            report.faults.append(f"invented: {sorted(invented)[:5]}")
        if self._seconds >= STEADY:
            report.look_for_growth()


def _some(numbers: set[int], kinds: dict[int, str]) -> str:
    return ", ".join(f"{n} ({kinds[n]})" for n in sorted(numbers)[:5])


def _resident(pid: int) -> float:
    """Bytes of memory that a process holds."""
    return float(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Soak and print; 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    with tempfile.TemporaryDirectory(prefix="streamtask-soak-") as folder:
        report = asyncio.run(Soak(options.minutes * 60, Path(folder), options.seed).run())
    sys.stdout.write(report.table() + "\n")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
