"""Sandboxes: child processes that can be killed, for `pool="process"` handlers and for suspects.

A child serves one request at a time, stays warm between requests and is replaced when it dies. Children are started by
exec, never by a fork that goes on: a fork copies locks and GPU contexts that only break later. Nor by one that exec
follows soon, as uvloop has it: what runs before a fork (`pthread_atfork`) waits in OpenBLAS for a multiplication of
another thread that waits for it, and this process stands still for ever. Python's own way is vfork, which runs none of
that. Each child leads a session of its own, so that a kill takes what the handler started along with it. Requests and
replies are bytes; nothing is pickled, and nothing is retried here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, Self

from streamtask.errors import ConfigurationError, HandlerTimeoutError, StreamtaskError, WorkerLostError
from streamtask.worker.memory import resident_mib
from streamtask.worker.sandbox_child import ASIDE, ERROR, HEADER, REQUEST, SETUP

log = logging.getLogger(__name__)

#: Run by -c, so that the path of this process comes before the first import of ours; -P keeps the current folder out.
_BOOTSTRAP: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from streamtask.worker.sandbox_child import main; main(*map(int, sys.argv[1:]))"
)
#: Seconds that a child which has been told to end by itself may take.
_FAREWELL: Final = 5.0
#: Seconds for the last bytes of a child that has died.
_LAST_WORDS: Final = 1.0
#: Standard output of a child: the standard error of this process, since output may be somebody's data.
_STANDARD_ERROR: Final = 2

#: Takes what an entry says while it works; what it returns is the answer, None where it only told.
Aside = Callable[[bytes], Awaitable[bytes | None]]


class Sandbox:
    """At most `size` children that run `entry`, a function named "module:function" that takes and returns bytes.

    Once a child, before the first request, `attach(parent)` and `prepare(arguments)` of the entry's module are called,
    and once it is told to end `finish()`, as far as there are such functions.
    Belongs to one event loop, whose thread has to live as long as the children do (the parent-death signal is bound to
    it). `start_timeout`: seconds that an import and `prepare` may take. `max_memory`: MiB; a child that has more
    when it has answered is sent no other request.
    """

    def __init__(
        self,
        entry: str,
        *,
        size: int,
        arguments: Mapping[str, str] | None = None,
        start_timeout: float = 600.0,
        max_memory: int | None = None,
    ) -> None:
        if not all(entry.partition(":")):
            raise ConfigurationError(f'an entry is named "module:function", got {entry!r}')
        if size < 1:
            raise ConfigurationError(f"a sandbox has at least 1 child, got {size}")
        self._entry = entry
        self._arguments = dict(arguments or {})
        self._start_timeout = start_timeout
        self._max_memory = max_memory
        self._size = size
        self._free = asyncio.Semaphore(size)
        self._idle: list[_Child] = []
        self._running: set[_Child] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the children that are idle or running."""
        return frozenset(child.pid for child in (*self._idle, *self._running))

    async def warm(self) -> None:
        """Start a child now: raises `ConfigurationError` where that is impossible, before any event depends on it."""
        async with self._free:
            self._idle.append(await self._take())

    async def run(
        self,
        request: bytes,
        *,
        soft: float | None = None,
        hard: float | None = None,
        certain: bool = False,
        aside: Aside | None = None,
    ) -> bytes:
        """Have a child answer the request; waits for a free one first.

        `soft`: seconds after which `SoftTimeoutError` is raised inside the entry. `hard`: seconds after which the child
        and all that it started are killed and `HandlerTimeoutError` is raised. `certain`: `WorkerLostError` is certain
        to be this request's doing: where a child dies that has answered others before, the request is sent once more,
        to a new one. `aside`: takes what the entry says to its parent meanwhile. Cancelling kills the child.

        Raises `WorkerLostError` where the child died, `ConfigurationError` where it could not start, and
        `StreamtaskError` with the traceback where the entry raised.
        """
        if self._closed:
            raise StreamtaskError("the sandbox is closed")
        async with self._free:
            child = await self._take()
            used = child.used
            try:
                kind, reply = await self._ask(child, request, soft, hard, aside)
            except WorkerLostError:
                if not (used and certain):
                    raise
                kind, reply = await self._ask(await self._start(), request, soft, hard, aside)
        if kind == ERROR:
            raise StreamtaskError(f"the entry of the child process raised: {reply.decode('utf-8', 'replace')}")
        return reply

    async def _ask(
        self, child: _Child, request: bytes, soft: float | None, hard: float | None, aside: Aside | None
    ) -> tuple[bytes, bytes]:
        self._running.add(child)
        try:
            async with asyncio.timeout(hard):
                return await child.ask(request, soft, aside)
        except TimeoutError:
            child.kill()
            raise HandlerTimeoutError(hard or 0.0) from None
        except BaseException:
            child.kill()
            raise
        finally:
            self._running.discard(child)
            if child.alive and not self._closed and not self._has_grown(child):
                self._idle.append(child)
            else:
                self._end(child)

    def _has_grown(self, child: _Child) -> bool:
        """Whether a child has come to need more memory than it may have."""
        if self._max_memory is None or (memory := resident_mib(child.pid)) <= self._max_memory:
            return False
        log.warning("sandbox.recycled", extra=self._size_of(child, memory))
        return True

    def _check_room(self, child: _Child) -> None:
        """See whether a new child fits into the memory that it may have."""
        if self._max_memory is None or (memory := resident_mib(child.pid)) <= self._max_memory:
            return
        # Its successors would need as much: each event would pay for a start, and nothing would get smaller.
        log.warning("sandbox.needs_more_memory", extra=self._size_of(child, memory))
        self._max_memory = None

    def _size_of(self, child: _Child, memory: float) -> dict[str, object]:
        return {"child_pid": child.pid, "memory_mib": round(memory), "limit_mib": self._max_memory}

    async def close(self, *, grace: float) -> None:
        """Let what runs end within `grace` seconds, then kill it (its `run` raises `WorkerLostError`)."""
        self._closed = True
        while self._idle:
            self._end(self._idle.pop())
        taken = 0
        # Whoever holds all the places knows that nothing runs; those who wait for one are turned away on the way.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while taken < self._size:
                    await self._free.acquire()
                    taken += 1
        for child in self._running:
            child.kill()
        while taken < self._size:
            await self._free.acquire()
            taken += 1
        await asyncio.gather(*self._ending)

    async def _take(self) -> _Child:
        """A child of ours that is idle, or a new one."""
        while self._idle and not self._closed:
            child = self._idle.pop()
            if await child.is_there():
                return child
            self._end(child)
        return await self._start()

    async def _start(self) -> _Child:
        """A new child, ready for a request."""
        if self._closed:
            raise StreamtaskError("the sandbox is closed")
        child = await _Child.spawn()
        try:
            async with asyncio.timeout(self._start_timeout):
                await child.set_up(self._entry, self._arguments)
        except BaseException as error:
            child.kill()
            self._end(child)
            if isinstance(error, TimeoutError):
                raise ConfigurationError(f"{self._entry} took longer than {self._start_timeout:g} s to start") from None
            raise
        self._check_room(child)
        return child

    def _end(self, child: _Child) -> None:
        task = asyncio.get_running_loop().create_task(child.end(), name=f"end-sandbox-child-{child.pid}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class _Child:
    """One child process and the two descriptors that lead to it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lifeline: int,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._lifeline = lifeline
        self._killed = False
        #: Whether it has been sent a request.
        self.used = False
        self.pid = process.pid
        self._watch = asyncio.get_running_loop().create_task(self._bury(), name=f"watch-sandbox-child-{self.pid}")

    async def is_there(self) -> bool:
        """Whether it lives, as far as the kernel knows: a request must not fail because a child died before it."""
        # Two turns of the loop: in the first it asks the kernel, and by the second it has told the reader.
        for _ in range(2):
            await asyncio.sleep(0)
        return self.alive

    @classmethod
    async def spawn(cls) -> Self:
        """Start a process; it waits to be set up."""
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        process = None
        try:
            # In the loop's own thread: the parent-death signal is bound to it. It takes as long as an exec does.
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - see above; our own interpreter and module
                _command(theirs.fileno(), read_end),
                stdin=subprocess.DEVNULL,
                stdout=_STANDARD_ERROR,
                pass_fds=(theirs.fileno(), read_end),
                start_new_session=True,
            )
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            os.close(write_end)
            if process is not None:
                _kill_group(process.pid)
                await asyncio.to_thread(process.wait)
            raise
        finally:
            theirs.close()
            os.close(read_end)
        return cls(process, reader, writer, write_end)

    @property
    def alive(self) -> bool:
        """Whether it can be sent a request."""
        return not self._killed and not self._watch.done() and not self._reader.at_eof()

    async def set_up(self, entry: str, arguments: Mapping[str, str]) -> None:
        """Have it import and prepare the entry."""
        kind, answer = await self._exchange(SETUP, 0.0, json.dumps({"entry": entry, "arguments": arguments}).encode())
        if kind == ERROR:
            raise ConfigurationError(f"{entry} cannot start in a child process: {answer.decode('utf-8', 'replace')}")

    async def ask(self, request: bytes, soft: float | None, aside: Aside | None) -> tuple[bytes, bytes]:
        """Send a request; the kind of its answer and the answer."""
        self.used = True
        # 0 stands for "none" on the wire.
        return await self._exchange(REQUEST, 0.0 if soft is None else max(soft, 1e-6), request, aside)

    def kill(self) -> None:
        """Kill it and all that it started, at once."""
        if not self._killed and not self._watch.done():
            self._killed = True
            _kill_group(self.pid)

    async def end(self) -> None:
        """Hang up, so that it ends by itself; kill it where it does not. Returns when it is gone."""
        self._writer.close()
        done, _ = await asyncio.wait({self._watch}, timeout=_FAREWELL)
        if not done:
            self.kill()
            await self._watch
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _exchange(self, kind: bytes, soft: float, body: bytes, aside: Aside | None = None) -> tuple[bytes, bytes]:
        try:
            await self._write(kind, soft, body)
            while True:
                answer_kind, _, length = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                words = await self._reader.readexactly(length)
                if answer_kind != ASIDE:
                    return answer_kind, words
                answer = None if aside is None else await aside(words)
                if answer is not None:
                    await self._write(ASIDE, 0.0, answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            await asyncio.wait({self._watch}, timeout=_LAST_WORDS)
            raise WorkerLostError(f"the child process {self.pid} {self._fate()}") from None

    async def _write(self, kind: bytes, soft: float, body: bytes) -> None:
        self._writer.writelines((HEADER.pack(kind, soft, len(body)), body))
        await self._writer.drain()

    async def _bury(self) -> None:
        """Wait for its death; then nothing that it started may live on or keep the channel open."""
        await _end_of(self._process)
        # It is not reaped yet, so that its id is nobody else's.
        _kill_group(self.pid)
        self._process.wait()
        os.close(self._lifeline)
        for _ in range(100):
            if self._reader.at_eof() or self._reader.exception() is not None:
                return
            await asyncio.sleep(_LAST_WORDS / 100)
        self._reader.feed_eof()

    def _fate(self) -> str:
        code = self._process.returncode
        if code is None:
            return "closed its channel"
        if code >= 0:
            return f"exited with code {code} before it had answered"
        return f"was killed by {_signal_name(-code)} before it had answered"


async def _end_of(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended, in a thread of its own: those of the loop are for what ends by itself."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def watch() -> None:
        # A handler that waits for all children of the process has waited for this one, too.
        with contextlib.suppress(ChildProcessError):
            if hasattr(os, "waitid"):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            else:
                process.wait()
        # Whoever does not wait any more has closed the loop.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=watch, name=f"streamtask-watches-{process.pid}", daemon=True).start()
    await ended.wait()


def _command(channel_fd: int, lifeline_fd: int) -> list[str]:
    warnings = [f"-W{option}" for option in sys.warnoptions]
    path = json.dumps([str(Path(folder).absolute()) for folder in sys.path])
    numbers = [str(number) for number in (channel_fd, lifeline_fd, os.getpid())]
    return [sys.executable, "-P", *warnings, "-c", _BOOTSTRAP, path, *numbers]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
