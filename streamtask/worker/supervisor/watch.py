"""Files that change, for `--reload`."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from streamtask.worker.supervisor.installed import installed

#: Seconds between two looks at the files, where `watchfiles` is not installed.
LOOK_EVERY = 0.5


class Watch:
    """Says when a Python file under some paths has changed: by `watchfiles` where installed, else by looking."""

    def __init__(self, paths: Iterable[str], changed: Callable[[], None]) -> None:
        self._paths = [Path(path) for path in paths]
        self._changed = changed

    def start(self) -> None:
        """Watch from now on, in a thread of its own."""
        threading.Thread(target=self._work, name="watch-files", daemon=True).start()

    def _work(self) -> None:
        try:
            watchfiles = installed("watchfiles")
        except ImportError:
            changes = self._look()
        else:
            changes = watchfiles.watch(*self._paths, watch_filter=watchfiles.PythonFilter(), raise_interrupt=False)
        for _ in changes:
            self._changed()

    def _look(self) -> Iterator[None]:
        before = self._stamps()
        while True:
            time.sleep(LOOK_EVERY)
            now = self._stamps()
            if now != before:
                before = now
                yield None

    def _stamps(self) -> dict[str, int]:
        stamps = {}
        for path in self._paths:
            for file in (path,) if path.is_file() else _python_files(path):
                with contextlib.suppress(FileNotFoundError):
                    stamps[str(file)] = file.stat().st_mtime_ns
        return stamps


def _python_files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if not name.startswith(".") and name not in ("__pycache__", "node_modules")
        ]
        yield from (Path(root, name) for name in files if name.endswith(".py"))
