"""The supervisor: keeps N worker processes running, and hands back at once what a dead one held.

    python -P -S .../supervisor.py '{"child": ["python", "-m", "..."], "processes": 2, "slots": 100}'

It is run by path and imports the standard library only, so that it costs as little memory as a Python process can, and
stands between a command and its worker for as short as one can; -S spares it the look at what is installed.
streamtask itself comes in when a child has died and its entries have to go back. It handles no events and opens no
connection before that. (`dataclasses`, `typing` and `tempfile` alone would add a quarter to its own memory.)

1. A child that dies is seen by its death, not by silence: SIGCHLD, then its whole process group is killed, then it is
   reaped, then its entries go back to their groups, while a replacement is already starting.
2. SIGTERM and SIGINT ask the children to drain; a second one, or SIGQUIT, kills them. SIGHUP replaces them one by one.
3. A child that ends with 0 is finished, with 2 its configuration is wrong; anything else is restarted.
4. A child that has more memory than it may have is replaced as by SIGHUP: its successor works before it is told to end.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType, ModuleType

log = logging.getLogger("streamtask.supervisor")

#: Bytes of one slot in the table of started entries, as in `started.py`.
SLOT_BYTES = 64
#: Seconds that a child may take beyond its own shutdown timeout before it is killed.
MARGIN = 5.0
#: Seconds that hand-backs may take at the end; what is left then is found by other workers within seconds.
LAST_HAND_BACKS = 5.0
LAST_HAND_BACKS_IN_A_HURRY = 1.5
#: A child that ends this often with exit code 1 before it was ready is given up.
ATTEMPTS = 5
#: The first and the longest pause before a child that was never ready is started again, or a hand-back tried again.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
#: Seconds between two looks at the files, where `watchfiles` is not installed.
LOOK_EVERY = 0.5
#: Seconds between two looks at the memory of the children, where it is limited.
WEIGH_EVERY = 1.0

OK = 0
FAILED = 1
MISCONFIGURED = 2

#: What the watch on files writes into the pipe in which signals arrive; no signal has this number.
_FILES_CHANGED = 0

HandBack = Callable[[str, str, list[tuple[str, str]], bytes], int]


_looking_for_packages = threading.Lock()


def _installed(name: str) -> ModuleType:
    """Import what is no part of the standard library. Raises `ImportError`."""
    with _looking_for_packages:
        if "site" not in sys.modules:
            # What Python does at its start, but with -S.
            importlib.import_module("site").main()
    return importlib.import_module(name)


class Settings:
    """What the command line asks for.

    `shutdown_timeout`: seconds that a child takes to drain, at most, by itself. `slots`: entries that one child may
    have started at a time. `reload`: files and folders whose change starts the children anew; None: nothing is watched.
    `max_memory`: MiB of a child beyond which it is replaced; None: it may have whatever it takes. `weigh_from`: seconds
    that a child works before it is replaced for that, so that a limit too low does not come to nothing but starts.
    """

    def __init__(
        self,
        *,
        child: list[str],
        processes: int = 1,
        shutdown_timeout: float = 30.0,
        slots: int = 1,
        reload: list[str] | None = None,
        log_format: str = "text",
        max_memory: int | None = None,
        weigh_from: float = 5.0,
        hand_back: str = "streamtask.worker.handback:hand_back",
    ) -> None:
        self.child = child
        self.processes = processes
        self.shutdown_timeout = shutdown_timeout
        self.slots = slots
        self.reload = reload
        self.log_format = log_format
        self.max_memory = max_memory
        self.weigh_from = weigh_from
        self.hand_back = hand_back


# ── one child ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Child:
    """One process, the pipes to it, and what it has said of itself."""

    def __init__(self, place: int, settings: Settings) -> None:
        """Start it, in a process group of its own. Raises `OSError` where that is impossible."""
        self.place = place
        self.settings = settings
        #: It has said that it handles events.
        self.ready = False
        #: It was told to stop.
        self.leaving = False
        #: It was started to take over from a child that still runs.
        self.newcomer = False
        #: It was killed on somebody's order, or because it did not end in time: no fault of what it was running.
        self.cut_short = False
        #: From when on it is replaced if it has too much memory: never, before it is ready.
        self.weigh_at = float("inf")
        #: When it is killed if it has not ended by then.
        self.kill_at: float | None = None
        self.owner = ""
        self.broker = ""
        self.subscriptions: list[tuple[str, str]] = []
        self._unread = b""
        #: The reading end of the pipe on which it reports.
        self.control, report = os.pipe()
        #: The writing end of a pipe that ends when we do; the child watches it.
        watched, self._lifeline = os.pipe()
        #: Memory that it shares with us: what it had started survives it.
        self._table = _shared_memory(settings.slots * SLOT_BYTES)
        os.set_blocking(self.control, False)
        environment = os.environ | {
            "STREAMTASK_SUPERVISOR_PID": str(os.getpid()),
            "STREAMTASK_PLACE": str(place),
            "STREAMTASK_CONTROL_FD": str(report),
            "STREAMTASK_STARTED_FD": str(self._table),
            "STREAMTASK_LIFELINE_FD": str(watched),
        }
        handed_down = (report, self._table, watched)
        try:
            # From the main thread, always: the parent-death signal is bound to the thread that starts a child.
            self._process = subprocess.Popen(  # noqa: S603 - what the command line asked for
                settings.child, env=environment, pass_fds=handed_down, process_group=0
            )
        except OSError:
            self.close()
            raise
        finally:
            os.close(report)
            os.close(watched)

    @property
    def pid(self) -> int:
        """Its process id, which is the id of its group, too."""
        return self._process.pid

    def read_reports(self) -> bool:
        """Take in what it has reported; False at the end of the pipe."""
        while True:
            try:
                received = os.read(self.control, 65_536)
            except BlockingIOError:
                return True
            if not received:
                return False
            *lines, self._unread = (self._unread + received).split(b"\n")
            for line in lines:
                self._take_in(line)

    def _take_in(self, line: bytes) -> None:
        try:
            report = json.loads(line)
            if "owner" in report:
                subscriptions = [(str(stream), str(group)) for stream, group in report["subscriptions"]]
                self.owner, self.broker, self.subscriptions = report["owner"], report["broker"], subscriptions
            self.ready = self.ready or bool(report.get("ready"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            fields = {"child_pid": self.pid, "error": repr(error)}
            log.error("child.report_unreadable", extra=fields)  # noqa: TRY400 - the line is what is wrong

    def ask_to_end(self) -> None:
        """Have it drain; it is given its time, and then killed. What it has started is its own to tell."""
        self.leaving = True
        self.kill_at = time.monotonic() + self.settings.shutdown_timeout + MARGIN
        # Not reaped yet, so the id is its own still. (Popen.send_signal would reap it on the way.)
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and what it has started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """Its exit code (negative: the signal that killed it), or None while it lives."""
        # Its id stays its own until it is waited for: the kill of its group cannot hit anybody else's.
        if hasattr(os, "waitid"):
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
        elif self._process.poll() is None:
            return None
        self.kill()
        return self._process.wait()

    def started(self) -> bytes:
        """A copy of its table of started entries."""
        # The child may have made it larger than it was.
        return os.pread(self._table, os.fstat(self._table).st_size, 0)

    def close(self) -> None:
        """Close what led to it. It has been reaped."""
        for fd in (self.control, self._lifeline, self._table):
            os.close(fd)


def _shared_memory(size: int) -> int:
    """A descriptor of memory; of a file without a name where the system has no such thing."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("streamtask-started")
    else:
        folder = os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - made with O_EXCL, and gone at once
        path = Path(folder, f"streamtask-started-{os.getpid()}-{time.monotonic_ns()}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        path.unlink()
    os.ftruncate(fd, size)
    return fd


# ── handing back ──────────────────────────────────────────────────────────────────────────────────────────────────


class Estate:
    """What a dead child left."""

    def __init__(self, child: Child) -> None:
        self.owner = child.owner
        self.broker = child.broker
        self.subscriptions = child.subscriptions
        self.started = b"" if child.cut_short else child.started()


class Returner:
    """A thread that hands estates back and does not give up: a server that is down holds up no signal."""

    def __init__(self, hand_back: str) -> None:
        self._name = hand_back
        self._changed = threading.Condition()
        self._estates: list[Estate] = []
        self._news = False
        self._thread: threading.Thread | None = None

    def take(self, child: Child) -> None:
        """Hand back what the child held, as soon as possible. It has been reaped."""
        estate = Estate(child)
        with self._changed:
            self._estates.append(estate)
            self._news = True
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="hand-back", daemon=True)
            self._thread.start()

    def finish(self, timeout: float) -> None:
        """Wait until all is handed back, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._estates, timeout)
            for estate in self._estates:
                log.warning("hand_back.left", extra={"owner": estate.owner})

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._estates)
                waiting, self._news = list(self._estates), False
            left = [estate for estate in waiting if not self._hand_back(estate)]
            with self._changed:
                self._estates = left + self._estates[len(waiting) :]
                self._changed.notify_all()
                pause = min(2 * pause, LONGEST_PAUSE) if left else FIRST_PAUSE
                if left:
                    # The next death ends the pause: it may concern another server.
                    self._changed.wait_for(lambda: self._news, pause / 2)

    def _hand_back(self, estate: Estate) -> bool:
        began = time.monotonic()
        module, _, function = self._name.partition(":")
        try:
            # The only way in for streamtask, taken when somebody has died: until then we weigh next to nothing.
            hand_back: HandBack = getattr(_installed(module), function)
            entries = hand_back(estate.broker, estate.owner, estate.subscriptions, estate.started)
        # A duty loop: whatever is wrong with the server or the installation, it is said, and tried again.
        except Exception as error:  # noqa: BLE001
            log.warning("hand_back.failed", extra={"owner": estate.owner, "error": f"{type(error).__name__}: {error}"})
            return False
        took = round(1000 * (time.monotonic() - began))
        log.info("hand_back.done", extra={"owner": estate.owner, "entries": entries, "took_ms": took})
        return True


# ── watching files ────────────────────────────────────────────────────────────────────────────────────────────────


class Watch:
    """Says when a Python file under some paths has changed: by `watchfiles` where installed, else by looking."""

    def __init__(self, paths: Iterable[str], changed: Callable[[], None]) -> None:
        self._paths = [Path(path) for path in paths]
        self._changed = changed

    def start(self) -> None:
        """Watch from now on, in a thread of its own."""
        threading.Thread(target=self._work, name="watch-files", daemon=True).start()

    def _work(self) -> None:
        try:
            watchfiles = _installed("watchfiles")
        except ImportError:
            changes = self._look()
        else:
            changes = watchfiles.watch(*self._paths, watch_filter=watchfiles.PythonFilter(), raise_interrupt=False)
        for _ in changes:
            self._changed()

    def _look(self) -> Iterator[None]:
        before = self._stamps()
        while True:
            time.sleep(LOOK_EVERY)
            now = self._stamps()
            if now != before:
                before = now
                yield None

    def _stamps(self) -> dict[str, int]:
        stamps = {}
        for path in self._paths:
            for file in (path,) if path.is_file() else _python_files(path):
                with contextlib.suppress(FileNotFoundError):
                    stamps[str(file)] = file.stat().st_mtime_ns
        return stamps


def _python_files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if not name.startswith(".") and name not in ("__pycache__", "node_modules")
        ]
        yield from (Path(root, name) for name in files if name.endswith(".py"))


# ── weighing children ─────────────────────────────────────────────────────────────────────────────────────────────


class Scales:
    """Finds out who has more memory than it may have, and says so."""

    def __init__(self, limit: int) -> None:
        """`limit`: MiB."""
        self._limit = limit
        # As small as the rest of us; by name, because a checkout that is not installed is in the path by now only.
        self._resident_mib: Callable[[int], float] = importlib.import_module("streamtask.worker.memory").resident_mib

    def is_too_heavy_at_rest(self, child: Child) -> bool:
        """Whether it has too much memory before it has done anything: its successors would have as much."""
        if found := self._excess(child):
            log.warning("child.needs_more_memory", extra=found)
        return bool(found)

    def is_too_heavy(self, child: Child) -> bool:
        """Whether it has come to have too much."""
        if found := self._excess(child):
            log.warning("child.recycled", extra=found)
        return bool(found)

    def _excess(self, child: Child) -> dict[str, int]:
        """What there is to say of a child that has too much; nothing of any other."""
        memory = self._resident_mib(child.pid)
        if memory <= self._limit:
            return {}
        return {"place": child.place, "child_pid": child.pid, "memory_mib": round(memory), "limit_mib": self._limit}


# ── the supervisor ────────────────────────────────────────────────────────────────────────────────────────────────


class Place:
    """One of the N: who fills it, or when it is filled again."""

    def __init__(self) -> None:
        self.child: Child | None = None
        #: Children in a row that ended before they were ready.
        self.failures = 0
        #: When the next child is started; None: not by the clock.
        self.due: float | None = None
        #: Its child has finished and needs no successor.
        self.done = False


class Supervisor:
    """N places, the children that fill them or are leaving them, and the signals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places = [Place() for _ in range(settings.processes)]
        self._children: list[Child] = []
        self._returner = Returner(settings.hand_back)
        self._selector = selectors.DefaultSelector()
        self._wake_up, self._woken = os.pipe()
        #: Places whose child is to be replaced, the first one's successor being on its way.
        self._rolling: list[int] = []
        #: All children are among them: somebody has asked for it.
        self._rolling_all = False
        self._scales = Scales(settings.max_memory) if settings.max_memory is not None else None
        #: When the children are weighed next.
        self._weigh_at = time.monotonic()
        self._stopping = False
        self._at_terminal = os.isatty(0)
        self._hurry = False
        self._exit_code = OK

    def run(self) -> int:
        """Run until all children have ended for good; the exit code."""
        self._listen()
        log.info("supervisor.started", extra={"processes": self._settings.processes, "supervisor_pid": os.getpid()})
        for index in range(len(self._places)):
            self._fill(index)
        if self._settings.reload is not None:
            Watch(self._settings.reload, lambda: _write(self._woken, _FILES_CHANGED)).start()
        while not self._is_over():
            for key, _ in self._selector.select(self._patience()):
                key.data()
            self._bury_the_dead()
            self._do_what_is_due()
        self._returner.finish(LAST_HAND_BACKS_IN_A_HURRY if self._hurry else LAST_HAND_BACKS)
        log.info("supervisor.stopped", extra={"exit_code": self._exit_code})
        return self._exit_code

    def _is_over(self) -> bool:
        if self._children:
            return False
        return self._stopping or all(place.done for place in self._places)

    # ── signals ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        """Have every signal arrive as a byte in a pipe, so that it is answered between two steps and never within."""
        os.set_blocking(self._wake_up, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        self._selector.register(self._wake_up, selectors.EVENT_READ, self._take_signals)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _into_the_pipe)

    def _take_signals(self) -> None:
        for number in os.read(self._wake_up, 4_096):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._drain(OK)
            elif number == signal.SIGQUIT:
                self._kill_all()
            elif number == signal.SIGHUP and self._at_terminal and not os.isatty(0):
                # Not a request: the terminal is gone.
                self._drain(OK)
            elif number == signal.SIGHUP:
                self._roll()
            elif number == _FILES_CHANGED:
                self._reload()

    def _drain(self, exit_code: int) -> None:
        """Ask all children to end; asked a second time, kill them."""
        if self._stopping:
            self._kill_all()
            return
        log.info("supervisor.draining", extra={"children": len(self._children)})
        self._stopping = True
        self._exit_code = exit_code
        for child in self._children:
            # One that was asked before takes a second time as an order to hurry.
            if not child.leaving:
                child.ask_to_end()

    def _kill_all(self) -> None:
        log.warning("supervisor.killing", extra={"children": len(self._children)})
        self._stopping = True
        self._hurry = True
        self._exit_code = self._exit_code or FAILED
        for child in self._children:
            child.kill_at = None
            child.cut_short = True
            child.kill()

    # ── children ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _fill(self, index: int) -> None:
        """Start a child for a place that is empty."""
        place = self._places[index]
        place.due = None
        place.child = self._start(index)
        if place.child is None:
            self._fail(index, FAILED)

    def _start(self, index: int) -> Child | None:
        """Start a child; None where the system refuses."""
        try:
            child = Child(index, self._settings)
        except OSError as error:
            log.error("child.start_failed", extra={"place": index, "error": str(error)})  # noqa: TRY400
            return None
        self._children.append(child)
        self._selector.register(child.control, selectors.EVENT_READ, lambda: self._listen_to(child))
        log.info("child.started", extra={"place": index, "child_pid": child.pid})
        return child

    def _listen_to(self, child: Child) -> None:
        was_ready = child.ready
        if not child.read_reports():
            self._selector.unregister(child.control)
        if child.ready and not was_ready:
            self._places[child.place].failures = 0
            log.info("child.ready", extra={"place": child.place, "child_pid": child.pid, "owner": child.owner})
            if self._scales is not None and not self._scales.is_too_heavy_at_rest(child):
                child.weigh_at = time.monotonic() + self._settings.weigh_from
            if child.newcomer:
                self._hand_over(child)

    def _bury_the_dead(self) -> None:
        for child in list(self._children):
            code = child.reap()
            if code is not None:
                self._bury(child, code)

    def _bury(self, child: Child, code: int) -> None:
        """It is reaped and its group is killed: hand back what it held, and see about its place."""
        self._children.remove(child)
        if child.control in self._selector.get_map():
            self._listen_to(child)
        if child.control in self._selector.get_map():
            self._selector.unregister(child.control)
        level = logging.INFO if code == OK or child.leaving else logging.ERROR
        fields = {"place": child.place, "child_pid": child.pid, "owner": child.owner, "how": _how(code)}
        log.log(level, "child.ended", extra=fields)
        if code != OK and child.owner:
            self._returner.take(child)
        child.close()
        if self._stopping:
            if not _ended_well(child, code):
                self._exit_code = self._exit_code or FAILED
        elif child.newcomer:
            self._stop_rolling()
            log.error("supervisor.replacing_stopped", extra={"place": child.place, "how": _how(code)})
        elif self._places[child.place].child is child:
            self._vacate(child, code)

    def _vacate(self, child: Child, code: int) -> None:
        """Its child has ended without being asked to: decide what becomes of the place."""
        place = self._places[child.place]
        place.child = None
        if child.ready:
            place.failures = 0
        if code != OK:
            self._fail(child.place, code, was_ready=child.ready)
        elif self._settings.reload is None:
            place.done = True

    def _fail(self, index: int, code: int, *, was_ready: bool = False) -> None:
        """A place has lost its child, or could not be filled: when to try again, if at all."""
        place = self._places[index]
        place.failures += 0 if was_ready else 1
        hopeless = code == MISCONFIGURED or (code == FAILED and place.failures >= ATTEMPTS)
        if not hopeless:
            place.due = time.monotonic() + _pause(place.failures)
        elif self._settings.reload is not None:
            log.error("supervisor.waiting_for_change", extra={"place": index})
        else:
            log.error("child.given_up", extra={"place": index, "how": _how(code)})
            self._drain(code)

    # ── replacing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _roll(self) -> None:
        """Replace the children one by one; each goes on until its successor is ready."""
        if self._stopping or self._rolling_all:
            return
        places = [index for index, place in enumerate(self._places) if place.child is not None]
        log.info("supervisor.replacing", extra={"children": len(places)})
        self._rolling_all = True
        # Who is on its way to take over from one that is too heavy may be made of what is to be replaced.
        is_one_on_its_way = bool(self._rolling)
        self._rolling += places
        if not is_one_on_its_way:
            self._send_for_a_newcomer()

    def _stop_rolling(self) -> None:
        """Whoever still was to be replaced goes on."""
        self._rolling = []
        self._rolling_all = False
        # What stood in the way of a successor may do so for a while.
        self._weigh_at = time.monotonic() + LONGEST_PAUSE

    def _weigh(self) -> None:
        """Replace a child that has more memory than it may have; the next one when that is done."""
        now = time.monotonic()
        self._weigh_at = now + WEIGH_EVERY
        if self._scales is None or self._rolling:
            return
        for index, place in enumerate(self._places):
            child = place.child
            if child is not None and child.weigh_at <= now and self._scales.is_too_heavy(child):
                self._rolling = [index]
                self._send_for_a_newcomer()
                return

    def _send_for_a_newcomer(self) -> None:
        if not self._rolling:
            self._rolling_all = False
            return
        newcomer = self._start(self._rolling[0])
        if newcomer is None:
            self._stop_rolling()
        else:
            newcomer.newcomer = True

    def _hand_over(self, newcomer: Child) -> None:
        """The newcomer works: the one before it may go."""
        newcomer.newcomer = False
        place = self._places[newcomer.place]
        if place.child is not None:
            place.child.ask_to_end()
        place.child, place.due, place.done = newcomer, None, False
        self._rolling = self._rolling[1:]
        self._send_for_a_newcomer()

    def _reload(self) -> None:
        """Start all children anew, at once: the files they were made of have changed."""
        if self._stopping:
            return
        log.info("supervisor.reloading")
        self._stop_rolling()
        for child in self._children:
            if not child.leaving:
                child.newcomer = False
                child.ask_to_end()
        for index, place in enumerate(self._places):
            place.failures = 0
            self._fill(index)

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _patience(self) -> float | None:
        """Seconds until something is due; None: nothing is."""
        moments = [child.kill_at for child in self._children if child.kill_at is not None]
        if not self._stopping:
            moments += [place.due for place in self._places if place.due is not None]
            moments += [self._weigh_at] if self._scales is not None else []
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.kill_at is not None and child.kill_at <= now:
                log.error("child.drain_timed_out", extra={"place": child.place, "child_pid": child.pid})
                child.kill_at = None
                child.cut_short = True
                child.kill()
        if self._stopping:
            return
        for index, place in enumerate(self._places):
            if place.due is not None and place.due <= now:
                self._fill(index)
        if self._scales is not None and self._weigh_at <= now:
            self._weigh()


def _ended_well(child: Child, code: int) -> bool:
    """Whether a child that was asked to end did so: by itself, or by the signal before it had set itself up."""
    return code == OK or (code == -signal.SIGTERM and not child.ready)


def _pause(failures: int) -> float:
    """Seconds before the next start: none after a child that worked or failed once, then doubled up to the longest."""
    return 0.0 if failures <= 1 else float(min(FIRST_PAUSE * 2 ** min(failures - 2, 16), LONGEST_PAUSE))


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _into_the_pipe(number: int, frame: FrameType | None) -> None:
    """Nothing to do here: the number is in the wake-up pipe already."""


def _write(fd: int, number: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.write(fd, bytes([number]))


# ── log lines ─────────────────────────────────────────────────────────────────────────────────────────────────────


class LineFormatter(logging.Formatter):
    """The form of the workers' own log lines (`telemetry/logs.py`), from the standard library alone."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json
        self._known = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        """Write one record as one line."""
        fields = {name: value for name, value in record.__dict__.items() if name not in self._known and value != ""}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        millis = f"{int(record.msecs):03d}"
        if self._as_json:
            moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{millis}Z"
            head = {"ts": moment, "level": record.levelname, "logger": record.name, "event": record.getMessage()}
            return json.dumps(head | fields, default=str)
        moment = time.strftime("%H:%M:%S", time.localtime(record.created)) + f".{millis}"
        words = [moment, record.levelname, _printable(record.getMessage())]
        return " ".join(words + [f"{name}={_word(str(value))}" for name, value in fields.items()])


def _word(text: str) -> str:
    plain = text and not any(letter.isspace() or letter in '"=\\' for letter in text)
    return _printable(text) if plain else '"' + _printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def main(argument: str) -> int:
    """Run a supervisor with these settings, a JSON object."""
    settings = Settings(**json.loads(argument))
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(as_json=settings.log_format == "json"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    # A log that cannot be written cannot be complained about in it, either: each line is tried once.
    logging.raiseExceptions = False
    # Last in the path, for a checkout that is not installed: nothing there can hide a module of the standard library.
    sys.path.append(str(Path(__file__).parents[2]))
    exit_code = Supervisor(settings).run()
    try:
        sys.stderr.flush()
    except OSError:
        # Python would end with 120 where its last lines cannot be written, whatever the children have come to.
        sys.stderr = None
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
