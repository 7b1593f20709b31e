"""What is wrong with one consumer group: stalled, behind ("lag"), late ("latency"), giving up ("dead_letters")."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from streamtask_contrib.monitoring.lasting import Lasting
from streamtask_contrib.monitoring.limits import Limits
from streamtask_contrib.monitoring.samples import EntryState, GroupSample
from streamtask_contrib.monitoring.stalls import GroupTrack
from streamtask_contrib.monitoring.usual import Usual
from streamtask_contrib.monitoring.verdicts import Finding, Verdict

#: Seconds over which dead letters are counted.
_DEAD_OVER = 300.0
#: A backlog grows that is so much more than two minutes ago, and about the most since then; it shrinks at so much less.
_GROWS, _MOST, _SHRINKS = 1.1, 0.98, 0.9
#: How much longer than any before an event is in work to be late, and in how many looks the group had done something
#: before that is judged.
_LATER, _ACTIVE = 3.0, 120
#: How many times the bound is bad.
_BAD = 10

_WORDS: Mapping[EntryState, str] = {
    "running": "run",
    "lost": "belong to workers that are gone",
    "due": "are due to run again",
}


class GroupJudge:
    """Judges one group, look by look."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._track = GroupTrack()
        self._lag = Usual(spread=max(1.0, limits.lag_events / 10), share=0.1)
        self._lags: deque[tuple[float, int]] = deque()
        self._grows = Lasting(limits.lag_grows, share=0.5)
        self._dead = Usual(spread=1.0)
        self._deaths: deque[tuple[float, int]] = deque()
        self._dead_before: int | None = None

    def look(
        self, sample: GroupSample, at: float, began: float, is_open: Collection[tuple[str, str]]
    ) -> Iterator[Verdict]:
        """What is said of the group now: what is bad, and of what is open that it is well.

        Of what cannot be judged nothing is said.
        """
        self._track.look(sample, at, began)
        opened = {kind for kind in ("stalled", "lag", "latency", "dead_letters") if (kind, sample.subject) in is_open}
        stalled = self._stalled(sample, at, is_open="stalled" in opened)
        # One trouble is told once: what stands still has a backlog, and is late.
        is_stalled = stalled is not None
        found = {
            "stalled": stalled,
            "lag": self._behind(sample, at, is_open="lag" in opened),
            "latency": self._late(sample, is_open="latency" in opened),
            "dead_letters": self._giving_up(sample, at, is_open="dead_letters" in opened),
        }
        for kind, verdict in found.items():
            is_hidden = is_stalled and kind in ("lag", "latency") and kind not in opened
            if verdict is not None and not is_hidden:
                yield verdict

    def shift(self, seconds: float) -> None:
        """Let time pass that does not count."""
        self._track.shift(seconds)
        self._grows.clear()
        self._lags.clear()

    # ── stalled ───────────────────────────────────────────────────────────────────────────────────────────────

    def _stalled(self, sample: GroupSample, at: float, *, is_open: bool) -> Verdict | None:
        since = self._track.quiet_since
        quiet = 0.0 if since is None else at - since
        patience = self._track.patience(sample, self._limits)
        if quiet < patience:
            if not is_open:
                return None
            return Verdict.well("stalled", sample.subject, quiet, f"it goes on: {_work(sample)}; {_workers(sample)}")
        finding = Finding(
            kind="stalled",
            subject=sample.subject,
            severity="warning" if sample.workers and not sample.unread else "critical",
            observed=quiet,
            expected=patience,
            score=quiet / patience,
            evidence=f"{_work(sample)}, and nothing was taken or finished for {quiet:.0f} s; {_workers(sample)}",
        )
        return Verdict(finding, is_bad=True)

    # ── lag ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _behind(self, sample: GroupSample, at: float, *, is_open: bool) -> Verdict | None:
        lag = sample.lag
        if lag is None:
            return None
        while len(self._lags) > 1 and self._lags[1][0] <= at - self._limits.lag_grows:
            self._lags.popleft()
        before = self._lags[0][1] if self._lags else lag
        self._lags.append((at, lag))
        bound = max(self._limits.lag_events, self._lag.above(self._limits.deviations), 1.5 * self._lag.high)
        is_much = lag >= bound and (sample.lag_seconds or 0.0) >= self._limits.lag_age
        is_most = is_much and lag >= _MOST * max(seen for _, seen in self._lags)
        self._grows.add(at, is_so=is_most and lag > _GROWS * before)
        is_known = self._lag.is_known
        self._lag.add(float(lag), at, is_unusual=is_open or self._grows.has_begun)
        if not is_open and not (self._grows.lasts and is_known):
            return None
        is_bad = not is_open or (lag >= bound / 2 and lag >= _SHRINKS * before)
        span = at - self._lags[0][0]
        change = f"{before} → {lag} events wait within {span:.0f} s"
        if not is_bad:
            return Verdict.well("lag", sample.subject, float(lag), f"the backlog is shrinking or small: {change}")
        finding = Finding(
            kind="lag",
            subject=sample.subject,
            severity="critical" if lag >= _BAD * bound else "warning",
            observed=float(lag),
            expected=self._lag.median,
            score=self._lag.score(float(lag)),
            evidence=(
                f"the backlog grows: {change}, the oldest for {sample.lag_seconds or 0:.0f} s; usual are "
                f"{self._lag.median:.0f} (spread {self._lag.deviation:.0f}); {_workers(sample)}"
            ),
        )
        return Verdict(finding, is_bad=True)

    # ── latency ───────────────────────────────────────────────────────────────────────────────────────────────

    def _late(self, sample: GroupSample, *, is_open: bool) -> Verdict | None:
        if self._track.active_looks < _ACTIVE:
            return None
        oldest = self._track.oldest_run(sample)
        longest = self._track.longest_run
        bound = max(self._limits.late, _LATER * longest, self._limits.patience.get(sample.group, 0.0))
        if oldest <= bound:
            said = f"no event is in work for more than {bound:.0f} s"
            return Verdict.well("latency", sample.subject, oldest, said) if is_open else None
        finding = Finding(
            kind="latency",
            subject=sample.subject,
            observed=oldest,
            expected=longest,
            score=oldest / bound,
            evidence=(
                f"an event is in work for {oldest:.0f} s and does not say how far it is; the longest that was finished "
                f"lately took {longest:.0f} s"
            ),
        )
        return Verdict(finding, is_bad=True)

    # ── dead letters ──────────────────────────────────────────────────────────────────────────────────────────

    def _giving_up(self, sample: GroupSample, at: float, *, is_open: bool) -> Verdict | None:
        more = 0 if self._dead_before is None else max(0, sample.dead - self._dead_before)
        self._dead_before = sample.dead
        if more:
            self._deaths.append((at, more))
        while self._deaths and self._deaths[0][0] <= at - _DEAD_OVER:
            self._deaths.popleft()
        count = float(sum(deaths for _, deaths in self._deaths))
        bound = self._dead.above(self._limits.deviations) + self._limits.dead_letters
        is_bad = count >= bound
        is_known = self._dead.is_known
        self._dead.add(count, at, is_unusual=is_bad)
        if not is_open and not (is_bad and is_known):
            return None
        usual = f"usual are {self._dead.median:.0f} in {_DEAD_OVER / 60:.0f} minutes"
        if not is_bad:
            return Verdict.well("dead_letters", sample.subject, count, f"{count:.0f} events were given up; {usual}")
        finding = Finding(
            kind="dead_letters",
            subject=sample.subject,
            severity="critical" if count >= _BAD * bound else "warning",
            observed=count,
            expected=self._dead.median,
            score=self._dead.score(count),
            evidence=f"{count:.0f} events were given up within {_DEAD_OVER / 60:.0f} minutes; {usual}",
        )
        return Verdict(finding, is_bad=True)

    # ── kept elsewhere ────────────────────────────────────────────────────────────────────────────────────────

    def dump_moment(self) -> dict[str, Any] | None:
        """See `GroupTrack.dump_moment`."""
        return self._track.dump_moment()

    def load_moment(self, written: Mapping[str, Any]) -> None:
        """See `GroupTrack.load_moment`."""
        self._track.load_moment(written)

    def dump_usual(self) -> dict[str, Any]:
        """What was learned."""
        return {"lag": self._lag.dump(), "dead": self._dead.dump(), **self._track.dump_usual()}

    def load_usual(self, written: Mapping[str, Any]) -> None:
        """Take over what was learned. Raises ValueError, TypeError or KeyError where it is nothing of that."""
        self._track.load_usual(written)
        self._lag.load(written["lag"])
        self._dead.load(written["dead"])


def _work(sample: GroupSample) -> str:
    """What there is to do, in words."""
    parts = [f"{sample.lag if sample.lag is not None else 'some'} events wait to be taken"] if sample.unread else []
    for state, words in _WORDS.items():
        if count := sample.count(state):
            parts.append(f"{count}{'' if sample.is_whole else ' or more'} {words}")
    return ", ".join(parts) or "nothing waits"


def _workers(sample: GroupSample) -> str:
    if not sample.workers:
        return "no worker of the group lives"
    return f"{sample.workers} of its workers live" if sample.workers > 1 else "its one worker lives"
