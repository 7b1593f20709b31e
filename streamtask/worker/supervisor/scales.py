"""How much memory children have, for `--max-memory`."""

from __future__ import annotations

import logging

from streamtask.worker.memory import resident_mib
from streamtask.worker.supervisor.children import Child

log = logging.getLogger("streamtask.supervisor")


class Scales:
    """Finds out who has more memory than it may have, and says so."""

    def __init__(self, limit: int) -> None:
        """`limit`: MiB."""
        self._limit = limit

    def is_too_heavy_at_rest(self, child: Child) -> bool:
        """Whether it has too much memory before it has done anything: its successors would have as much."""
        if found := self._excess(child):
            log.warning("child.needs_more_memory", extra=found)
        return bool(found)

    def is_too_heavy(self, child: Child) -> bool:
        """Whether it has come to have too much."""
        if found := self._excess(child):
            log.warning("child.recycled", extra=found)
        return bool(found)

    def is_above(self, child: Child) -> bool:
        """Whether it has too much now; nothing is said of it."""
        return bool(self._excess(child))

    def _excess(self, child: Child) -> dict[str, int]:
        """What there is to say of a child that has too much; nothing of any other."""
        memory = resident_mib(child.pid)
        if memory <= self._limit:
            return {}
        return {"place": child.place, "child_pid": child.pid, "memory_mib": round(memory), "limit_mib": self._limit}
