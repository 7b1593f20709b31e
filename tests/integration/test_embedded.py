"""The embedded server, with real processes: shared, started once, stopped after the last user, and nothing lost."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from streamtask.errors import ConfigurationError, TransportError
from streamtask.transport.embedded import EmbeddedServer, find_server

#: Far beyond what anything here takes; reached only when a promise is broken.
BOUND = 30.0

#: Found once: some tests leave nothing on PATH.
PS = shutil.which("ps") or "ps"

USER = """
import sys
from streamtask.transport.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
print(server.ensure(), flush=True)
sys.stdin.read()
"""

#: Before USER: signal settings that programs inherit from the one that executes them.
SIGNALS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
"""

#: Like USER, but a forked child outlives it; the parent ends without a release once the child is there.
FORKING_USER = """
import os, sys
from streamtask.transport.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
url = server.ensure()
if os.fork():
    os._exit(0)
print(server.ensure() == url, flush=True)
sys.stdin.read()
"""

#: A forked child releases; the parent goes on.
FORKING_RELEASE = """
import os, sys
from streamtask.transport.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
url = server.ensure()
child = os.fork()
if not child:
    server.release()
    os._exit(0)
os.waitpid(child, 0)
print(url, flush=True)
sys.stdin.read()
"""


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, f"not within {BOUND} s: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    state = subprocess.run([PS, "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.strip().startswith("Z")


def guard_of(folder: Path) -> int:
    return int((folder / "guard.lock").read_text().split()[0])


def server_of(folder: Path) -> int:
    return int((folder / "server.lock").read_text())


def has_ended(folder: Path) -> bool:
    return not is_alive(server_of(folder)) and not is_alive(guard_of(folder))


def run_id(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        return str(client.info("server")["run_id"])


class House:
    """Makes users of data folders, and ends them and their servers, by pid, when the test is over."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path
        self.users: list[EmbeddedServer] = []
        self.processes: list[subprocess.Popen[str]] = []

    def user(self, name: str = "data") -> EmbeddedServer:
        user = EmbeddedServer(self.root / name)
        self.users.append(user)
        return user

    def process(self, name: str = "data", code: str = USER, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(self.root / name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for user in self.users:
            user.release()
        for folder in {lock.parent for lock in self.root.rglob("guard.lock")}:
            if is_alive(guard_of(folder)):
                os.kill(guard_of(folder), signal.SIGTERM)
            until(partial(has_ended, folder), "guard and server end after SIGTERM")
        guards = subprocess.run([PS, "ax", "-o", "args="], capture_output=True, text=True, check=True).stdout
        assert str(self.root) not in guards


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    if find_server() is None:
        pytest.skip("no Redis server on this machine")
    house = House(tmp_path)
    yield house
    house.close()


def put_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Make a script the only server of this machine."""
    folder.mkdir()
    server = folder / "redis-server"
    server.write_text(f"#!/bin/sh\n{script}\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


# ── one server ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_server_keeps_everything_and_listens_on_a_private_socket_only(house: House) -> None:
    url = house.user().ensure()
    with redis.Redis.from_url(url) as client:
        settings = client.config_get("*")

    assert url.startswith("unix:///")
    assert Path(url.removeprefix("unix://")).parent.stat().st_mode & 0o077 == 0
    assert settings["port"] == "0"
    assert (settings["appendonly"], settings["appendfsync"], settings["save"]) == ("yes", "everysec", "")
    assert settings["maxmemory-policy"] == "noeviction"


def test_a_new_data_folder_is_private_and_ignored_by_git(house: House) -> None:
    folder = house.user("a/b").folder
    house.users[0].ensure()

    assert (folder / ".gitignore").read_text() == "*\n"
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_was_there_before_is_not_hidden_from_git(house: House) -> None:
    (house.root / "data").mkdir()
    house.user().ensure()

    assert not (house.root / "data" / ".gitignore").exists()


def test_the_default_folder_is_in_the_working_directory(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(house.root)

    assert EmbeddedServer().folder == house.root.resolve() / ".streamtask"
    assert EmbeddedServer("x").folder == house.root.resolve() / "x"


def test_eight_processes_that_start_at_once_share_one_server(house: House) -> None:
    processes = [house.process() for _ in range(8)]
    urls = {line(process) for process in processes}

    assert len(urls) == 1
    log = (house.root / "data" / "redis.log").read_text()
    assert log.count("ready to accept connections") == 1


def test_a_user_that_comes_later_gets_the_running_server(house: House) -> None:
    first, second = house.user(), house.user()

    assert run_id(first.ensure()) == run_id(second.ensure()) == run_id(first.ensure())


def test_threads_of_one_user_may_ask_at_once(house: House) -> None:
    user, urls = house.user(), []
    threads = [threading.Thread(target=lambda: urls.append(user.ensure())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert urls == [urls[0]] * 8


def test_users_with_different_temporary_folders_meet(house: House) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as one, tempfile.TemporaryDirectory(dir="/tmp") as other:
        first = line(house.process(XDG_RUNTIME_DIR=one))
        second = line(house.process(XDG_RUNTIME_DIR="", TMPDIR=other))
        house.close()

    assert first.startswith(f"unix://{one}/streamtask/")
    assert second == first


def test_a_second_folder_has_a_server_of_its_own(house: House) -> None:
    first, second = house.user("one"), house.user("two")
    with redis.Redis.from_url(first.ensure()) as client:
        client.set("key", "one")
    with redis.Redis.from_url(second.ensure()) as client:
        assert client.get("key") is None


def test_a_long_path_to_the_data_works(house: House) -> None:
    url = house.user("/".join(["a rather long 'name' of a folder"] * 10)).ensure()

    assert len(run_id(url)) == 40


def test_a_runtime_folder_that_is_a_link_is_not_trusted(house: House) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as planted, tempfile.TemporaryDirectory(dir="/tmp") as target:
        Path(planted, f"streamtask-{os.geteuid()}").symlink_to(target)
        url = line(house.process(XDG_RUNTIME_DIR="", TMPDIR=planted))
        house.close()

        assert url.startswith("unix://")
        assert not url.startswith(f"unix://{planted}")
        assert list(Path(target).iterdir()) == []


# ── stopping ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_server_stops_after_the_last_user_and_its_data_is_there_again(house: House) -> None:
    first, second = house.user(), house.user()
    with redis.Redis.from_url(first.ensure()) as client:
        client.xadd("stream:orders", {"envelope": "1"})
    socket = Path(second.ensure().removeprefix("unix://"))
    first.release()
    first.release()
    # The guard looks at the users twice a second: it has seen the second one alone before that leaves.
    assert run_id(second.ensure())
    second.release()
    until(lambda: has_ended(second.folder), "the server stops after the last release")

    assert not socket.exists()
    url = second.ensure()
    assert url == f"unix://{socket}", "a client that reconnects finds the next server where the last one was"
    with redis.Redis.from_url(url) as client:
        assert client.xlen("stream:orders") == 1


def test_the_server_stops_after_the_last_user_was_killed(house: House) -> None:
    process = house.process()
    with redis.Redis.from_url(line(process)) as client:
        client.set("key", "kept")
    process.kill()
    until(lambda: has_ended(house.root / "data"), "the server stops after the death of its last user")

    with redis.Redis.from_url(house.user().ensure()) as client:
        assert client.get("key") == b"kept"


def test_the_server_outlives_one_user_as_long_as_there_is_another(house: House) -> None:
    first, second = house.user(), house.user()
    before = run_id(first.ensure())
    second.ensure()
    first.release()

    deadline = time.monotonic() + 4.0  # longer than an unused server lives
    while time.monotonic() < deadline:
        assert run_id(second.ensure()) == before
        time.sleep(0.1)


def test_a_user_that_comes_while_the_server_stops_gets_a_new_one(house: House) -> None:
    first, second = house.user(), house.user()
    before = run_id(first.ensure())
    server = server_of(first.folder)
    os.kill(server, signal.SIGSTOP)
    first.release()
    until(lambda: users_are_kept_out(first.folder), "the guard decides to stop the server")
    urls: list[str] = []
    newcomer = threading.Thread(target=lambda: urls.append(second.ensure()))
    newcomer.start()
    os.kill(server, signal.SIGCONT)
    newcomer.join(BOUND)

    assert run_id(urls[0]) != before
    assert not is_alive(server)


def users_are_kept_out(folder: Path) -> bool:
    with (folder / "users.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_forked_child_that_releases_leaves_its_parent_the_server(house: House) -> None:
    parent = house.process(code=FORKING_RELEASE)
    before = run_id(line(parent))

    assert users_hold(house.root / "data")
    assert run_id(house.user().ensure()) == before


def test_a_forked_child_keeps_the_server_when_its_parent_ends(house: House) -> None:
    parent = house.process(code=FORKING_USER)

    assert line(parent) == "True"
    parent.wait(BOUND)
    assert users_hold(house.root / "data")
    parent.communicate()  # the end of its input ends the child
    until(lambda: has_ended(house.root / "data"), "the server stops after the forked child")


def users_hold(folder: Path) -> bool:
    with (folder / "users.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_ctrl_c_in_the_terminal_does_not_reach_guard_and_server(house: House) -> None:
    folder = house.user().folder
    house.users[0].ensure()

    assert os.getsid(guard_of(folder)) == os.getsid(server_of(folder)) != os.getsid(0)


def test_signals_that_a_user_blocks_or_ignores_do_not_make_a_server_that_cannot_be_stopped(house: House) -> None:
    process = house.process(code=SIGNALS + USER)
    with redis.Redis.from_url(line(process)) as client:
        client.bgrewriteaof()
        until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the server notices its child's end")
    process.kill()
    until(lambda: has_ended(house.root / "data"), "the server stops")

    assert "ready to exit" in (house.root / "data" / "redis.log").read_text()


# ── what may break ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("victim", [guard_of, server_of])
def test_after_a_kill_the_next_ensure_has_the_data_and_the_server_still_stops(
    house: House, victim: Callable[[Path], int]
) -> None:
    user = house.user()
    with redis.Redis.from_url(user.ensure()) as client:
        client.set("key", "kept")
    first = {guard_of(user.folder), server_of(user.folder)}
    os.kill(victim(user.folder), signal.SIGKILL)
    until(lambda: not is_alive(victim(user.folder)), "the victim dies")

    with redis.Redis.from_url(user.ensure()) as client:
        assert client.get("key") == b"kept"
    until(lambda: not any(map(is_alive, first)), "nothing is left of the first server")
    user.release()
    until(lambda: has_ended(user.folder), "the second server stops after the release")


def test_a_guard_that_is_terminated_stops_the_server_in_order(house: House) -> None:
    user = house.user()
    user.ensure()
    os.kill(guard_of(user.folder), signal.SIGTERM)
    until(lambda: has_ended(user.folder), "guard and server end")

    assert "ready to exit" in (user.folder / "redis.log").read_text()


def test_a_folder_that_is_deleted_in_use_is_made_again_with_a_server_of_its_own(house: House) -> None:
    user = house.user()
    with redis.Redis.from_url(user.ensure()) as client:
        client.set("key", "gone with the folder")
    old = server_of(user.folder)
    shutil.rmtree(user.folder)

    with redis.Redis.from_url(user.ensure()) as client:
        assert client.get("key") is None
        until(lambda: not is_alive(old), "the server of the deleted folder stops")
        assert client.ping()


def test_a_socket_that_was_removed_comes_back(house: House) -> None:
    user = house.user()
    Path(user.ensure().removeprefix("unix://")).unlink()

    assert run_id(user.ensure())


def test_without_any_server_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    assert find_server() is None
    with pytest.raises(
        ConfigurationError, match=r"apt-get install redis-server.*brew install redis.*STREAMTASK_BROKER"
    ):
        EmbeddedServer(tmp_path / "data").ensure()


def test_a_server_that_is_too_old_is_passed_over_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(monkeypatch, tmp_path / "bin", "echo Redis server v=6.0.16 sha=0")

    assert find_server() is None
    with pytest.raises(ConfigurationError, match=r"needs Redis 6\.2 or newer, and .*redis-server is 6\.0"):
        EmbeddedServer(tmp_path / "data").ensure()


def test_data_of_a_newer_server_is_not_opened_by_one_to_which_it_looks_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(monkeypatch, tmp_path / "bin", "echo Redis server v=6.2.14 sha=0")
    (tmp_path / "data" / "appendonlydir").mkdir(parents=True)

    assert find_server() == tmp_path / "bin" / "redis-server"
    with pytest.raises(ConfigurationError, match=r"written by Redis 7 or newer, and .*redis-server is 6\.2"):
        EmbeddedServer(tmp_path / "data").ensure()


def test_a_server_that_does_not_come_up_is_reported_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(monkeypatch, tmp_path / "bin", '[ "$1" = --version ] && echo v=7.0.15 || echo out of luck')

    with pytest.raises(TransportError, match="out of luck"):
        EmbeddedServer(tmp_path / "data").ensure()
    until(lambda: not is_alive(guard_of(tmp_path / "data")), "the guard ends")


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match="cannot be used"):
        EmbeddedServer(tmp_path / "file" / "data").ensure()
    with pytest.raises(ConfigurationError, match="cannot be used"):
        EmbeddedServer(tmp_path / "file").ensure()
