"""What a worker and all of its child processes take of the machine. Linux only."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in (_PROC / str(each) / "task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time that they have taken so far, to the nanosecond: /proc/PID/stat counts hundredths of a second."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            # A process' clock has its id in it; the 2 is CPUCLOCK_SCHED: see clock_getcpuclockid in glibc.
            total += time.clock_gettime((~pid << 3) | 2)
    return total


def memory_mib(pids: Iterable[int]) -> float:
    """PSS: what they share is counted once."""
    return sum(_kib(text, "Pss") for text in _each(pids, "smaps_rollup")) / 1024


def peak_mib(pids: Iterable[int]) -> float:
    """The sum of their highest RSS."""
    return sum(_kib(text, "VmHWM") for text in _each(pids, "status")) / 1024


def _each(pids: Iterable[int], name: str) -> Iterator[str]:
    for pid in pids:
        with contextlib.suppress(OSError):
            yield (_PROC / str(pid) / name).read_text()


def _kib(text: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) if found else 0


def machine() -> dict[str, str]:
    """What the numbers were taken on."""
    model = re.search(r"^model name\s*:\s*(.+)$", (_PROC / "cpuinfo").read_text(), re.MULTILINE)
    memory = _kib((_PROC / "meminfo").read_text(), "MemTotal")
    return {
        "processor": f"{os.cpu_count()} × {model.group(1).strip() if model else platform.machine()}",
        "memory": f"{memory / 1024 / 1024:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": platform.python_version(),
    }


def load() -> float:
    """How many processes wanted to run in the last minute."""
    return os.getloadavg()[0]
