"""Processes of bots as the kernel has them: what counts as alive, what belongs to a bot, and that nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from streamtask_contrib.bot import processes as module
from streamtask_contrib.bot.processes import Processes, is_alive, place
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.states import Bot, ProcessIdentity

from tests.chaos.leaks import open_files
from tests.processes import lives

#: Tells what it was given, and then does what the test has put in the place of {}.
PROGRAM = """
import json, os, signal, subprocess, sys, time
facts = dict(os.environ, cwd=os.getcwd(), sid=os.getsid(0), stdin=os.readlink("/proc/self/fd/0"),
             files=sorted(os.readlink(f"/proc/self/fd/{{n}}") for n in os.listdir("/proc/self/fd") if n != "3"))
print(json.dumps(facts), flush=True)
sleep = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(1000)"]
def child(**options):
    process = subprocess.Popen(sleep, stdout=subprocess.PIPE, **options)
    process.stdout.readline()
    return process
{}
print("ready", flush=True)
time.sleep(1000)
"""


class Place:
    """Processes of bots whose program is written by the test; none outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = BotSettings(logs=folder / "logs")
        self._started: list[int] = []

    def processes(self, does: str = "", *, broker: str = "redis://here") -> Processes:
        program = self.folder / "program.py"
        program.write_text(PROGRAM.format(does))
        return Processes(self.settings, broker, program=(sys.executable, str(program)))

    def start(self, processes: Processes, bot_id: str = "b", *, attempt: int = 1, ready: bool = True) -> Bot:
        identity = processes.start(bot_id, attempt)
        self._started.append(identity.pid)
        wait_until(lambda: not ready or "ready" in Path(identity.log).read_text())
        return Bot(bot_id=bot_id, attempt=attempt, process=identity)

    def facts(self, bot: Bot) -> dict[str, str]:
        assert bot.process is not None
        found: dict[str, str] = json.loads(Path(bot.process.log).read_text().splitlines()[0])
        return found

    def close(self) -> None:
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if str(self.folder) in process.environ().get(module.FOLDER, ""):
                    process.kill()
        for pid in self._started:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sight(processes: Processes, bot: Bot) -> str:
    return processes.look([bot])["b"][0]


# ── starting ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_process_has_a_session_a_folder_a_log_and_an_environment_of_its_own(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMTASK_BOT_JOIN_TIMEOUT", "1")
    monkeypatch.setenv("STREAMTASK_BOT_CHROMIUM", "/of/the/environment")
    monkeypatch.setenv("STREAMTASK_BOT_TOKEN_ZOOM", "a token")
    here.settings = BotSettings(
        logs=here.folder / "logs", join_timeout=77.5, meeting_hosts=("a.example", "*.b.example"), chromium=""
    )
    read, write = os.pipe()
    os.set_inheritable(write, True)
    bot = here.start(here.processes(), attempt=2)
    os.close(read)
    os.close(write)
    facts = here.facts(bot)

    assert bot.process is not None
    assert (bot.process.place, bot.process.log) == (place(), str(here.folder / "logs" / "b.2.log"))
    assert (facts["STREAMTASK_BOT_ID"], facts["STREAMTASK_BOT_ATTEMPT"]) == ("b", "2")
    assert facts["STREAMTASK_BOT_BROKER"] == "redis://here"
    assert facts["cwd"] == facts["STREAMTASK_BOT_FOLDER"] == str(here.folder / "logs" / "b.2.scratch")
    assert (facts["sid"], facts["stdin"]) == (bot.process.pid, "/dev/null")
    assert facts["files"] == ["/dev/null", bot.process.log, bot.process.log]
    assert Path(bot.process.log).stat().st_mode & 0o777 == 0o600
    # The orchestrator's settings and not those of the environment; what is no setting is as it was.
    assert facts["STREAMTASK_BOT_JOIN_TIMEOUT"] == "77.5"
    assert facts["STREAMTASK_BOT_TOKEN_ZOOM"] == "a token"
    told = {name: value for name, value in facts.items() if name.startswith("STREAMTASK_BOT_")}
    with monkeypatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("STREAMTASK_BOT_")]:
            patch.delenv(name)
        for name, value in told.items():
            patch.setenv(name, value)
        assert BotSettings() == here.settings


def test_what_is_relative_to_the_orchestrator_is_found_by_the_bot(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here.folder)
    monkeypatch.setenv("STREAMTASK_BLOBS_FOLDER", "blobs")
    here.settings = BotSettings(logs=Path("logs"), recordings=Path("recordings"))
    facts = here.facts(here.start(here.processes()))
    for name in ("BLOBS_FOLDER", "BOT_RECORDINGS", "BOT_LOGS", "BOT_FOLDER"):
        path = Path(facts[f"STREAMTASK_{name}"])
        assert path.is_absolute()
        assert path.is_relative_to(here.folder)


def test_a_folder_of_logs_that_others_may_read_is_refused(here: Place) -> None:
    (here.folder / "logs").mkdir(mode=0o777)
    (here.folder / "logs").chmod(0o777)
    with pytest.raises(PermissionError, match="nobody else may read"):
        here.processes().start("b", 1)


def test_a_log_that_a_link_leads_elsewhere_from_is_not_followed(here: Place) -> None:
    (here.folder / "logs").mkdir(mode=0o700)
    (here.folder / "precious").write_text("mine")
    (here.folder / "logs" / "b.1.log").symlink_to(here.folder / "precious")
    here.start(here.processes())
    assert (here.folder / "precious").read_text() == "mine"


def test_a_program_that_cannot_be_started_leaves_no_descriptor(here: Place) -> None:
    processes = Processes(here.settings, "redis://here", program=("/no/such/program",))
    before = open_files(os.getpid())
    with pytest.raises(FileNotFoundError):
        processes.start("b", 1)
    assert open_files(os.getpid()) == before


def test_starting_and_ending_many_leaves_no_descriptor_and_no_zombie(here: Place) -> None:
    processes = here.processes()
    here.start(processes)
    before = open_files(os.getpid())
    bots = [here.start(processes, f"b{n}", ready=False) for n in range(10)]
    for bot in bots:
        processes.signal(bot, signal.SIGKILL)
    wait_until(lambda: processes.reap() or not any(psutil.pid_exists(bot.process.pid) for bot in bots if bot.process))
    assert open_files(os.getpid()) == before


# ── alive or not ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_zombie_is_dead_and_a_number_that_is_another_process_now_is_another(here: Place) -> None:
    processes = here.processes()
    bot = here.start(processes)
    assert bot.process is not None
    assert is_alive(bot.process)
    assert not is_alive(bot.process.model_copy(update={"started": bot.process.started - 100}))

    os.kill(bot.process.pid, signal.SIGKILL)
    wait_until(lambda: not lives(bot.process.pid))  # type: ignore[union-attr]
    assert psutil.pid_exists(bot.process.pid)
    assert not is_alive(bot.process)
    assert sight(processes, bot) == "gone"
    processes.reap()
    assert not psutil.pid_exists(bot.process.pid)
    assert not is_alive(bot.process)


def test_a_process_is_the_same_when_the_time_of_day_is_set(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    bot = here.start(here.processes())
    assert bot.process is not None
    boot, created = psutil.boot_time(), psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: created(self) + 3600)
    assert is_alive(bot.process)


# ── what belongs to a bot ─────────────────────────────────────────────────────────────────────────────────────────

#: One in the bot's group, one in a group of its own, one in a session of its own; and one whose environment is empty.
FAMILY = """
child()
child(process_group=0)
child(start_new_session=True)
child(env={})
child(env={}, start_new_session=True)
"""


def family(bot: Bot) -> list[int]:
    assert bot.process is not None
    found = [bot.process.pid, *(child.pid for child in psutil.Process(bot.process.pid).children(recursive=True))]
    assert len(found) == 6
    return found


def test_a_bot_is_killed_with_all_that_it_has_started(here: Place) -> None:
    processes = here.processes(FAMILY)
    bot, other = here.start(processes), here.start(processes, "b2")
    pids, others = family(bot), family(other)
    assert sight(processes, bot) == "alive"
    processes.signal(bot, signal.SIGKILL)
    wait_until(lambda: not any(map(lives, pids)))

    assert sight(processes, bot) == "gone"
    assert all(map(lives, others))
    processes.signal(other, signal.SIGKILL)
    wait_until(lambda: not any(map(lives, others)))


def test_what_a_dead_bot_has_left_is_seen_and_killed(here: Place) -> None:
    # One that has left the session and has nothing of the environment has to be found before its parent is dead.
    processes = here.processes(FAMILY.replace("child(env={}, start_new_session=True)", "child(env={})"))
    bot = here.start(processes)
    pids = family(bot)
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: not lives(pids[0]))
    processes.reap()

    assert sight(processes, bot) == "remains"
    processes.signal(bot, signal.SIGKILL)
    wait_until(lambda: not any(map(lives, pids)))
    assert sight(processes, bot) == "gone"


def test_sigterm_reaches_the_process_alone_and_no_stranger_that_has_its_number(here: Place) -> None:
    processes = here.processes("child(); child(start_new_session=True)")
    bot = here.start(processes)
    assert bot.process is not None
    stranger = bot.with_(process=bot.process.model_copy(update={"started": 1.0}), bot_id="c")
    for number in (signal.SIGTERM, signal.SIGKILL):
        processes.signal(stranger, number)
    children = psutil.Process(bot.process.pid).children()
    assert lives(bot.process.pid)
    assert all(lives(child.pid) for child in children)

    processes.signal(bot, signal.SIGTERM)
    wait_until(lambda: not lives(bot.process.pid))  # type: ignore[union-attr]
    # A browser is needed for a goodbye; what is left after it is killed.
    assert all(lives(child.pid) for child in children)
    assert sight(processes, bot) == "remains"
    processes.signal(bot, signal.SIGKILL)
    wait_until(lambda: sight(processes, bot) == "gone")


def test_an_orchestrator_is_no_part_of_what_it_has_started(here: Place) -> None:
    processes = here.processes()
    bot, other = here.start(processes), here.start(processes, "b2")
    processes.signal(bot, signal.SIGKILL)
    assert bot.process is not None
    wait_until(lambda: not lives(bot.process.pid))  # type: ignore[union-attr]
    assert other.process is not None
    # We are alive to say so.
    assert lives(other.process.pid)


def test_a_process_that_nobody_has_written_down_is_found_by_what_it_was_told(here: Place) -> None:
    processes = here.processes("child(); child(start_new_session=True)")
    bot = here.start(processes)
    lost = bot.with_(process=None)

    assert processes.look([lost]) == {"b": ("alive", bot.process)}
    # By whoever looks, and for whom it was told only.
    assert here.processes("child(); child(start_new_session=True)").look([lost]) == {"b": ("alive", bot.process)}
    assert here.processes(broker="redis://there").look([lost]) == {"b": ("gone", None)}
    assert processes.look([lost.with_(attempt=2)]) == {"b": ("gone", None)}
    assert bot.process is not None
    os.kill(bot.process.pid, signal.SIGKILL)
    wait_until(lambda: not lives(bot.process.pid))  # type: ignore[union-attr]
    # What it has left is not taken for it.
    assert processes.look([lost]) == {"b": ("remains", None)}


# ── what is left ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_folders_of_a_bot_go_with_it_and_its_logs_when_they_are_old(here: Place) -> None:
    processes = here.processes()
    for attempt in (1, 2):
        bot = here.start(processes, attempt=attempt)
    living = here.start(processes, "b.2")
    processes.tidy(bot)
    logs = here.settings.logs
    assert sorted(path.name for path in logs.iterdir()) == ["b.1.log", "b.2.1.log", "b.2.1.scratch", "b.2.log"]

    (logs / "somebody-elses.txt").touch()
    for path in logs.iterdir():
        os.utime(path, (1, 1))
    (logs / "b.2.log").touch()
    processes.sweep({living.bot_id}, older_than=60)
    left = ["b.2.1.log", "b.2.1.scratch", "b.2.log", "somebody-elses.txt"]
    assert sorted(path.name for path in logs.iterdir()) == left


def test_a_place_is_that_of_all_processes_here(tmp_path: Path) -> None:
    code = "from streamtask_contrib.bot.processes import place; print(place())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == place()
    assert ProcessIdentity(place=place(), pid=os.getpid(), started=0.0)
