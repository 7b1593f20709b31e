"""Ending with the parent: no way to lose a parent leaves a child at work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamtask.worker.parent import ORPHANED, SupervisorLink
from tests.processes import lives

#: A parent with a thread (its death is then seen by the parent-death signal first), a child, and a grandchild.
PARENT = """
import os, subprocess, sys, threading, time
read_end, write_end = os.pipe()
fork = sys.argv[3] == "forked"
if fork and os.fork() == 0:
    time.sleep(2)
    os._exit(0)
child = [sys.executable, "-c", sys.argv[1], str(read_end), str(os.getpid()), sys.argv[2]]
process = subprocess.Popen(child, pass_fds=(read_end,), start_new_session=True)
os.close(read_end)
threading.Thread(target=process.wait, daemon=True).start()
time.sleep(600)
"""

CHILD = """
import os, subprocess, sys, time
from streamtask.worker.parent import die_with_parent
die_with_parent(int(sys.argv[2]), int(sys.argv[1]))
grandchild = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
with open(sys.argv[3] + ".part", "w") as file:
    file.write(f"{os.getpid()} {grandchild.pid}")
os.rename(sys.argv[3] + ".part", sys.argv[3])
time.sleep(600)
"""


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if lives(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.mark.parametrize("forked", ["alone", "forked"])
def test_a_child_and_what_it_started_die_with_a_parent_that_is_killed(tmp_path: Path, forked: str) -> None:
    report = tmp_path / "pids"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(report), forked])
    try:
        while not report.exists():
            assert parent.poll() is None
            time.sleep(0.01)
    finally:
        parent.kill()
        parent.wait()

    wait_until_gone(*(int(pid) for pid in report.read_text().split()))


def test_where_the_kernel_cannot_watch_the_pipe_a_thread_does(tmp_path: Path) -> None:
    program = (
        "import sys, threading, time; from streamtask.worker.parent import watch; "
        "threading.Thread(target=watch, args=(int(sys.argv[1]),), daemon=True).start(); time.sleep(600)"
    )
    read_end, write_end = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", program, str(read_end)], pass_fds=(read_end,), process_group=0)
    os.close(read_end)

    os.close(write_end)

    assert child.wait(20) == -signal.SIGKILL


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    program = "import sys; from streamtask.worker.parent import die_with_parent; die_with_parent(1, int(sys.argv[1]))"
    read_end, write_end = os.pipe()
    try:
        child = subprocess.Popen([sys.executable, "-c", program, str(read_end)], pass_fds=(read_end,), process_group=0)
        assert child.wait(20) == ORPHANED
    finally:
        os.close(read_end)
        os.close(write_end)


def test_the_link_to_a_supervisor_is_taken_out_of_the_environment_and_kept_from_children() -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    environment = {
        "STREAMTASK_SUPERVISOR_PID": "17",
        "STREAMTASK_CONTROL_FD": str(write_end),
        "STREAMTASK_STARTED_FD": str(write_end),
        "STREAMTASK_PLACE": "0",
        "STREAMTASK_LIFELINE_FD": str(write_end),
        "HOME": "/",
    }
    try:
        link = SupervisorLink.from_environment(environment)

        assert link is not None
        assert link.supervisor_pid == 17
        assert environment == {"HOME": "/"}
        assert not os.get_inheritable(write_end)
        link.introduce("owner", "redis://", [("orders", "billing")])
        link.ready()
        said = [json.loads(line) for line in os.read(read_end, 4_096).splitlines()]
        assert said == [
            {"owner": "owner", "broker": "redis://", "subscriptions": [["orders", "billing"]]},
            {"ready": True},
        ]
    finally:
        os.close(read_end)
        os.close(write_end)


def test_without_a_supervisor_there_is_no_link() -> None:
    assert SupervisorLink.from_environment({"HOME": "/"}) is None
