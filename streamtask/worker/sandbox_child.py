"""The inside of a sandbox: a child process that calls one function for each request it is sent.

It reads frames from a socket of its own (standard input and output stay the handler's), calls the entry in its main
thread, one request at a time, and writes the answer. It ends when the socket does. It retries nothing and knows nothing
of events: what a request means is the entry's business, errors of handlers included.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import importlib.util
import io
import json
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from types import FrameType, ModuleType
from typing import Final

from streamtask.errors import ConfigurationError, SoftTimeoutError
from streamtask.worker.parent import die_with_parent

#: What a frame begins with: its kind, the seconds to the soft timeout (0: none), the length of what follows.
HEADER: Final = struct.Struct("<cdQ")
SETUP: Final = b"s"
READY: Final = b"r"
REQUEST: Final = b"q"
REPLY: Final = b"a"
#: What the entry asks or tells its parent before it replies, and the answer to what it has asked.
ASIDE: Final = b"c"
#: The entry raised instead of answering, or the set-up failed: the traceback, or what is wrong.
ERROR: Final = b"e"

#: The name under which a script that is the parent's `__main__` is loaded here.
MAIN_ALIAS: Final = "__mp_main__"

#: Frames of fewer bytes are copied together, so that the parent wakes up once.
_ONE_WRITE: Final = 65_536

Entry = Callable[[bytes], bytes]


def main(channel_fd: int, lifeline_fd: int, parent_pid: int) -> None:
    """Serve requests until the parent hangs up."""
    die_with_parent(parent_pid, lifeline_fd)
    # Functions, not SIG_IGN, which the programs that a handler starts would inherit. The worker decides when we end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_it_to_the_worker)
    faulthandler.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # It leads to the worker's standard error: what a handler prints is seen when it is printed.
        sys.stdout.reconfigure(line_buffering=True)
    channel = socket.socket(fileno=channel_fd)
    channel.set_inheritable(False)
    with channel, contextlib.suppress(ConnectionError, EOFError):
        parent = Parent(channel)
        entry = _set_up(channel, parent)
        if entry is not None:
            with contextlib.suppress(ConnectionError, EOFError):
                _serve(channel, entry, parent)
            _finish(entry)


def _serve(channel: socket.socket, entry: Entry, parent: Parent) -> None:
    """Answer one request after the other, until the channel ends."""
    alarm = SoftAlarm()
    while True:
        _, soft, request = _receive(channel)
        with parent.listening():
            kind, answer = _call(entry, request, alarm, soft)
        _send(channel, kind, answer)


def _finish(entry: Entry) -> None:
    """Have the entry's module put away what `prepare` has made; the parent waits some seconds for it."""
    finish = getattr(sys.modules[entry.__module__], "finish", None)
    if finish is not None:
        finish()


def load_main(path: str) -> ModuleType:
    """Load the script that is the parent's `__main__`, as `__mp_main__`: what is under `if __name__ ==` stays unrun."""
    # Its import gives this name to `__main__`, whenever it comes: let it come before us, not after.
    importlib.import_module("multiprocessing")
    loaded = sys.modules.get(MAIN_ALIAS)
    if loaded is not None and loaded is not sys.modules.get("__main__"):
        return loaded
    loader = SourceFileLoader(MAIN_ALIAS, path)
    spec = importlib.util.spec_from_loader(MAIN_ALIAS, loader)
    if spec is None:
        raise ConfigurationError(f"{path} cannot be loaded in a child process")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MAIN_ALIAS] = module
    loader.exec_module(module)
    return module


class Parent:
    """The worker, as the entry may speak to it while it works on a request; from any thread.

    Between two requests nobody listens: a thread that a handler has left behind is not heard.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._listens = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """A request is being worked on."""
        self._listens = True
        try:
            yield
        finally:
            with self._lock:
                self._listens = False

    def tell(self, words: bytes) -> None:
        """Say something that is not answered."""
        with self._lock, _undisturbed():
            if self._listens:
                _send(self._channel, ASIDE, words)

    def ask(self, words: bytes) -> bytes | None:
        """Ask something; the answer, or None where nobody listens."""
        with self._lock, _undisturbed():
            if not self._listens:
                return None
            _send(self._channel, ASIDE, words)
            return _receive(self._channel)[2]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let the alarm ring only afterwards: half a frame would spoil the channel."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # In here: what has rung already is raised by this call.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class SoftAlarm:
    """Raises `SoftTimeoutError` in the main thread when a request takes longer than its soft timeout.

    A thread sends SIGUSR1 to the main thread: SIGALRM and its timer stay free for the handler's own use.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._armed = False
        self._thread: threading.Thread | None = None
        signal.signal(signal.SIGUSR1, self._ring)

    def set(self, seconds: float) -> None:
        """Ring after so many seconds."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_time, name="streamtask-soft-timeout", daemon=True)
            self._thread.start()
        self._armed = True
        with self._changed:
            self._deadline = time.monotonic() + seconds
            self._changed.notify()

    def stop(self) -> None:
        """Do not ring any more. A signal that is on its way is ignored."""
        self._armed = False
        with self._changed:
            self._deadline = None

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise SoftTimeoutError("the handler ran past its soft timeout")

    def _keep_time(self) -> None:
        with self._changed:
            while True:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and left <= 0:
                    self._deadline = None
                    # Still under the lock: the signal belongs to the request that is running now and to no later one.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                else:
                    self._changed.wait(left)


def _set_up(channel: socket.socket, parent: Parent) -> Entry | None:
    """Import and prepare the entry as the first frame says; None where that failed (and the parent was told why)."""
    _, _, frame = _receive(channel)
    setup: dict[str, object] = json.loads(frame)
    sys.argv[:] = ["streamtask-sandbox"]
    try:
        entry = _load(str(setup["entry"]), setup["arguments"], parent)
    # Whatever stands in the way of a start is the program's, SystemExit at import included; it is told, not swallowed.
    except BaseException as error:  # noqa: BLE001
        _send(channel, ERROR, _evidence(error))
        return None
    _send(channel, READY, b"")
    return entry


def _load(name: str, arguments: object, parent: Parent) -> Entry:
    module_name, _, function_name = name.partition(":")
    module = importlib.import_module(module_name)
    entry: Entry | None = getattr(module, function_name, None)
    if entry is None:
        raise ConfigurationError(f"{module_name} has no function {function_name}")
    attach = getattr(module, "attach", None)
    if attach is not None:
        attach(parent)
    prepare = getattr(module, "prepare", None)
    if prepare is not None:
        prepare(arguments)
    return entry


def _call(entry: Entry, request: bytes, alarm: SoftAlarm, soft: float) -> tuple[bytes, bytes]:
    """The kind of the answer, and the answer."""
    answer: bytes | None = None
    try:
        try:
            if soft:
                alarm.set(soft)
            answer = entry(request)
        finally:
            alarm.stop()
        memoryview(answer)
    # The duty loop of this process: what a handler raises, SystemExit included, must not end it; the parent is told.
    except BaseException as error:  # noqa: BLE001
        if answer is None or not isinstance(error, SoftTimeoutError):
            return ERROR, _evidence(error)
    return REPLY, answer


def _evidence(error: BaseException) -> bytes:
    return "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")


def _leave_it_to_the_worker(number: int, frame: FrameType | None) -> None:
    """SIGINT and SIGTERM are the worker's to answer."""


def _send(channel: socket.socket, kind: bytes, body: bytes) -> None:
    header = HEADER.pack(kind, 0.0, len(body))
    if len(body) < _ONE_WRITE:
        channel.sendall(header + body)
    else:
        channel.sendall(header)
        channel.sendall(body)


def _receive(channel: socket.socket) -> tuple[bytes, float, bytes]:
    kind, soft, length = HEADER.unpack(_receive_exactly(channel, HEADER.size))
    return kind, soft, _receive_exactly(channel, length)


def _receive_exactly(channel: socket.socket, length: int) -> bytes:
    received = bytearray(length)
    view = memoryview(received)
    done = 0
    while done < length:
        count = channel.recv_into(view[done:])
        if count == 0:
            raise EOFError
        done += count
    return bytes(received)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
