"""One worker process, as its supervisor sees it: the pipes to it, and what it has said of itself."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import time

from streamtask.worker.supervisor.settings import Settings

log = logging.getLogger("streamtask.supervisor")

#: Bytes of one slot in the table of started entries, as in `started.py`.
SLOT_BYTES = 64
#: Seconds that a child may take beyond its own shutdown timeout before it is killed.
MARGIN = 5.0


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
        path = os.path.join(folder, f"streamtask-started-{os.getpid()}-{time.monotonic_ns()}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
    os.ftruncate(fd, size)
    return fd
