"""What the kernel says of processes that may end while it is asked."""

import contextlib
from pathlib import Path


def lives(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the second, where it ends between the opening and the reading
        return False
    return state not in "ZX"


def children_of(pid: int | str) -> list[int]:
    """Ids of what a process ("self": this one) has started and not waited for."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in task.read_text().split()]
    return found
