"""Probes: how the outside asks a worker whether it lives, whether it reads, and what it has counted.

`Health` is told by the worker what succeeded and when, and gives two verdicts. *Live* is about this process only: a
Redis outage must not get a worker restarted, because that would kill the handlers that survive it. *Ready* is about
reading: it turns red when reads stop although the connection looks well. `Probes` answers HTTP from a thread of its
own, so also while a handler blocks the event loop. Nothing here changes anything or talks to a transport.
"""

from __future__ import annotations

import errno
import json
import logging
import selectors
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer
from threading import Event, Lock, Thread

from streamtask.errors import ConfigurationError
from streamtask.telemetry.logs import masked
from streamtask.telemetry.metrics import CONTENT_TYPE

#: A verdict and what it rests on.
Finding = tuple[bool, Mapping[str, object]]

#: Seconds for which one connection may be silent. A probe's request fits into one packet.
REQUEST_TIMEOUT = 5.0
#: Connections answered at once; what comes beyond is closed unanswered, so that a flood costs no memory.
MAX_CONNECTIONS = 16

log = logging.getLogger("streamtask.worker.probes")


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Reading:
    """One group: when it was last known to read, or not to need to."""

    __slots__ = ("paused", "seen", "started")

    def __init__(self, now: float) -> None:
        self.seen = now
        self.started = False
        self.paused = False


class Health:
    """What succeeded lately in one worker. Fed from the event loop and the keeper's thread, asked from the probes'.

    Every `now` is the caller's monotonic time in seconds. `deaf_after`: seconds without a completed read (an empty one
    counts) or without a beat until the worker is not ready. `stuck_after`: seconds in which neither the loop nor the
    keeper's thread turned until the worker is not live.
    """

    def __init__(self, now: float, *, deaf_after: float = 10.0, stuck_after: float = 30.0) -> None:
        self._lock = Lock()
        self._deaf_after = deaf_after
        self._stuck_after = stuck_after
        self._groups: dict[str, _Reading] = {}
        self._beat = self._loop = self._keeper = now
        self._stopping = False

    def expect(self, group: str, now: float) -> None:
        """The worker is going to read this group: it is not ready before a first read has completed."""
        with self._lock:
            self._groups.setdefault(group, _Reading(now))

    def read_ok(self, group: str, now: float) -> None:
        """A read of the group completed, with entries or without."""
        with self._lock:
            reading = self._groups.setdefault(group, _Reading(now))
            reading.seen = now
            reading.started = True

    def paused(self, group: str, now: float, *, paused: bool) -> None:
        """The group is not read on purpose (no free slot, a rate limit), or is read again from now on."""
        with self._lock:
            reading = self._groups.setdefault(group, _Reading(now))
            if reading.paused and not paused:
                reading.seen = now
            reading.paused = paused

    def beat_ok(self, now: float) -> None:
        """The server took this worker's heartbeat."""
        with self._lock:
            self._beat = self._keeper = now

    def keeper_turned(self, now: float) -> None:
        """The keeper's thread went round, whether or not the server answered it."""
        with self._lock:
            self._keeper = now

    def loop_turned(self, now: float) -> None:
        """The event loop ran a duty of the worker."""
        with self._lock:
            self._loop = now

    def stopping(self) -> None:
        """The worker drains: it is not ready any more, and stays live."""
        with self._lock:
            self._stopping = True

    def live(self, now: float) -> Finding:
        """Whether this process gets anywhere at all. A blocked loop is a handler's doing, not a reason to kill it."""
        with self._lock:
            loop, keeper = now - self._loop, now - self._keeper
        return min(loop, keeper) <= self._stuck_after, {"loop_turned_s": _seconds(loop), "keeper_s": _seconds(keeper)}

    def ready(self, now: float) -> Finding:
        """Whether this worker takes events; `reasons` says why not."""
        with self._lock:
            reasons = ["stopping"] if self._stopping else []
            if now - self._beat > self._deaf_after:
                reasons.append(f"no heartbeat for {now - self._beat:.1f} s")
            if not self._groups:
                reasons.append("starting: no group is read yet")
            groups = {}
            for group, reading in self._groups.items():
                silent = now - reading.seen
                groups[group] = {"paused": reading.paused, "last_read_s": _seconds(silent) if reading.started else None}
                if reading.paused:
                    continue
                if silent > self._deaf_after:
                    reasons.append(f"group {group}: no read completed for {silent:.1f} s")
                elif not reading.started:
                    reasons.append(f"group {group}: starting, no read has completed yet")
            beat = _seconds(now - self._beat)
        return not reasons, {"reasons": reasons, "last_beat_s": beat, "groups": groups}


def _seconds(value: float) -> float:
    return round(max(0.0, value), 3)


# ── HTTP ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Probes:
    """`/metrics`, `/live` and `/ready` over HTTP; loopback only, unless another `host` is given.

    The three callables run in this server's threads: they read what is in memory and never wait for the event loop.
    """

    def __init__(
        self,
        *,
        live: Callable[[], Finding],
        ready: Callable[[], Finding],
        metrics: Callable[[], bytes],
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.host = host
        self._asked_port = port
        self._pages: dict[str, Callable[[], _Page]] = {
            "/live": lambda: _finding_page(live()),
            "/ready": lambda: _finding_page(ready()),
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics()),
        }
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port listened on; before `start` the one asked for."""
        return self._asked_port if self._server is None else self._server.server_port

    def start(self) -> None:
        """Listen, and answer from now on. Does nothing where it runs already."""
        if self._server is not None:
            return
        try:
            self._server = _Server(self.host, self._asked_port, self._pages)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(_cannot_listen(self.host, self._asked_port, error)) from error
        log.info("probes.started", extra={"host": self.host, "port": self.port})

    def stop(self) -> None:
        """Stop listening, cut what is being answered, and end every thread. Does nothing where it does not run."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()


_Page = tuple[HTTPStatus, str, bytes]


def _finding_page(finding: Finding) -> _Page:
    ok, detail = finding
    body = json.dumps({"ok": ok, **{name: masked(value) for name, value in detail.items()}}) + "\n"
    return HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", body.encode()


def _cannot_listen(host: str, port: int, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken: another worker or program listens there; choose another metrics port"
    return f"cannot listen on {host}, port {port}, for metrics and probes: {error}"


class _Server(HTTPServer):
    """The listening socket, its thread, and a thread for each connection."""

    # The usual 5 makes a client beyond them wait for a second before it tries again: longer than a probe waits.
    request_queue_size = 64

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], _Page]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.pages = pages
        self._open: dict[socket.socket, Thread] = {}
        self._ending = Event()
        super().__init__((host, port), _Answer)
        self.socket.setblocking(False)  # noqa: FBT003 - it takes no keyword
        self._wake, self._woken = socket.socketpair()
        self._thread = Thread(target=self._accept, name="streamtask-probes", daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """Bind without asking the resolver for this host's name, which takes seconds where there is none."""
        TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = self.server_address[1]

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while selector.select() and not self._ending.is_set():
                try:
                    self._begin(*self.socket.accept())
                except OSError:
                    # Hung up before it was accepted; or no descriptors are left, and select would return at once.
                    self._ending.wait(0.1)

    def _begin(self, request: socket.socket, address: object) -> None:
        """Answer one connection in a thread of its own."""
        self._open = {request: thread for request, thread in self._open.items() if thread.is_alive()}
        if len(self._open) >= MAX_CONNECTIONS:
            self.shutdown_request(request)
            return
        thread = Thread(target=self._answer, args=(request, address), name="streamtask-probe", daemon=True)
        thread.start()
        self._open[request] = thread

    def _answer(self, request: socket.socket, address: object) -> None:
        try:
            self.finish_request(request, address)
        except OSError:
            # The client hung up, or sent nothing in time.
            log.debug("probes.client_gone")
        finally:
            self.shutdown_request(request)

    def stop(self) -> None:
        """End the accepting thread, then the answering ones."""
        self._ending.set()
        self._wake.send(b"x")
        self._thread.join()
        self.server_close()
        self._wake.close()
        self._woken.close()
        for request, thread in self._open.items():
            # A silent client must not hold up a worker's end. One that is gone has nothing to shut down.
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
            thread.join()


class _Answer(BaseHTTPRequestHandler):
    """One request: look up the page, write it."""

    server: _Server
    timeout = REQUEST_TIMEOUT
    server_version = "streamtask"
    sys_version = ""

    def do_GET(self) -> None:
        """Write a page."""
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            known = ", ".join(self.server.pages)
            self._write(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"not here; there are {known}\n".encode())
            return
        try:
            answer = page()
        except Exception:
            log.exception("probes.failed", extra={"path": self.path})
            answer = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", b"failed; the log says why\n"
        self._write(*answer)

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self._write(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", b"GET and HEAD only\n")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

    def _write(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: probes come every few seconds."""
