"""Probes: how the outside asks a worker whether it lives, whether it reads, and what it has counted.

HTTP is answered from threads of their own, so also while a handler blocks the event loop. Nothing here changes anything
or talks to a transport. Imported where a port is asked for, and by nobody else.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from socketserver import TCPServer
from threading import Event, Thread
from typing import Any

from streamtask.errors import ConfigurationError
from streamtask.telemetry.logs import masked
from streamtask.worker.health import Finding
from streamtask.worker.parent import SupervisorLink

#: Seconds for which one connection may be silent. A probe's request fits into one packet.
REQUEST_TIMEOUT = 5.0
#: Seconds between two attempts to listen on a port that is taken.
_AGAIN = 1.0
#: Connections answered at once; what comes beyond is closed unanswered, so that a flood costs no memory.
MAX_CONNECTIONS = 16

log = logging.getLogger("streamtask.worker.probes")


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
            "/metrics": lambda: _metrics_page(metrics),
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


async def serve(worker: Any, first_port: int, supervisor: SupervisorLink | None) -> None:
    """Serve /metrics, /live and /ready until cancelled: each process of a supervisor on a port of its own.

    Raises:
        ConfigurationError: the port is taken, and no predecessor can be about to leave it.
    """
    health = worker.health
    port = first_port + supervisor.place if supervisor and first_port else first_port
    while True:
        probes = Probes(
            live=lambda: health.live(time.monotonic()),
            ready=lambda: health.ready(time.monotonic()),
            metrics=worker.metrics.render,
            port=port,
        )
        try:
            probes.start()
            break
        except ConfigurationError as error:
            if supervisor is None:
                raise
            # While processes are replaced, the one that leaves has the port until it has drained.
            log.warning("probes.waiting", extra={"port": port, "error": str(error), "again_in": _AGAIN})
            await asyncio.sleep(_AGAIN)
    try:
        await asyncio.Event().wait()
    finally:
        probes.stop()


_Page = tuple[HTTPStatus, str, bytes]


def _finding_page(finding: Finding) -> _Page:
    ok, detail = finding
    body = json.dumps({"ok": ok, **{name: masked(value) for name, value in detail.items()}}) + "\n"
    return HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", body.encode()


def _metrics_page(metrics: Callable[[], bytes]) -> _Page:
    # Imported by the first who asks: it takes longer to load than the rest of this, and a worker is to start fast.
    exposition = import_module("streamtask.telemetry.exposition")
    return HTTPStatus.OK, exposition.CONTENT_TYPE, metrics()


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
