"""What the command line asks of a supervisor, and the pauses that are the same for all that it does again."""

from __future__ import annotations

#: The first and the longest pause before a child that was never ready is started again, or a hand-back tried again.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


class Settings:
    """What the command line asks for.

    `shutdown_timeout`: seconds that a child takes to drain, at most, by itself. `slots`: entries that one child may
    have started at a time. `reload`: files and folders whose change starts the children anew; None: nothing is watched.
    `max_memory`: MiB of a child beyond which it is replaced; None: it may have whatever it takes. `weigh_from`: seconds
    that a child works before it is replaced for that, so that a limit too low does not come to nothing but starts.
    """

    def __init__(
        self,
        *,
        child: list[str],
        processes: int = 1,
        shutdown_timeout: float = 30.0,
        slots: int = 1,
        reload: list[str] | None = None,
        log_format: str = "text",
        max_memory: int | None = None,
        weigh_from: float = 5.0,
        hand_back: str = "streamtask.worker.handback:hand_back",
    ) -> None:
        self.child = child
        self.processes = processes
        self.shutdown_timeout = shutdown_timeout
        self.slots = slots
        self.reload = reload
        self.log_format = log_format
        self.max_memory = max_memory
        self.weigh_from = weigh_from
        self.hand_back = hand_back
