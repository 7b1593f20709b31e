"""Which processes are there that a driver has started: what a test may not leave behind."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil


def alive_in(folder: Path) -> list[str]:
    """Those that were given this folder, or anything below it."""
    return [_said(each) for each in _alive() if any(str(folder) in part for part in _cmdline(each))]


def alive_of_group(group: int) -> list[str]:
    """Those of a process group."""
    found = []
    for process in _alive():
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group:
                found.append(_said(process))
    return found


def _alive() -> list[psutil.Process]:
    # A zombie that nobody collects has ended all the same.
    return [each for each in psutil.process_iter(["status"]) if each.info["status"] != psutil.STATUS_ZOMBIE]


def _cmdline(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def _said(process: psutil.Process) -> str:
    return f"{process.pid} {' '.join(_cmdline(process))[:2000]}"
