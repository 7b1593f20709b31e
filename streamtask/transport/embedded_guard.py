"""The guard of an embedded server: starts it, waits until nobody uses it any more, stops it in order.

Run by path in a process of its own (`python -I -S embedded_guard.py DATA SOCKET SERVER`, output to the log), one for
each data folder that is in use; `embedded.py` starts it and shares its file names and locks. It imports the standard
library only, never speaks to handlers or streams, never restarts a server that died, and never signals a process that
is not its own child.

The files of a data folder, and who holds a flock on them (the kernel frees them however a process ends):

    users.lock      shared: every user. Exclusive: the guard, from the moment it decides to stop the server.
    start.lock      exclusive: the user who starts a guard.
    guard.lock      exclusive: the guard, as long as it lives. Holds its process id, and `ready` from the moment it has
                    seen the socket of its server: one that is missing after that was removed.
    server.lock     exclusive: the server, as long as it lives (an inherited descriptor). Holds its process id.
    redis.sock      a symbolic link to the server's socket, so that users with another $TMPDIR find it too.
    redis.log       what the guard and the server have to say.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from types import FrameType

try:
    import ctypes
except ImportError:  # some builds of Python lack it; the next guard then ends a server whose guard was killed
    ctypes = None  # type: ignore[assignment]  # the name must exist either way

USERS_LOCK = "users.lock"
START_LOCK = "start.lock"
READY = b"ready"
GUARD_LOCK = "guard.lock"
SERVER_LOCK = "server.lock"
SOCKET_LINK = "redis.sock"
LOG = "redis.log"

#: Seconds between two looks at the users, and for which a server without users is kept (a script may come right back).
POLL = 0.5
LINGER = 2.0
#: Seconds that an orphaned server has to leave, that ours has to make its socket, and that it has to end before it is
#: killed (what it has answered is in the file by then: SIGKILL costs nothing but the last fsync).
EVICTION = 8.0
START = 10.0
SHUTDOWN = 30.0

#: Not much to choose: only the append-only file is written, nothing is ever evicted, and only our socket listens.
OPTIONS = (
    ("port", "0"),
    ("unixsocketperm", "700"),
    ("dir", "."),
    ("daemonize", "no"),
    ("appendonly", "yes"),
    ("appendfsync", "everysec"),
    ("save", ""),
    ("maxmemory-policy", "noeviction"),
)


def ask(address: str, command: bytes, timeout: float = 1.0) -> bytes:
    """Send one command without arguments; returns the first line of the reply, or nothing if no server answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(address)
            connection.sendall(command + b"\r\n")
            return connection.recv(256).partition(b"\r\n")[0]
        except OSError:
            return b""


def try_lock(descriptor: int, kind: int) -> bool:
    """Take a flock (LOCK_SH or LOCK_EX) if that is possible at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_within(descriptor: int, kind: int, seconds: float) -> bool:
    """Take a flock within some seconds. It polls: a blocking flock has no timeout."""
    deadline = time.monotonic() + seconds
    while not try_lock(descriptor, kind):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def open_lock(path: str) -> int:
    """Open a lock file, which is made if need be. Not inherited by programs that are executed."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def is_at(path: str, descriptor: int) -> bool:
    """Whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# ── the guard's process ───────────────────────────────────────────────────────────────────────────────────────────


def main(data: str, address: str, server: str) -> int:
    """Become the guard of a data folder. The calling process ends as soon as the guard holds its lock: 0, else 1."""
    os.umask(0o077)
    os.chdir(data)
    lock = open_lock(GUARD_LOCK)
    # Users who look whether a guard lives hold this lock for microseconds.
    if not lock_within(lock, fcntl.LOCK_EX, 5.0):
        _say("another guard holds this folder")
        return 1
    if os.fork():
        os._exit(0)
    _sign(lock)
    # Both are inherited through exec. A user with SIGTERM blocked must not make a server that cannot be stopped, nor
    # one that ignores SIGCHLD a server that never learns that its rewriting of the log file has ended.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _leave)
    guard(address, server, lock)
    return 0


def guard(address: str, server: str, lock: int) -> None:
    """Start the server, watch over it, stop it. `lock` is the guard's own."""
    child = _start(address, server)
    if child is None:
        return
    users = open_lock(USERS_LOCK)
    try:
        if _await_socket(child, address):
            _sign(lock, READY)
        _watch(child, users, address)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _stop(child)
        _remove(address)


def _watch(child: int, users: int, address: str) -> None:
    """Return when the server has ended, cannot be found any more, or nobody has used it for a while.

    In the last case `users` stays locked: whoever comes now waits until this process is gone, and starts anew.
    """
    unused_since: float | None = None
    while not _has_ended(child):
        time.sleep(POLL)
        if not (is_at(USERS_LOCK, users) and os.path.exists(address)):
            _say("the data folder or the socket was removed: the server stops")
            return
        if not try_lock(users, fcntl.LOCK_EX):
            unused_since = None
            continue
        now = time.monotonic()
        if unused_since is not None and now - unused_since >= LINGER:
            return
        unused_since = now if unused_since is None else unused_since
        fcntl.flock(users, fcntl.LOCK_UN)


def _await_socket(child: int, address: str) -> bool:
    """Give the server time to make its socket; whether it did."""
    deadline = time.monotonic() + START
    while not os.path.exists(address):
        if _has_ended(child) or time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _start(address: str, server: str) -> int | None:
    lock = open_lock(SERVER_LOCK)
    if not _evict(lock, address):
        _say("a server that has lost its guard holds this folder and does not leave")
        return None
    _remove(address)  # of a server that was killed
    guard_id = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _become_server(lock, guard_id, address, server)
        finally:
            os._exit(127)
    os.close(lock)
    return child


def _evict(lock: int, address: str) -> bool:
    """Get the server's lock. Who holds it has lost its guard: it is asked to leave, by its own socket, not by a pid."""
    for _ in range(int(EVICTION / 0.5)):
        if try_lock(lock, fcntl.LOCK_EX):
            return True
        ask(address, b"SHUTDOWN", timeout=0.5)
        if lock_within(lock, fcntl.LOCK_EX, 0.5):
            return True
    return False


def _become_server(lock: int, guard_id: int, address: str, server: str) -> None:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _end_with(guard_id)
        _sign(lock)
        # Two servers on one append-only file would ruin it: the lock is the server's own, and outlives its guard.
        os.set_inheritable(lock, True)  # noqa: FBT003 - it takes no keyword
        options = [word for name, value in (*OPTIONS, ("unixsocket", address)) for word in (f"--{name}", value)]
        os.execv(server, [server, *options])  # noqa: S606 - the server that embedded.py has found and tried
    except OSError as error:
        _say(f"{server} cannot be run: {error}")


def _end_with(guard_id: int) -> None:
    """Have the kernel send SIGTERM (an orderly end) should the guard be killed. Linux only."""
    if ctypes is not None and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != guard_id:
            os._exit(0)


def _stop(child: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + SHUTDOWN
        if _has_ended(child):
            return
        os.kill(child, number)
        while time.monotonic() < deadline:
            if _has_ended(child):
                return
            time.sleep(0.01)


def _has_ended(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:  # it has been waited for already
        return True


def _sign(lock: int, mark: bytes = b"") -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n%s" % (os.getpid(), mark), 0)


def _remove(address: str) -> None:
    try:
        os.unlink(address)
    except FileNotFoundError:
        return


def _say(text: str) -> None:
    os.write(2, f"{os.getpid()}:G {time.strftime('%d %b %Y %H:%M:%S')} # {text}\n".encode("utf-8", "backslashreplace"))


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
