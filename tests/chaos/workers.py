"""Real workers for chaos tests: `streamtask worker` as processes of their own, and a ledger that outlives them.

The app is given as source text. What its handlers did stands in the ledger, a file outside the server under test, one
line a write, so that a kill -9 loses nothing and a second run is seen as such. Processes are ended by their own id.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from streamtask import App, Event
from streamtask.errors import PublishError
from streamtask.transport.connect import open_transport
from streamtask.transport.values import Durability
from tests.processes import lives

#: Whether the long forms of tests are wanted: more rounds, more events.
LONG = os.environ.get("STREAMTASK_LONG") == "1"

#: Seconds that a worker may take to begin or to end.
_PATIENCE = 30.0

#: What every app source imports, as the module `prelude`.
PRELUDE = """
import asyncio, json, os, threading, time

from streamtask import App, Context, Event, Reject, Retry, Router

_fd = os.open(os.environ["CHAOS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(what, key, attempt=1, **more):
    # One line in the ledger, in one write.
    line = {"what": what, "key": str(key), "attempt": attempt, "pid": os.getpid(), "at": time.monotonic(), **more}
    os.write(_fd, json.dumps(line).encode() + b"\\n")


def is_open(name):
    # Whether the test has opened this gate.
    return os.path.exists(os.environ["CHAOS_LEDGER"] + "-gate-" + name)


async def gate(name):
    while not is_open(name):
        await asyncio.sleep(0.02)


def blocking_gate(name):
    while not is_open(name):
        time.sleep(0.02)


class Job(Event, stream="jobs"):
    n: int
    kind: str = ""


class Made(Event, stream="made"):
    n: int
    by: str = ""
"""


#: The first lines of the app's own module.
HEAD = """from prelude import *

app = App("chaos")
"""


class Job(Event, stream="jobs"):
    """What tests publish and apps handle; the app's own copy stands in `PRELUDE`."""

    n: int
    kind: str = ""


class Made(Event, stream="made"):
    """What handlers emit."""

    n: int
    by: str = ""


async def until(condition: Callable[[], object], within: float, *, every: float = 0.02) -> None:
    """Wait until the condition (which may be async) holds; fail when it does not within so many seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        if time.monotonic() > deadline:
            source = inspect.getsource(condition).strip() if inspect.isfunction(condition) else condition
            raise AssertionError(f"did not come true within {within:g} s: {source}")
        await asyncio.sleep(every)


class Line(NamedTuple):
    """What one handler noted."""

    what: str
    key: str
    attempt: int
    pid: int
    #: Monotonic seconds, comparable between the processes of a machine.
    at: float
    more: dict[str, Any]


class Ledger:
    """A file that handlers append to (`note` in their app) and the test reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._read = 0
        self._lines: list[Line] = []

    def lines(self, what: str = "") -> list[Line]:
        """All that was noted so far, in order; only lines that note `what`, if given."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for text in whole.splitlines():
            noted = json.loads(text)
            known = {name: noted.pop(name) for name in Line._fields[:-1]}
            self._lines.append(Line(**known, more=noted))
        return [line for line in self._lines if not what or line.what == what]

    def count(self, what: str) -> Counter[str]:
        """How often each key was noted so."""
        return Counter(line.key for line in self.lines(what))

    def open_gate(self, name: str) -> float:
        """Let pass what waits in `gate(name)`; the moment."""
        self.path.with_name(f"{self.path.name}-gate-{name}").touch()
        return time.monotonic()

    def running(self) -> set[tuple[str, int]]:
        """(key, pid) of what has noted "start" and not yet "end"."""
        started: Counter[tuple[str, int]] = Counter()
        for line in self.lines():
            started[line.key, line.pid] += {"start": 1, "end": -1}.get(line.what, 0)
        return {key for key, n in started.items() if n > 0}


class WorkerProcess:
    """`streamtask worker` for an app of source text, in a folder of its own. Use it with `async with`.

    `source` stands below `HEAD`; `modules` are others beside it, by name. What is in `options` becomes `--name value`
    (True: `--name`); `environment` is added to its variables.
    """

    def __init__(
        self,
        url: str,
        source: str,
        folder: Path,
        ledger: Ledger,
        *,
        modules: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        **options: object,
    ) -> None:
        self.url = url
        self.folder = folder
        self.ledger = ledger
        self.processes = int(str(options.get("processes", 1)))
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in {"prelude": PRELUDE, "chaos_app": HEAD + source, **(modules or {})}.items():
            (folder / f"{name}.py").write_text(text)
        self._arguments = ["-A", "chaos_app:app", "--broker", url, "--log-format", "json"]
        for name, value in options.items():
            self._arguments += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        self._environment = {"CHAOS_LEDGER": str(ledger.path), "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, log_to: Path | None = None) -> Self:
        """Start it; `wait_until_ready` waits. `log_to`: where its lines go, instead of where `logs` finds them."""
        (self.folder / "log").touch()
        code = "from streamtask.cli import main; main()"
        with (log_to or self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, "worker", *self._arguments],
                cwd=self.folder,
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A group of its own, so that no signal to it can reach the test run.
                process_group=0,
            )
        return self

    async def __aenter__(self) -> Self:
        """Start it and wait until it works."""
        self.start()
        try:
            return await self.wait_until_ready()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        """End what is left of it."""
        await self.close()

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def supervisor_pid(self) -> int:
        """The supervisor: the process that was started."""
        assert self._process is not None
        return self._process.pid

    async def child_pids(self) -> list[int]:
        """The living worker processes, as the server knows them (`inspect workers`)."""
        transport = open_transport(self.url)
        await transport.connect()
        try:
            assert transport.inspection is not None
            workers = await transport.inspection.workers()
        finally:
            await transport.close()
        ours = [int(str(worker["pid"])) for worker in workers if worker["supervisor_pid"] == self.supervisor_pid]
        return [pid for pid in ours if lives(pid)]

    def log_text(self) -> str:
        """All that it has logged."""
        return (self.folder / "log").read_text(errors="replace")

    def logs(self, event: str = "") -> list[dict[str, Any]]:
        """Its log lines; only those of one event, if given."""
        found = []
        for text in self.log_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                line = {"event": "not json", "text": text}
            if not event or line["event"] == event:
                found.append(line)
        return found

    async def wait_until_ready(self) -> Self:
        """Wait until its worker processes handle events."""

        def ready() -> bool:
            assert self._process is not None
            code = self._process.poll()
            assert code is None, f"the worker ended with {code}: {self.log_text()}"
            return len(self.logs("child.ready")) >= self.processes

        await until(ready, _PATIENCE)
        return self

    # ── harming ───────────────────────────────────────────────────────────────────────────────────────────────

    async def kill_child(self, sig: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to one worker process; its process id."""
        pid = (await self.child_pids())[0]
        os.kill(pid, sig)
        return pid

    async def kill_whole(self) -> None:
        """Kill the supervisor and its worker processes as a crash of the machine does: nobody hands anything back."""
        children = await self.child_pids()
        os.kill(self.supervisor_pid, signal.SIGKILL)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait()

    async def stop_whole(self) -> None:
        """Let the supervisor and its worker processes stand still (SIGSTOP), the supervisor first."""
        for pid in (self.supervisor_pid, *await self.child_pids()):
            os.kill(pid, signal.SIGSTOP)

    async def continue_whole(self) -> None:
        """Let them run on (SIGCONT)."""
        for pid in (self.supervisor_pid, *self._known_children()):
            if lives(pid):
                os.kill(pid, signal.SIGCONT)

    async def terminate(self, within: float = _PATIENCE) -> int:
        """Ask it to end in order (SIGTERM); its exit code."""
        self.send(signal.SIGTERM)
        return await self.exit_code(within)

    def send(self, sig: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        os.kill(self.supervisor_pid, sig)

    async def exit_code(self, within: float = _PATIENCE) -> int:
        """Wait until it ends by itself; its exit code."""
        process = self._process
        assert process is not None
        await until(lambda: process.poll() is not None, within)
        return process.returncode

    async def close(self) -> None:
        """Kill what is left."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
        self._wait()
        for pid in self._known_children():
            # They end by themselves; a test that proves otherwise must not leave them behind.
            with suppress(AssertionError):
                await until(functools.partial(_is_gone, pid), 5.0)
            if lives(pid):
                os.kill(pid, signal.SIGKILL)

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(_PATIENCE)

    def _known_children(self) -> list[int]:
        """Every worker process that the supervisor has told of and that is still this folder's."""
        told = [int(line["child_pid"]) for line in self.logs("child.started")]
        return [pid for pid in told if _works_in(pid, self.folder)]


class Publisher:
    """Publishes `Job(n=0)`, `Job(n=1)`... all the time, while the `async with` lasts.

    It does as a careful program does: what raised is published again with its event id, until a publish returns.
    """

    def __init__(
        self, url: str, *, every: float = 0.005, lanes: int = 1, kind: str = "", durability: Durability = "none"
    ) -> None:
        """`every`: seconds between two publishes of a lane, each of which has a connection of its own."""
        self._url = url
        self._kind = kind
        self._durability = durability
        self._every = every
        self._lanes = lanes
        self._connected = 0
        #: When the first publish of each number began, and when one returned.
        self.asked: dict[int, float] = {}
        self.returned: dict[int, float] = {}
        #: How often a publish raised, by the name of the error.
        self.raised: Counter[str] = Counter()
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Begin, or go on; every lane is connected then, whatever is done to the connections next."""
        self._stop = False
        self._connected = 0
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._lanes)]
        await until(lambda: self._connected == self._lanes and self.returned, _PATIENCE)
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        """Publish nothing new, and wait until the last one has returned."""
        self._stop = True
        if kind is not None:
            await self.abandon()
        await asyncio.gather(*self._tasks)

    async def abandon(self) -> None:
        """Publish nothing more, and give up what has not returned: who is asked will never say yes again."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        async with App("chaos", broker=self._url, durability=self._durability) as app:
            self._connected += 1
            while not self._stop:
                await self._publish(app, Job(n=len(self.asked), kind=self._kind))
                await asyncio.sleep(self._every)

    async def _publish(self, app: App, job: Job) -> None:
        self.asked[job.n] = time.monotonic()
        event_id = None
        while True:
            try:
                await app.publish(job, event_id=event_id)
            except PublishError as error:
                self.raised[type(error).__name__] += 1
                event_id = error.event_id
                await asyncio.sleep(0.02)
            else:
                self.returned[job.n] = time.monotonic()
                return


def _is_gone(pid: int) -> bool:
    return not lives(pid)


def _works_in(pid: int, folder: Path) -> bool:
    """Whether a process with this id works in the folder: its id may be somebody else's by now."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder.resolve()
    except OSError:
        return False


async def publish(url: str, events: Sequence[Event]) -> list[str]:
    """Publish events from outside; their event ids."""
    async with App("chaos", broker=url) as app:
        return await app.publish_many(events)


async def dead_letters(url: str, stream: str) -> list[Any]:
    """All dead letters of a stream."""
    transport = open_transport(url)
    await transport.connect()
    try:
        assert transport.dead_letters is not None
        return await transport.dead_letters.page(stream, after="", limit=10_000)
    finally:
        await transport.close()


async def pending(url: str, stream: str, group: str = "chaos") -> int:
    """How many entries of a stream stand pending in a group, parked ones included."""
    transport = open_transport(url)
    await transport.connect()
    try:
        return sum(stats.pending for stats in await transport.stats(stream, group))
    finally:
        await transport.close()


async def nothing_pending(url: str, stream: str = "jobs", group: str = "chaos", *, within: float = 10.0) -> None:
    """Wait until nothing stands pending in the group: all that was delivered is settled."""

    async def settled() -> bool:
        return await pending(url, stream, group) == 0

    await until(settled, within)


class Emitted:
    """The payloads of every event in a stream, in order, read on from where the last reading ended."""

    def __init__(self, url: str, stream: str) -> None:
        self._app = App("chaos", broker=url)
        self._transport = open_transport(url)
        self._stream = stream
        self._position = "0"
        self._found: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        await self._transport.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    async def all(self) -> list[dict[str, Any]]:
        """All that stand there now."""
        while page := await self._transport.read(self._stream, after=self._position, count=1000, wait=0.0):
            self._position = page[-1].entry_id
            self._found += [json.loads(self._app.broker.decode(delivery).payload_bytes) for delivery in page]
        return self._found


async def emitted(url: str, stream: str) -> list[dict[str, Any]]:
    """The payloads of every event in a stream, in order."""
    async with Emitted(url, stream) as reading:
        return await reading.all()
