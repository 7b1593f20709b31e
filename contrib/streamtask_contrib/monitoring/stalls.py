"""Whether a group gets on with its work: what is done between two looks, and since when nothing is. No statistics.

A group is *stalled* when work waits for it and nothing is done for a while. Work: events that nobody has taken, that
are taken and run, whose worker is gone, or whose retry is due. Not work: retries that are due later, and events that
wait for a worker that knows their type. Something is done when an event that was taken is finished, given up, or taken
again, when the position moves on, and when a handler says that it has come further.

How long a while is depends on who is at work:

- No living worker, or none that runs anything: `Limits.stalled`. Nobody could be busy with something long.
- Handlers run, and more waits, or several run: as long, unless this group has been quiet for longer three times within
  days and then finished by itself: three times the third longest. So a group of long jobs whose handlers do not say how
  far they are is known after three of them, while a group that hung once is not expected to hang again.
- They have said how far they are: `Limits.stalled_in_progress` since the last time that they did.
- One runs alone and nothing waits: `Limits.stalled_alone`. It may be a job of hours; should it hang, it harms no other
  event, and with the next one that is not finished either, the rule above holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streamtask_contrib.monitoring.limits import Limits
from streamtask_contrib.monitoring.samples import GroupSample

#: Seconds by which the age of the oldest event may seem to change though it is the same one: clocks and round trips.
_TOLERANCE = 1.0
#: How much longer than ever before is too long, and how often before that has to have been.
_TIMES = 3.0
_OFTEN = 3
#: Seconds after which half of a long silence is forgotten.
_HALF_LIFE = 86_400.0


class _Seen(NamedTuple):
    mark: str
    is_running: bool
    #: Since when its handler runs.
    since: float


@dataclass(slots=True)
class GroupTrack:
    """What was seen of one group so far."""

    #: Nothing has been done since; None: there is nothing to do.
    quiet_since: float | None = None
    #: The oldest event that nobody has taken: when it was published; and the shortest backlog since something was done.
    position: float | None = None
    least_lag: int | None = None
    dead: int | None = None
    seen: dict[str, _Seen] = field(default_factory=dict)
    #: The longest times that it was quiet and then went on by itself: while one event ran alone, and otherwise.
    longest_alone: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)
    #: The longest that an event was in work and then finished.
    longest_run: float = 0.0
    #: In how many looks something had been done.
    active_looks: int = 0
    looked_at: float | None = None

    def look(self, sample: GroupSample, at: float, began: float) -> None:
        """Take in what is there now. `began`: the last look, for work that has come since."""
        self._forget(at)
        finished = self._finished(sample)
        is_active = bool(finished) or self._moved(sample, at)
        if is_active:
            self.active_looks += 1
            self._learn(finished, at)
        if not has_work(sample):
            self.quiet_since = None
        elif self.quiet_since is None:
            self.quiet_since = max(began, at - (sample.lag_seconds or 0.0)) if sample.unread else began
        elif is_active:
            self.quiet_since = at
        if is_active or self.quiet_since is None or self.position is None:
            self.position = at - sample.lag_seconds if sample.unread and sample.lag_seconds is not None else None
            self.least_lag = sample.lag
        self.dead = sample.dead
        self.seen = {
            entry.entry_id: _Seen(
                entry.mark,
                entry.state == "running",
                before.since if (before := self.seen.get(entry.entry_id)) and before.mark == entry.mark else at,
            )
            for entry in sample.entries
        }
        self.looked_at = at

    def shift(self, seconds: float) -> None:
        """Let time pass that does not count."""
        if self.quiet_since is not None:
            self.quiet_since += seconds
        if self.position is not None:
            self.position += seconds
        self.seen = {name: seen._replace(since=seen.since + seconds) for name, seen in self.seen.items()}

    def patience(self, sample: GroupSample, limits: Limits) -> float:
        """How long it may be quiet, as it is now."""
        running = sample.count("running")
        if not sample.workers or not running:
            return limits.stalled
        is_alone = running == 1 and not sample.unread and sample.is_whole and not sample.count("lost", "due")
        if is_alone:
            learned = max(limits.stalled_alone, _TIMES * _expected(self.longest_alone))
        else:
            learned = max(limits.stalled, _TIMES * _expected(self.longest))
        if any(entry.has_progress and entry.state == "running" for entry in sample.entries):
            learned = max(learned, limits.stalled_in_progress)
        return max(learned, limits.patience.get(sample.group, 0.0))

    def oldest_run(self, sample: GroupSample) -> float:
        """For how many seconds the event that is longest in work has been so, of those that do not say how far."""
        if self.looked_at is None:
            return 0.0
        silent = [entry.entry_id for entry in sample.entries if entry.state == "running" and not entry.has_progress]
        return max((self.looked_at - self.seen[name].since for name in silent if name in self.seen), default=0.0)

    # ── what was done ─────────────────────────────────────────────────────────────────────────────────────────

    def _finished(self, sample: GroupSample) -> list[_Seen]:
        """Entries that were there at the last look and are finished."""
        here = {entry.entry_id for entry in sample.entries}
        gone = [(name, seen) for name, seen in self.seen.items() if name not in here]
        if sample.is_whole or not gone:
            return [seen for _, seen in gone]
        # Only the oldest were looked at: what stands behind the last of them may just be out of sight.
        last = max(map(_order, here), default=(0, 0))
        return [seen for name, seen in gone if _order(name) < last]

    def _moved(self, sample: GroupSample, at: float) -> bool:
        if any(entry.mark != seen.mark for entry in sample.entries if (seen := self.seen.get(entry.entry_id))):
            return True
        if self.dead is not None and sample.dead > self.dead:
            return True
        if sample.lag is not None and self.least_lag is not None and sample.lag < self.least_lag:
            return True
        if self.position is None or sample.lag_seconds is None:
            return False
        if not sample.unread or at - sample.lag_seconds > self.position + _TOLERANCE:
            return True
        # More was taken. Where nothing waits that is no sign: what comes is taken also by those that finish nothing.
        return any(entry.entry_id not in self.seen for entry in sample.entries)

    def _learn(self, finished: list[_Seen], at: float) -> None:
        """What was finished by who had it all the time shows how long that may take."""
        runs = [at - seen.since for seen in finished if seen.is_running]
        if not runs or self.quiet_since is None:
            return
        quiet = min(at - self.quiet_since, max(runs))
        self.longest_run = max(self.longest_run, *runs)
        if len(self.seen) == 1 and self.position is None:
            self.longest_alone = sorted([*self.longest_alone, quiet])[-_OFTEN:]
        else:
            self.longest = sorted([*self.longest, quiet])[-_OFTEN:]

    def _forget(self, at: float) -> None:
        if self.looked_at is None or at <= self.looked_at:
            return
        left = 0.5 ** ((at - self.looked_at) / _HALF_LIFE)
        self.longest = [left * quiet for quiet in self.longest]
        self.longest_alone = [left * quiet for quiet in self.longest_alone]
        self.longest_run *= left

    # ── kept elsewhere ────────────────────────────────────────────────────────────────────────────────────────

    def dump_usual(self) -> dict[str, Any]:
        """What was learned, for `load_usual`."""
        return {
            "longest": self.longest,
            "longest_alone": self.longest_alone,
            "longest_run": self.longest_run,
            "active_looks": self.active_looks,
        }

    def load_usual(self, written: Mapping[str, Any]) -> None:
        """Take over what was learned. Raises ValueError, TypeError or KeyError where it is nothing of that."""
        self.longest = [float(quiet) for quiet in written["longest"]][-_OFTEN:]
        self.longest_alone = [float(quiet) for quiet in written["longest_alone"]][-_OFTEN:]
        self.longest_run = float(written["longest_run"])
        self.active_looks = int(written["active_looks"])

    def dump_moment(self) -> dict[str, Any] | None:
        """How it stands now, for `load_moment`; None where whoever goes on can begin anew: something was just done."""
        if self.quiet_since is None or self.looked_at is None or self.quiet_since >= self.looked_at:
            return None
        return {
            "quiet_since": self.quiet_since,
            "position": self.position,
            "least_lag": self.least_lag,
            "dead": self.dead,
            "seen": {name: list(seen) for name, seen in self.seen.items()},
        }

    def load_moment(self, written: Mapping[str, Any]) -> None:
        """Go on from there. Raises ValueError, TypeError or KeyError where it is nothing of that."""
        self.quiet_since = float(written["quiet_since"])
        self.position = None if written["position"] is None else float(written["position"])
        self.least_lag = None if written["least_lag"] is None else int(written["least_lag"])
        self.dead = None if written["dead"] is None else int(written["dead"])
        self.seen = {
            str(name): _Seen(str(mark), bool(is_running), float(since))
            for name, (mark, is_running, since) in written["seen"].items()
        }


def has_work(sample: GroupSample) -> bool:
    """Whether there is something that could be done now."""
    return sample.unread > 0 or sample.count("running", "lost", "due") > 0


def _expected(longest: list[float]) -> float:
    """How long it is known to be quiet: what has happened often enough."""
    return longest[0] if len(longest) >= _OFTEN else 0.0


def _order(entry_id: str) -> tuple[int, int]:
    """Entry ids in their order; what is none comes first."""
    ms, _, sequence = entry_id.partition("-")
    return (int(ms), int(sequence or 0)) if ms.isdecimal() and (sequence or "0").isdecimal() else (0, 0)
