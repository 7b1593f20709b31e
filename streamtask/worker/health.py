"""Health: what succeeded lately in a worker, and two verdicts on it. Changes nothing and talks to nobody.

*Live* is about this process only: a Redis outage must not get a worker restarted, because that would kill the handlers
that survive it. *Ready* is about reading: it turns red when reads stop although the connection looks well.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

#: A verdict and what it rests on.
Finding = tuple[bool, Mapping[str, object]]


class _Reading:
    """One group: when it was last known to read, or not to need to."""

    __slots__ = ("paused", "seen", "started")

    def __init__(self, now: float) -> None:
        self.seen = now
        self.started = False
        self.paused = False


class Health:
    """What succeeded lately in one worker. Fed from the event loop and the keeper's thread, asked from the probes'.

    Every `now` is the caller's monotonic time in seconds. `deaf_after`: seconds without a completed read (an empty one
    counts) or without a beat until the worker is not ready. `stuck_after`: seconds in which neither the loop nor the
    keeper's thread turned until the worker is not live.
    """

    def __init__(self, now: float, *, deaf_after: float = 10.0, stuck_after: float = 30.0) -> None:
        self._lock = Lock()
        self._deaf_after = deaf_after
        self._stuck_after = stuck_after
        self._groups: dict[str, _Reading] = {}
        self._beat = self._loop = self._keeper = now
        self._stopping = False

    def expect(self, group: str, now: float) -> None:
        """The worker is going to read this group: it is not ready before a first read has completed."""
        with self._lock:
            self._groups.setdefault(group, _Reading(now))

    def read_ok(self, group: str, now: float) -> None:
        """A read of the group completed, with entries or without."""
        with self._lock:
            reading = self._groups.setdefault(group, _Reading(now))
            reading.seen = now
            reading.started = True

    def paused(self, group: str, now: float, *, paused: bool) -> None:
        """The group is not read on purpose (no free slot, a rate limit), or is read again from now on."""
        with self._lock:
            reading = self._groups.setdefault(group, _Reading(now))
            if reading.paused and not paused:
                reading.seen = now
            reading.paused = paused

    def beat_ok(self, now: float) -> None:
        """The server took this worker's heartbeat."""
        with self._lock:
            self._beat = self._keeper = now

    def keeper_turned(self, now: float) -> None:
        """The keeper's thread went round, whether or not the server answered it."""
        with self._lock:
            self._keeper = now

    def loop_turned(self, now: float) -> None:
        """The event loop ran a duty of the worker."""
        with self._lock:
            self._loop = now

    def stopping(self) -> None:
        """The worker drains: it is not ready any more, and stays live."""
        with self._lock:
            self._stopping = True

    def live(self, now: float) -> Finding:
        """Whether this process gets anywhere at all. A blocked loop is a handler's doing, not a reason to kill it."""
        with self._lock:
            loop, keeper = now - self._loop, now - self._keeper
        return min(loop, keeper) <= self._stuck_after, {"loop_turned_s": _seconds(loop), "keeper_s": _seconds(keeper)}

    def ready(self, now: float) -> Finding:
        """Whether this worker takes events; `reasons` says why not."""
        with self._lock:
            reasons = ["stopping"] if self._stopping else []
            if now - self._beat > self._deaf_after:
                reasons.append(f"no heartbeat for {now - self._beat:.1f} s")
            if not self._groups:
                reasons.append("starting: no group is read yet")
            groups = {}
            for group, reading in self._groups.items():
                silent = now - reading.seen
                groups[group] = {"paused": reading.paused, "last_read_s": _seconds(silent) if reading.started else None}
                if reading.paused:
                    continue
                if silent > self._deaf_after:
                    reasons.append(f"group {group}: no read completed for {silent:.1f} s")
                elif not reading.started:
                    reasons.append(f"group {group}: starting, no read has completed yet")
            beat = _seconds(now - self._beat)
        return not reasons, {"reasons": reasons, "last_beat_s": beat, "groups": groups}


def _seconds(value: float) -> float:
    return round(max(0.0, value), 3)
