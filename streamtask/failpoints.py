"""Failpoints: places where a crash leaves a different state behind, and where a test lets one happen.

    STREAMTASK_FAILPOINT=PLACE:ACTION          each time that the place is passed
    STREAMTASK_FAILPOINT=PLACE:ACTION:FILE     as often as the file has bytes, over all processes: each time takes one

Actions: `kill` (SIGKILL to this process), `stop` (SIGSTOP, until somebody sends SIGCONT), `raise` (`FailpointError`).
Nothing is armed outside of tests, and a place that is passed costs a look at `armed`. Whoever passes one writes

    if failpoints.armed:
        failpoints.reached("after_fetch")

A place that no test arms is none: `tests/chaos/test_failpoints.py` arms each of a worker.
"""

from __future__ import annotations

import fcntl
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from streamtask.errors import ConfigurationError

VARIABLE: Final = "STREAMTASK_FAILPOINT"

Place = Literal[
    "after_fetch",  # the server has handed over entries; this process does not hold them yet
    "before_handler",  # they are held and renewed; none of them is started
    "in_handler",  # passed by handlers of tests
    "after_effect",  # a handler has ended, and its outcome is nowhere but here
    "before_settle",  # a batch of outcomes has been collected
    "settle_sent",  # it is on its way to the server, or committed; no reply was read
    "after_settle",  # it is committed, and nothing here knows
    "after_claim",  # entries that were due are ours; this process does not hold them yet
    "after_renew",  # the leases are new, and nothing here knows
    "while_stopping",  # this process has drained; what it still has is not handed back
    "before_hand_back",  # the supervisor has reaped a child, and handed back nothing of it
    "outbox_published",  # events of an outbox table are stored, and their rows still stand in it
    "bridge_published",  # messages of Celery are events, and still at their source
]
Action = Literal["kill", "stop", "raise"]

_SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class FailpointError(Exception):
    """A test asked for an error here. No part of the product expects it."""


@dataclass(frozen=True, slots=True)
class Failpoint:
    """What happens at which place."""

    place: str
    action: str
    #: A byte for each time that it may still happen; None: always.
    left: Path | None = None

    def reached(self, place: Place) -> None:
        """Say that a place is passed; does what was asked for, if this is the one."""
        if place != self.place or not self._is_granted():
            return
        if self.action == "raise":
            raise FailpointError(f"at the failpoint {place}")
        os.kill(os.getpid(), _SIGNALS[self.action])

    def _is_granted(self) -> bool:
        if self.left is None:
            return True
        with self.left.open("r+b") as file:
            # Several processes pass at once; the lock ends with the file.
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file.fileno()).st_size
            if size:
                file.truncate(size - 1)
        return size > 0


def parse(text: str) -> Failpoint | None:
    """Read `PLACE:ACTION[:FILE]`; None where nothing is asked for.

    Raises:
        ConfigurationError: there is no such place or action.
    """
    if not text:
        return None
    place, _, rest = text.partition(":")
    action, _, left = rest.partition(":")
    places, actions = get_args(Place), get_args(Action)
    if place not in places or action not in actions:
        raise ConfigurationError(
            f"{VARIABLE}={text!r} is no failpoint: expected PLACE:ACTION[:FILE] with a place of {', '.join(places)} "
            f"and an action of {', '.join(actions)}"
        )
    return Failpoint(place, action, Path(left) if left else None)


#: What the environment of this process asks for; None, always, outside of tests.
armed: Final = parse(os.environ.get(VARIABLE, ""))


def reached(place: Place) -> None:
    """Say that a place is passed. Called where something is armed."""
    if armed is not None:
        armed.reached(place)
