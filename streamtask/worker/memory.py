"""How much memory a process has, as the kernel tells it in /proc.

For the supervisor and for whoever runs handlers in child processes: the one place that says what `--max-memory` is
compared with. It imports the standard library only.
"""

from __future__ import annotations

import os

_MIB = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mib(pid: int) -> float:
    """MiB that a process has in memory now; 0 where there is no such process (any more), or no /proc."""
    try:
        # Its second number is resident pages; the kernel has counted them, so the reading costs microseconds.
        with open(f"/proc/{pid}/statm", "rb") as file:
            pages = int(file.read().split()[1])
    except OSError:
        return 0.0
    return pages * _PAGE / _MIB
