"""A site for browsers, on this machine: the pages beside this file, and answers that a test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

PAGES = Path(__file__).with_name("pages")
_TYPES = {".html": "text/html; charset=utf-8", ".wav": "audio/wav", ".js": "text/javascript"}


class Site:
    """Serves while it is entered. `files`: what it has beside the pages, by path."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = files or {}
        #: Path → where it leads.
        self.redirects: dict[str, str] = {}
        #: What pages have told it, in order.
        self.told: list[tuple[str, str]] = []
        #: What was asked for, with its query.
        self.asked: list[str] = []
        self._gate = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.port: int = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        parts = urlsplit(path)
        self.asked.append(path)
        if parts.path == "/told":
            self.told += parse_qsl(parts.query, keep_blank_values=True)
            return 204, {}, b""
        if parts.path == "/never":
            self._gate.wait()
        if parts.path in self.redirects:
            return 302, {"Location": self.redirects[parts.path]}, b""
        if parts.path in self.files:
            return 200, {"Content-Type": _TYPES.get(Path(parts.path).suffix, "text/html")}, self.files[parts.path]
        page = PAGES / parts.path.lstrip("/")
        if page.suffix == ".html" and page.parent == PAGES and page.exists():
            return 200, {"Content-Type": _TYPES[".html"]}, page.read_bytes()
        return 404, {"Content-Type": "text/plain"}, b"there is no such page"

    def _handler(self) -> Callable[..., BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = site.answer(self.path)
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A browser that goes away in the middle of an answer is no matter."""
