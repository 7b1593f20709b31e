"""Ending with the parent: a child process never outlives the process that watches it, not even by kill -9.

The parent alone holds the writing end of a pipe, so the pipe's end is the parent's end. On Linux the kernel itself
answers it with SIGKILL to our whole process group, even while a C extension holds the interpreter; elsewhere a thread
does. The parent-death signal comes first and *stops* us: were it SIGKILL, it would often be faster than the pipe (5
of 8 times, where the parent has threads), and with us would go the pipe's address of those that we have started; they
would live on. So a child that is orphaned while a forked copy of its parent keeps the pipe open does nothing more,
and ends with that copy. Beside the names of
variables this module imports the standard library only; workers and sandbox children use it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import sys
import threading
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from streamtask.worker.variables import (
    CONTROL_VARIABLE,
    LIFELINE_VARIABLE,
    PID_VARIABLE,
    PLACE_VARIABLE,
    STARTED_VARIABLE,
)

_PR_SET_PDEATHSIG: Final = 1
#: Exit status of a child whose parent was gone before it had begun.
ORPHANED: Final = 70


def die_with_parent(parent_pid: int, lifeline: int) -> None:
    """See to it that this process group ends when the parent does; end at once where the parent is gone already.

    `lifeline` is the reading end of a pipe of which only the parent holds the writing end and that nobody else reads.
    Call it early, and from the leader of a process group of its own. The parent-death signal is bound to the thread of
    the parent that started this process: that thread has to live as long as the parent does.
    """
    os.set_inheritable(lifeline, False)  # noqa: FBT003 - it takes no keyword
    watched = _let_the_kernel_watch(lifeline)
    if sys.platform == "linux":
        orphaned = signal.SIGSTOP if watched else signal.SIGKILL
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, orphaned, 0, 0, 0)
    if not watched:
        threading.Thread(target=watch, args=(lifeline,), name="streamtask-lifeline", daemon=True).start()
    if os.getppid() != parent_pid or _ended(lifeline):
        os._exit(ORPHANED)


def watch(lifeline: int) -> None:
    """Wait for the end of the pipe, then kill this process group. Returns only where the group outlives that."""
    while os.read(lifeline, 1):
        pass
    _kill_group()


def _kill_group() -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _let_the_kernel_watch(lifeline: int) -> bool:
    """Have the end of the pipe answered with SIGKILL to this group (to this process, where it leads none).

    False where the system cannot do that.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        return False
    leads = os.getpgrp() == os.getpid()
    try:
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid() if leads else os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        return False
    return True


def _ended(lifeline: int) -> bool:
    """Whether the pipe had ended before anything watched it (nothing is ever written to it)."""
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    return bool(poll.poll(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorLink:
    """A worker's side of its supervisor: what it inherited, and the pipe to report on."""

    supervisor_pid: int
    #: Which of its processes this is, from 0.
    place: int
    control_fd: int
    started_fd: int
    lifeline_fd: int

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self | None:
        """The link of this process, or None without a supervisor.

        Takes the variables out of the environment and keeps the descriptors from its own children, who are not
        supervised.
        """
        if PID_VARIABLE not in environment:
            return None
        link = cls(
            supervisor_pid=int(environment.pop(PID_VARIABLE)),
            place=int(environment.pop(PLACE_VARIABLE)),
            control_fd=int(environment.pop(CONTROL_VARIABLE)),
            started_fd=int(environment.pop(STARTED_VARIABLE)),
            lifeline_fd=int(environment.pop(LIFELINE_VARIABLE)),
        )
        for fd in (link.control_fd, link.started_fd, link.lifeline_fd):
            os.set_inheritable(fd, False)  # noqa: FBT003 - as above
        return link

    def die_with_supervisor(self) -> None:
        """See to it that this process group ends when the supervisor does."""
        die_with_parent(self.supervisor_pid, self.lifeline_fd)

    def introduce(self, owner: str, broker: str, subscriptions: Sequence[tuple[str, str]]) -> None:
        """Say whose entries have to be handed back if this process dies: (stream, group) each. Before the first fetch.

        The place of a subscription in this list is the index that the table of started entries holds.
        """
        self._report({"owner": owner, "broker": broker, "subscriptions": [list(pair) for pair in subscriptions]})

    def ready(self) -> None:
        """Say that this process handles events from now on."""
        self._report({"ready": True})

    def _report(self, what: dict[str, object]) -> None:
        line = json.dumps(what).encode() + b"\n"
        while line:
            line = line[os.write(self.control_fd, line) :]
