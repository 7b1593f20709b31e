"""Settings that users give, with their units and defaults."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds that the result of a task is kept.
RESULT_TTL = 3600.0
#: Seconds for which is remembered that a task is cancelled: longer than one waits for a worker.
CANCELLED_FOR = 7 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much history a stream keeps, never less than what some group still needs."""

    #: Seconds after which an entry that every group has finished is removed.
    max_age: float = 86_400.0
    #: Entries beyond the newest so many are removed once every group has finished them.
    max_entries: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How a worker works."""

    #: Handlers at once.
    concurrency: int = 100
    #: Only these groups; empty: all that have handlers.
    groups: tuple[str, ...] = ()
    #: Only these streams; empty: all that have handlers.
    streams: tuple[str, ...] = ()
    #: Stop when nothing is ready, pending or due for retry.
    burst: bool = False
    #: Seconds that running handlers get to end at shutdown.
    shutdown_timeout: float = 30.0
    #: Seconds without a renewal after which a living owner loses an entry.
    lease: float = 60.0
    #: MiB of memory; a process of `pool="process"` that has more is replaced between two runs. None: whatever it takes.
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency is at least 1, got {self.concurrency}")
        if self.lease <= 0:
            raise ValueError(f"lease is in seconds and above 0, got {self.lease}")
        if self.max_memory is not None and self.max_memory < 1:
            raise ValueError(f"max_memory is in MiB and at least 1, got {self.max_memory}")
