"""The command line under test: in this process for the many small questions, as a program of its own for the others."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from streamtask.cli.main import streamtask

#: Seconds that a command may take.
_PATIENCE = 30.0
_PROGRAM = [sys.executable, "-m", "streamtask"]


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on its standard output."""
        assert self.code == 0, self.err
        return json.loads(self.out)


async def ask(url: str, *arguments: str, typed: str = "") -> Said:
    """Run a command in this process, in a thread, as it has a loop of its own."""

    def invoke() -> Said:
        environment = {"STREAMTASK_BROKER": url, "STREAMTASK_APP": None}
        result = CliRunner().invoke(streamtask, arguments, input=typed, env=environment, prog_name="streamtask")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return await asyncio.to_thread(invoke)


def run(*arguments: str, folder: Path, typed: bytes = b"", **variables: str) -> Said:
    """Run the program in a folder; `variables` are added to its environment."""
    done = subprocess.run(
        [*_PROGRAM, *arguments], cwd=folder, env=_environment(variables), input=typed, capture_output=True,
        timeout=_PATIENCE, check=False,
    )  # fmt: skip
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def started(*arguments: str, folder: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """The program as it runs, to be interrupted."""
    process = subprocess.Popen(
        [*_PROGRAM, *arguments], cwd=folder, env=_environment(variables), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run_on_terminal(*arguments: str, folder: Path, typed: bytes = b"", **variables: str) -> Said:
    """Run the program with a terminal for all of its input and output; what was said on it is `out`."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*_PROGRAM, *arguments], cwd=folder, env=_environment(variables | {"TERM": "xterm", "COLUMNS": "100"}),
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, typed)
    try:
        said = _everything(ours)
        return Said(process.wait(_PATIENCE), said.decode(), "")
    finally:
        os.close(ours)
        process.kill()
        process.wait()


def _everything(terminal: int) -> bytes:
    said, deadline = b"", time.monotonic() + _PATIENCE
    while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            said += os.read(terminal, 1 << 16)
        except OSError:  # nobody is at the other end any more
            return said
    raise AssertionError(f"the command did not end: {said!r}")


def _environment(variables: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMTASK_")}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"} | variables
