"""Worker processes that a command starts, and ends with itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

#: Seconds that a worker is given to end in order.
_GRACE = 15.0
#: Lines of a log that an error shows.
_SHOWN = 12
_PROGRAM = (sys.executable, "-c", "from streamtask.cli import main; main()")


class Workers:
    """`streamtask worker` for each of some apps; use it with `with`."""

    def __init__(self, broker: str, folder: Path) -> None:
        self._broker = broker
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, app: str, **environment: str) -> None:
        """Start the worker of an app, "package:attribute". `environment`: beside what there is."""
        # An exception between the start of a process and the note of it would leave it behind.
        with self._log(app).open("wb") as log, _signals_held_back():
            self._running[app] = subprocess.Popen(  # noqa: S603 - our own program
                [*_PROGRAM, "worker", "-A", app, "--broker", self._broker],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
                # Ctrl-C is for the command, which ends them in order.
                process_group=0,
            )

    def ended(self) -> str | None:
        """What is to be said of a worker that has ended by itself; None while all run."""
        for app, process in self._running.items():
            if process.poll() is not None:
                last = self._log(app).read_text(errors="replace").splitlines()[-_SHOWN:]
                return "\n".join([f"the worker of {app} has ended with {process.returncode}; its last words:", *last])
        return None

    def _log(self, app: str) -> Path:
        return self._folder / f"{app.partition(':')[0]}.log"

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them, each by its own id."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """SIGINT and SIGTERM, which raise in a command wherever it is, come when this is over. In the main thread.

    By handlers and not by a mask, which a process that is started here would have for good.
    """
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: came.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for got in came:
            signal.raise_signal(got)
