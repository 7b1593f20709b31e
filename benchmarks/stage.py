"""What a measurement works with: one system's publisher and workers, a server, and the board they count on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import meters
from benchmarks.peers import System
from benchmarks.servers import Server
from benchmarks.systems.fixture import Board
from benchmarks.venvs import Environment

SYSTEMS_FOLDER = Path(__file__).parent / "systems"
_ROOT = Path(__file__).parent.parent
#: Handlers at once where each waits.
WAITING = 100
#: Seconds: for a worker to handle its first event, and to end when it is told to.
_START = 30.0
_STOP = 3.0
#: Seconds for one answer of a publisher.
_ANSWER = 600.0
#: Seconds between two looks at the board.
_LOOK = 0.005


class MeasurementError(Exception):
    """Something did not work; the message goes into the report."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    #: Backlogs are divided by this.
    divisor: int = 1
    publishes: int = 2_000
    publishes_many: int = 20_000
    #: Events published at low load.
    paced: int = 300
    #: Seconds of looking at an idle worker, and of letting it become idle.
    idle: float = 5.0
    settle: float = 2.0
    #: Seconds for one drain: what is not done by then is not waited for.
    drain: float = 8.0
    grown: int = 1_000_000
    pending: int = 100_000

    @classmethod
    def quick(cls) -> Scale:
        """To see that it works; the numbers are worth little."""
        return cls(divisor=10, publishes=300, publishes_many=2_000, paced=40, idle=1.0, settle=0.5, drain=4.0)


class Publisher:
    """A system's publisher, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def ask(self, do: str, **arguments: Any) -> Any:
        """Let it do something; what it answers."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a publisher has pipes")
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            stdin.flush()
        ready, _, _ = select.select([stdout], [], [], _ANSWER)
        line = stdout.readline() if ready else ""
        if not line:
            raise MeasurementError(f"the publisher ended: {last_line(self._log)}")
        answer = json.loads(line)
        if "error" in answer:
            raise MeasurementError(f"publishing failed: {answer['error']}")
        return answer["value"]


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that runs: its process and those below it."""

    process: subprocess.Popen[bytes]
    #: Of the monotonic clock, in nanoseconds.
    started_at: int
    log: Path

    @property
    def pids(self) -> list[int]:
        """All of them."""
        return meters.tree(self.process.pid)

    @property
    def died(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def stop(self) -> None:
        """End it, politely first."""
        pids = self.pids
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP)
        for pid in {*pids, *self.pids}:
            # Ours, or gone: its id is not given out again within seconds.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True, slots=True)
class Stage:
    """One system, ready to be measured."""

    system: System
    environment: Environment
    server: Server
    board: Board
    board_path: Path
    publisher: Publisher
    scale: Scale
    folder: Path

    def clear(self) -> None:
        """Forget what was published and counted."""
        self.server.flush()
        self.board.reset()

    def fill(self, kind: str, count: int) -> None:
        """Publish a backlog."""
        self.publisher.ask("fill", kind=kind, count=count)

    @contextlib.contextmanager
    def worker(self, kind: str) -> Iterator[Worker]:
        """Run a worker for events of a kind; it is stopped at the end."""
        concurrency = WAITING if kind == "io" else self.system.concurrency
        fields = {
            "python": str(self.environment.python),
            "bin": str(self.environment.scripts),
            "module": self.system.module,
            "concurrency": str(concurrency),
            "url": self.server.url,
        }
        command = [part.format(**fields) for part in shlex.split(self.system.worker)]
        log = self.folder / f"{self.system.name}-worker.log"
        environment = {
            **surroundings(self.system, self.server.url, self.board_path),
            **dict(self.system.environment),
            "BENCH_CONCURRENCY": str(concurrency),
            "BENCH_KIND": kind,
        }
        started_at = time.monotonic_ns()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        worker = Worker(process, started_at, log)
        try:
            yield worker
        finally:
            worker.stop()

    def wait(self, worker: Worker, count: int, seconds: float) -> int:
        """Wait until so many have counted, or the seconds are over; how many have.

        Raises:
            MeasurementError: the worker died.
        """
        deadline = time.monotonic() + seconds
        while (seen := self.board.count) < count and time.monotonic() < deadline:
            if worker.died:
                raise MeasurementError(f"the worker ended: {last_line(worker.log)}")
            time.sleep(_LOOK)
        return seen

    def wait_for_first(self, worker: Worker) -> float:
        """Wait until one has counted; the seconds from the start of the worker's process."""
        if not self.wait(worker, 1, _START):
            raise MeasurementError(f"no event was handled within {_START:g} s: {last_line(worker.log)}")
        return (self.board.at(1) - worker.started_at) / 1e9


@contextlib.contextmanager
def staged(system: System, environment: Environment, server: Server, scale: Scale, folder: Path) -> Iterator[Stage]:
    """Start a system's publisher, with an empty server and an empty board."""
    path = folder / "board"
    largest = max(scale.grown if "growth" in system.extras and scale.divisor == 1 else 0, scale.pending)
    # Twice as many, and some: a system may run an event twice.
    board = Board.create(path, 2 * max(largest, system.backlog, scale.publishes_many) + 1000)
    log = folder / f"{system.name}-publisher.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [str(environment.python), str(SYSTEMS_FOLDER / "publisher.py"), system.module],
            cwd=folder,
            env=surroundings(system, server.url, path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        stage = Stage(system, environment, server, board, path, Publisher(process, log), scale, folder)
        stage.clear()
        yield stage
    finally:
        process.kill()
        process.communicate()


def surroundings(system: System, url: str, board: Path) -> Mapping[str, str]:
    """The environment of a system's processes. One that has no packages of its own runs from this checkout."""
    here = [str(SYSTEMS_FOLDER)] if system.packages else [str(SYSTEMS_FOLDER), str(_ROOT)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(here), "BENCH_URL": url, "BENCH_BOARD": str(board)}


def last_line(log: Path) -> str:
    """What a process said last: an error rather than the frame that some draw around it."""
    lines = [line.strip(" |") for line in log.read_text(errors="replace").splitlines()]
    said = [line for line in lines if line.strip("+- ")]
    errors = [line for line in said if re.match(r"[\w.]*(Error|Exception|Exit)\b.*:", line)]
    return (errors or said or ["it said nothing"])[-1][:200]
