"""The supervisor: children are restarted, what they held goes back, and none outlives it."""

from __future__ import annotations

import ast
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import streamtask
from streamtask.worker import started
from streamtask.worker.started import started_entries
from streamtask.worker.supervisor import children, supervisor
from tests.processes import lives

PROGRAM = str(Path(supervisor.__file__).with_name("__main__.py"))

#: What every stand-in child begins with.
PRELUDE = """
import os, signal, subprocess, sys, time
from pathlib import Path
from streamtask.worker.parent import SupervisorLink
from streamtask.worker.started import StartedTable

folder = Path(__file__).parent
link = SupervisorLink.from_environment(os.environ)
link.die_with_supervisor()


def note(word):
    with (folder / "notes").open("a") as notes:
        notes.write(f"{word} {os.getpid()}\\n")


def drain(number, frame):
    note("drained")
    sys.exit(0)


def begin():
    signal.signal(signal.SIGTERM, drain)
    link.introduce(f"owner-{os.getpid()}", "fake://", [("orders", "billing"), ("shipping", "billing")])
    note("works")
    link.ready()
    # Noted after the report, so that whoever waits for it knows that the supervisor is told.
    note("ready")


def go_on():
    while True:
        time.sleep(60)


note("started")
"""

STEADY = "begin()\ngo_on()\n"

HAND_BACK = """
import base64, json, os
from pathlib import Path

folder = Path(__file__).parent


def hand_back(broker, owner, subscriptions, started):
    with (folder / "tries").open("a") as tries:
        tries.write("x")
    if (folder / "server-down").exists():
        raise ConnectionError("no server")
    line = {"broker": broker, "owner": owner, "subscriptions": subscriptions, "started": started.hex()}
    with (folder / "estates").open("a") as estates:
        estates.write(json.dumps(line) + "\\n")
    return len(subscriptions)

"""


class Trial:
    """A supervisor process with stand-in children, and what they have noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "stand_in_hand_back.py").write_text(HAND_BACK)

    def child(self, body: str) -> None:
        """What children that start from now on do."""
        (self.folder / "child.py").write_text(PRELUDE + textwrap.dedent(body))

    def start(self, body: str, **settings: object) -> None:
        """Start the supervisor."""
        self.child(body)
        defaults = {
            "child": [sys.executable, str(self.folder / "child.py")],
            "hand_back": "stand_in_hand_back:hand_back",
            "shutdown_timeout": 20,
            "slots": 4,
        }
        argument = json.dumps(defaults | settings)
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-S", PROGRAM, argument],
                env=os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"},
                stderr=log,
                start_new_session=True,
            )

    def pids(self, word: str) -> list[int]:
        """The children that noted this word, in order."""
        lines = self._lines("notes")
        return [int(line.split()[1]) for line in lines if line.split()[0] == word]

    def wait_for(self, word: str, count: int) -> list[int]:
        """Wait until so many children have noted this word."""
        until(lambda: len(self.pids(word)) >= count)
        return self.pids(word)

    def estates(self) -> list[dict[str, object]]:
        """What was handed back."""
        return [json.loads(line) for line in self._lines("estates")]

    def log(self) -> str:
        """What the supervisor said."""
        return (self.folder / "log").read_text()

    def signal(self, number: int) -> None:
        """Signal the supervisor."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        assert self.process is not None
        return self.process.wait(30)

    def close(self) -> None:
        """Kill what is left; its children end with it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            until(lambda: not any(lives(pid) for pid in self.pids("started")))

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        return (
            [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            if path.exists()
            else []
        )


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    """A supervisor that is not started yet."""
    trial = Trial(tmp_path)
    yield trial
    trial.close()


def until(condition: Callable[[], object], patience: float = 20.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


# ── death of a child ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_killed_child_is_replaced_and_the_others_go_on(trial: Trial) -> None:
    trial.start(STEADY, processes=2)
    first, second = trial.wait_for("ready", 2)

    os.kill(first, signal.SIGKILL)

    assert trial.wait_for("ready", 3)[:2] == [first, second]
    assert lives(second)
    assert not lives(first)


def test_what_a_killed_child_held_is_handed_back_with_what_it_had_started(trial: Trial) -> None:
    body = """
        table = StartedTable.attach(link.started_fd)
        table.mark(0, 0, "1-0")
        table.mark(1, 1, "7-7")
        table.mark(2, 0, "2-0")
        table.clear(2)
        begin()
        go_on()
    """
    trial.start(body)
    [pid] = trial.wait_for("ready", 1)

    os.kill(pid, signal.SIGKILL)
    until(trial.estates)

    [estate] = trial.estates()
    assert estate["owner"] == f"owner-{pid}"
    assert estate["broker"] == "fake://"
    assert estate["subscriptions"] == [["orders", "billing"], ["shipping", "billing"]]
    assert started_entries(bytes.fromhex(str(estate["started"]))) == [(0, "1-0"), (1, "7-7")]


def test_entries_go_back_only_after_the_whole_process_group_is_dead(trial: Trial) -> None:
    body = """
        begin()
        grandchild = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        (folder / "grandchild").write_text(f"{grandchild.pid}\\n")
        note("parent")
        go_on()
    """
    trial.start(body)
    [pid] = trial.wait_for("parent", 1)
    grandchild = int((trial.folder / "grandchild").read_text())

    os.kill(pid, signal.SIGKILL)
    until(trial.estates)

    until(lambda: not lives(grandchild))
    assert trial.estates()[0]["owner"] == f"owner-{pid}"


@pytest.mark.parametrize("how", ["os._exit(1)", "os._exit(9)", "os.kill(os.getpid(), signal.SIGSEGV)"])
def test_any_end_but_an_orderly_one_hands_back(trial: Trial, how: str) -> None:
    trial.start(f"begin()\nif not (folder / 'second').exists():\n    (folder / 'second').touch()\n    {how}\ngo_on()\n")
    pids = trial.wait_for("ready", 2)
    until(trial.estates)

    assert [estate["owner"] for estate in trial.estates()] == [f"owner-{pids[0]}"]


def test_a_child_that_never_said_who_it_was_leaves_nothing_to_hand_back(trial: Trial) -> None:
    body = "if not (folder / 'second').exists():\n    (folder / 'second').touch()\n    os._exit(1)\nbegin()\ngo_on()\n"
    trial.start(body)
    trial.wait_for("ready", 1)
    trial.signal(signal.SIGTERM)

    assert trial.wait() == 0
    assert trial.estates() == []


def test_a_hand_back_is_tried_again_until_the_server_answers_while_children_come_back(trial: Trial) -> None:
    (trial.folder / "server-down").touch()
    trial.start(STEADY)
    [pid] = trial.wait_for("ready", 1)
    os.kill(pid, signal.SIGKILL)
    trial.wait_for("ready", 2)
    until(lambda: len((trial.folder / "tries").read_text()) >= 2 if (trial.folder / "tries").exists() else False)
    assert trial.estates() == []

    (trial.folder / "server-down").unlink()

    until(trial.estates)
    assert [estate["owner"] for estate in trial.estates()] == [f"owner-{pid}"]


def test_a_server_that_is_down_does_not_keep_the_supervisor_from_ending(trial: Trial) -> None:
    (trial.folder / "server-down").touch()
    trial.start(STEADY)
    [pid] = trial.wait_for("ready", 1)
    os.kill(pid, signal.SIGKILL)
    trial.wait_for("ready", 2)

    trial.signal(signal.SIGTERM)

    assert trial.wait() == 0
    assert f"hand_back.left owner=owner-{pid}" in trial.log()


# ── death of the supervisor ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("body", [STEADY, "begin()\nimport ctypes\nctypes.PyDLL(None).sleep(60)\n"])
def test_children_die_with_a_supervisor_that_is_killed(trial: Trial, body: str) -> None:
    trial.start(body, processes=2)
    pids = trial.wait_for("ready", 2)

    trial.signal(signal.SIGKILL)
    trial.wait()

    until(lambda: not any(lives(pid) for pid in pids), patience=5)


def test_what_children_have_started_dies_with_the_supervisor_too(trial: Trial) -> None:
    body = """
        begin()
        grandchild = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        (folder / "grandchild").write_text(f"{grandchild.pid}\\n")
        note("parent")
        go_on()
    """
    trial.start(body)
    trial.wait_for("parent", 1)

    trial.signal(signal.SIGKILL)
    trial.wait()

    until(lambda: not lives(int((trial.folder / "grandchild").read_text())))


# ── signals ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_has_the_children_drain_and_ends_with_0(trial: Trial, number: int) -> None:
    trial.start(STEADY, processes=2)
    pids = trial.wait_for("ready", 2)

    trial.signal(number)

    assert trial.wait() == 0
    assert sorted(trial.pids("drained")) == sorted(pids)
    assert len(trial.pids("started")) == 2
    assert trial.estates() == []


def test_asked_to_end_before_a_child_was_ready_it_ends_with_0(trial: Trial) -> None:
    trial.start("note('importing')\ngo_on()\n")
    trial.wait_for("importing", 1)

    trial.signal(signal.SIGTERM)

    assert trial.wait() == 0


def test_a_child_that_drains_badly_shows_in_the_exit_code(trial: Trial) -> None:
    trial.start("begin()\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(1))\nnote('stubborn')\ngo_on()\n")
    [pid] = trial.wait_for("stubborn", 1)

    trial.signal(signal.SIGTERM)

    assert trial.wait() == 1
    assert [estate["owner"] for estate in trial.estates()] == [f"owner-{pid}"]


STUBBORN = "begin()\nsignal.signal(signal.SIGTERM, lambda *_: note('asked'))\nnote('stubborn')\ngo_on()\n"


def test_asked_a_second_time_it_kills_the_children_and_hands_back(trial: Trial) -> None:
    trial.start(STUBBORN, processes=2)
    pids = trial.wait_for("stubborn", 2)
    trial.signal(signal.SIGTERM)
    trial.wait_for("asked", 2)

    trial.signal(signal.SIGINT)

    assert trial.wait() == 1
    assert sorted(str(estate["owner"]) for estate in trial.estates()) == sorted(f"owner-{pid}" for pid in pids)


def test_sigquit_kills_at_once(trial: Trial) -> None:
    trial.start(STUBBORN)
    trial.wait_for("stubborn", 1)

    trial.signal(signal.SIGQUIT)

    assert trial.wait() == 1
    assert len(trial.estates()) == 1
    assert trial.pids("asked") == []


def test_a_child_that_does_not_drain_in_time_is_killed_and_handed_back(trial: Trial) -> None:
    trial.start(STUBBORN, shutdown_timeout=-4.5)
    trial.wait_for("stubborn", 1)

    trial.signal(signal.SIGTERM)

    assert trial.wait() == 1
    assert len(trial.estates()) == 1
    assert "child.drain_timed_out" in trial.log()


def test_a_hangup_replaces_the_children_one_by_one_each_only_when_its_successor_is_ready(trial: Trial) -> None:
    trial.start(STEADY, processes=2)
    old = trial.wait_for("ready", 2)

    trial.signal(signal.SIGHUP)
    trial.wait_for("drained", 2)
    trial.wait_for("ready", 4)

    words = [line.split()[0] for line in (trial.folder / "notes").read_text().splitlines()]
    assert sorted(trial.pids("drained")) == sorted(old)
    for index, word in enumerate(words):
        if word == "drained":
            assert words[:index].count("works") - words[:index].count("drained") >= 3
    trial.signal(signal.SIGTERM)
    assert trial.wait() == 0


def test_successors_that_fail_leave_the_old_children_at_work(trial: Trial) -> None:
    trial.start(STEADY, processes=2)
    old = trial.wait_for("ready", 2)
    trial.child("sys.exit(2)\n")

    trial.signal(signal.SIGHUP)

    until(lambda: "supervisor.replacing_stopped" in trial.log())
    assert all(lives(pid) for pid in old)
    trial.signal(signal.SIGTERM)
    assert trial.wait() == 0


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────

#: MiB: more than a stand-in child has to begin with, and no more than what it takes when it grows.
LIMIT = 60

#: Grows when the test says so.
GROWS = """
begin()
while not (folder / f"grow-{os.getpid()}").exists():
    time.sleep(0.01)
ballast = b"x" * (60 << 20)
go_on()
"""


def grow(trial: Trial, pid: int) -> None:
    """Have a child take more memory than it may have; the supervisor has seen it ready."""
    until(lambda: f"child_pid={pid} owner=owner-{pid}\n" in trial.log())
    (trial.folder / f"grow-{pid}").touch()


def test_a_child_that_has_too_much_memory_is_told_to_end_when_its_successor_is_ready(trial: Trial) -> None:
    trial.start(GROWS, processes=2, max_memory=LIMIT, weigh_from=0.0)
    first, second = trial.wait_for("ready", 2)

    grow(trial, second)

    assert trial.wait_for("drained", 1) == [second]
    words = [line.split()[0] for line in (trial.folder / "notes").read_text().splitlines()]
    assert words[: words.index("drained")].count("works") == 3
    assert lives(first)
    [line] = [line for line in trial.log().splitlines() if "child.recycled" in line]
    assert f"child_pid={second} memory_mib=" in line
    assert f"limit_mib={LIMIT}" in line
    trial.signal(signal.SIGTERM)
    assert trial.wait() == 0


def test_a_child_works_for_some_time_before_it_is_replaced_for_its_memory(trial: Trial) -> None:
    trial.start(GROWS, max_memory=LIMIT, weigh_from=2.5)
    moments = []
    for generation in range(1, 4):
        pid = trial.wait_for("ready", generation)[-1]
        moments.append(time.monotonic())
        grow(trial, pid)

    assert trial.wait_for("drained", 2) == trial.pids("ready")[:2]
    assert min(later - earlier for earlier, later in itertools.pairwise(moments)) > 2.4


def test_children_that_have_too_much_memory_before_they_work_are_told_of_and_go_on(trial: Trial) -> None:
    trial.start(STEADY, processes=2, max_memory=1, weigh_from=0.0)
    trial.wait_for("ready", 2)
    until(lambda: trial.log().count("child.needs_more_memory") == 2)
    # As long as several looks take.
    time.sleep(3 * supervisor.WEIGH_EVERY)

    assert len(trial.pids("started")) == 2
    assert "child.recycled" not in trial.log()
    assert trial.log().count("child.needs_more_memory") == 2


def test_a_hangup_while_one_is_replaced_for_its_memory_replaces_all_nevertheless(trial: Trial) -> None:
    trial.start(GROWS, processes=2, max_memory=LIMIT, weigh_from=0.0)
    old = trial.wait_for("ready", 2)
    trial.child("while not (folder / 'go').exists():\n    time.sleep(0.01)\n" + STEADY)
    grow(trial, old[0])
    slow = trial.wait_for("started", 3)[2]
    trial.child(STEADY)

    trial.signal(signal.SIGHUP)
    until(lambda: "supervisor.replacing children=2" in trial.log())
    (trial.folder / "go").touch()

    # The successor, too: it was started before.
    until(lambda: {*old, slow} == set(trial.pids("drained")))
    until(lambda: trial.log().count("child.ready") == 5)
    trial.signal(signal.SIGTERM)
    assert trial.wait() == 0
    assert len(trial.pids("started")) == 5


def test_where_no_successor_can_start_the_child_that_has_too_much_memory_goes_on(trial: Trial) -> None:
    trial.start(GROWS, max_memory=LIMIT, weigh_from=0.0)
    [pid] = trial.wait_for("ready", 1)
    trial.child("sys.exit(2)\n")

    grow(trial, pid)

    until(lambda: "supervisor.replacing_stopped" in trial.log())
    # As long as several looks take: the next successor is tried later.
    time.sleep(3 * supervisor.WEIGH_EVERY)
    assert lives(pid)
    assert trial.log().count("child.started") == 2
    trial.signal(signal.SIGTERM)
    assert trial.wait() == 0


# ── exit codes and crash loops ────────────────────────────────────────────────────────────────────────────────────


def test_when_all_children_have_finished_it_ends_with_0(trial: Trial) -> None:
    trial.start("begin()\nsys.exit(0)\n", processes=3)

    assert trial.wait() == 0
    assert len(trial.pids("started")) == 3
    assert trial.estates() == []


def test_a_wrong_configuration_is_not_tried_again_and_ends_all(trial: Trial) -> None:
    body = "try:\n    (folder / 'first').touch(exist_ok=False)\nexcept FileExistsError:\n    sys.exit(2)\n"
    trial.start(body + STEADY, processes=2)

    assert trial.wait() == 2
    assert len(trial.pids("started")) == 2


def test_a_child_that_keeps_failing_before_it_is_ready_is_given_up(trial: Trial) -> None:
    trial.start("sys.exit(1)\n")

    assert trial.wait() == 1
    assert len(trial.pids("started")) == 5
    assert "child.given_up" in trial.log()


def test_a_program_that_does_not_exist_is_given_up(trial: Trial) -> None:
    trial.start("", child=[str(trial.folder / "missing")])

    assert trial.wait() == 1
    assert "child.start_failed" in trial.log()


def test_pauses_between_starts_grow_to_a_bound() -> None:
    pauses = [supervisor._pause(failures) for failures in (0, 1, 2, 3, 4, 9, 1_000_000)]

    assert pauses == [0.0, 0.0, 0.5, 1.0, 2.0, 30.0, 30.0]


def test_it_goes_on_when_what_a_child_reports_cannot_be_read(trial: Trial) -> None:
    trial.start("os.write(link.control_fd, b'[]\\n{\\n{\"owner\": 1}\\n')\nbegin()\ngo_on()\n")
    trial.wait_for("ready", 1)

    until(lambda: "child.ready" in trial.log())
    trial.signal(signal.SIGTERM)
    assert trial.wait() == 0
    assert trial.log().count("child.report_unreadable") == 3


# ── reload ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["watchfiles", "looking"])
def watched(request: pytest.FixtureRequest, trial: Trial) -> Path:
    """A folder to watch, with the package and without."""
    if request.param == "looking":
        (trial.folder / "watchfiles.py").write_text("raise ImportError\n")
    else:
        pytest.importorskip("watchfiles")
    folder = trial.folder / "source"
    folder.mkdir()
    (folder / "app.py").write_text("one")
    return folder


def change_until(file: Path, condition: Callable[[], object]) -> None:
    """Go on changing a file: nobody knows when the watching has begun."""
    count = 0

    def changed() -> object:
        nonlocal count
        count += 1
        if count % 100 == 1:
            file.write_text(f"change {count}")
        return condition()

    until(changed)


def test_a_change_starts_the_children_anew(trial: Trial, watched: Path) -> None:
    trial.start(STEADY, reload=[str(watched)])
    [old] = trial.wait_for("ready", 1)

    change_until(watched / "app.py", lambda: len(trial.pids("ready")) >= 2)

    trial.wait_for("drained", 1)
    assert trial.pids("drained")[0] == old
    trial.signal(signal.SIGTERM)
    assert trial.wait() == 0


def test_code_that_cannot_start_is_waited_for_to_change(trial: Trial, watched: Path) -> None:
    trial.start("sys.exit(2)\n", reload=[str(watched)])
    until(lambda: "supervisor.waiting_for_change" in trial.log())
    trial.child(STEADY)

    change_until(watched / "app.py", lambda: trial.pids("ready"))

    trial.signal(signal.SIGTERM)
    assert trial.wait() == 0


# ── its own weight and words ──────────────────────────────────────────────────────────────────────────────────────


def test_it_knows_the_size_of_a_slot() -> None:
    assert children.SLOT_BYTES == started.SLOT_BYTES


def test_it_imports_the_standard_library_only_until_a_child_has_died() -> None:
    program = (
        "import sys; sys.path.append(sys.argv[1]); import streamtask.worker.supervisor.command; "
        "known = sys.stdlib_module_names | {'sitecustomize'}; "
        "print([name for name in sys.modules if name.partition('.')[0] not in known])"
    )
    folder = str(Path(streamtask.__file__).parents[1])

    said = subprocess.run([sys.executable, "-S", "-c", program, folder], capture_output=True, text=True, check=True)

    ours = [name for name in ast.literal_eval(said.stdout) if name != "__main__"]
    package = "streamtask.worker.supervisor"
    allowed = {"streamtask", "streamtask.worker", "streamtask.worker.memory", package}
    assert [name for name in ours if name not in allowed and not name.startswith(f"{package}.")] == []


def test_its_log_lines_can_be_json(trial: Trial) -> None:
    trial.start("begin()\nsys.exit(0)\n", log_format="json")
    assert trial.wait() == 0

    lines = [json.loads(line) for line in trial.log().splitlines()]

    assert lines[0]["event"] == "supervisor.started"
    assert {"ts", "level", "logger", "event"} <= lines[-1].keys()
    assert lines[-1]["exit_code"] == 0
