"""What a worker and all of its child processes take of the machine. Reads /proc, so Linux only."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
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
    """Processor time that they have taken so far."""
    total = 0
    for text in _each(pids, "stat"):
        # After the name, which may hold anything: the fields from the third on. 14 and 15 are user and system.
        fields = text.rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


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
