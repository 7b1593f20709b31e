"""What is wrong with one service, by what its processes report: failing ("error_rate"), slow ("latency"), "silent"."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from streamtask_contrib.monitoring.lasting import Lasting
from streamtask_contrib.monitoring.limits import Limits
from streamtask_contrib.monitoring.samples import InstanceSample
from streamtask_contrib.monitoring.usual import Usual
from streamtask_contrib.monitoring.verdicts import Finding, Verdict

#: Seconds over which failures are counted, and for which the share has to be too high.
_ERRORS_OVER, _ERRORS_LAST = 60.0, 20.0
#: How sure it has to be that the share is as high as that, in deviations of a proportion.
_SURE = 3.3
#: The share, and how many times the usual duration, that is bad.
_BAD_SHARE, _BAD = 0.5, 10
#: The smallest duration that a logarithm is taken of, in seconds; and the largest figure of a report.
_SMALLEST, _LARGEST = 1e-6, 1e15


class _Known(NamedTuple):
    """What was last reported by one process."""

    reported: str
    handled: float
    failed: float


class ServiceJudge:
    """Judges one service, look by look."""

    def __init__(self, service: str, limits: Limits) -> None:
        self._service = service
        self._limits = limits
        self._known: dict[str, _Known] = {}
        self._heard_at: float | None = None
        self._has_ended = False
        self._is_news = False
        self._runs: deque[tuple[float, float, float]] = deque()
        self._share = Usual(spread=0.01, share=0.25)
        self._fails = Lasting(_ERRORS_LAST)
        #: Of the logarithm of the 95th percentile: durations are multiples of each other.
        self._duration = Usual(spread=math.log(1.3))
        self._slow = Lasting(limits.latency_lasts)
        self._latest: tuple[float, float] | None = None

    def report(self, instances: Sequence[InstanceSample], at: float) -> None:
        """Take in what its processes say. The same report again is no news."""
        self._is_news = False
        handled = failed = 0.0
        for one in instances:
            before = self._known.get(one.instance)
            if before is not None and before.reported == one.reported:
                continue
            self._is_news = True
            now = _Known(one.reported, _figure(one, "handled_events"), _figure(one, "failed_events"))
            if before is not None:
                # Fewer than before: it has begun anew.
                handled += now.handled - before.handled if now.handled >= before.handled else now.handled
                failed += now.failed - before.failed if now.failed >= before.failed else now.failed
            self._known[one.instance] = now
        here = {one.instance for one in instances}
        self._known = {instance: known for instance, known in self._known.items() if instance in here}
        if self._is_news or self._heard_at is None:
            self._heard_at = at
            self._has_ended = all(one.has_ended for one in instances)
            self._latest = _duration([one for one in instances if not one.has_ended])
        if handled or failed:
            self._runs.append((at, handled, failed))

    def look(self, at: float, is_open: Collection[tuple[str, str]], *, reports_wait: bool) -> Iterator[Verdict]:
        """What is said of the service now: what is bad, and of what is open that it is well.

        Of what cannot be judged nothing is said.
        """
        found = [
            self._failing(at, is_open=("error_rate", self._service) in is_open),
            self._too_slow(at, is_open=("latency", self._service) in is_open),
            None if reports_wait else self._silent(at, is_open=("silent", self._service) in is_open),
        ]
        self._is_news = False
        yield from (verdict for verdict in found if verdict is not None)

    def shift(self, seconds: float) -> None:
        """Let time pass that does not count."""
        if self._heard_at is not None:
            self._heard_at += seconds
        self._fails.clear()
        self._slow.clear()
        self._runs.clear()

    # ── error rate ────────────────────────────────────────────────────────────────────────────────────────────

    def _failing(self, at: float, *, is_open: bool) -> Verdict | None:
        while self._runs and self._runs[0][0] <= at - _ERRORS_OVER:
            self._runs.popleft()
        handled = sum(handled for _, handled, _ in self._runs)
        failed = sum(failed for _, _, failed in self._runs)
        total = handled + failed
        if not self._is_news or total < self._limits.error_runs:
            return None
        share = failed / total
        bound = max(self._share.above(self._limits.deviations), self._share.median + self._limits.error_share)
        self._fails.add(at, is_so=_at_least(failed, total) > bound)
        is_known = self._share.is_known
        self._share.add(share, at, is_unusual=self._fails.has_begun)
        if not is_open and not (self._fails.lasts and is_known):
            return None
        said = f"{failed:.0f} of {total:.0f} runs failed within {_ERRORS_OVER:.0f} s ({share:.1%})"
        usual = f"usual are {self._share.median:.1%}"
        if not self._fails.lasts:
            # Between what is usual and what is surely too much nothing is said.
            return Verdict.well("error_rate", self._service, share, f"{said}; {usual}") if share <= bound else None
        finding = Finding(
            kind="error_rate",
            subject=self._service,
            severity="critical" if share >= _BAD_SHARE else "warning",
            observed=share,
            expected=self._share.median,
            score=self._share.score(share),
            evidence=f"{said}; {usual}",
        )
        return Verdict(finding, is_bad=True)

    # ── latency ───────────────────────────────────────────────────────────────────────────────────────────────

    def _too_slow(self, at: float, *, is_open: bool) -> Verdict | None:
        if not self._is_news or self._latest is None or self._latest[1] < self._limits.runs:
            return None
        seconds = self._latest[0]
        value = math.log(max(seconds, _SMALLEST))
        usual = math.exp(self._duration.median)
        is_slow = (
            seconds >= self._limits.latency
            and self._duration.score(value) >= self._limits.deviations
            and seconds >= self._limits.latency_ratio * usual
        )
        self._slow.add(at, is_so=is_slow)
        is_known = self._duration.is_known
        self._duration.add(value, at, is_unusual=is_open or self._slow.has_begun)
        if not is_open and not (self._slow.lasts and is_known):
            return None
        said = f"95 % of the handlers' runs take up to {_told(seconds)}; usual are {_told(usual)}"
        if not (self._slow.lasts or (is_open and is_slow)):
            return Verdict.well("latency", self._service, seconds, said)
        finding = Finding(
            kind="latency",
            subject=self._service,
            severity="critical" if seconds >= _BAD * usual else "warning",
            observed=seconds,
            expected=usual,
            score=self._duration.score(value),
            evidence=f"{said} (over {self._latest[1]:.0f} runs)",
        )
        return Verdict(finding, is_bad=True)

    # ── silent ────────────────────────────────────────────────────────────────────────────────────────────────

    def _silent(self, at: float, *, is_open: bool) -> Verdict | None:
        if self._heard_at is None:
            return None
        quiet = at - self._heard_at
        if self._has_ended or quiet < self._limits.silent:
            said = "it has ended in order" if self._has_ended else "it reports"
            return Verdict.well("silent", self._service, quiet, said) if is_open else None
        finding = Finding(
            kind="silent",
            subject=self._service,
            severity="critical",
            observed=quiet,
            expected=self._limits.silent,
            score=quiet / self._limits.silent,
            evidence=(
                f"none of the {len(self._known)} processes known of {self._service} has reported for {quiet:.0f} s, "
                "and not all have said that they end"
            ),
        )
        return Verdict(finding, is_bad=True)

    # ── kept elsewhere ────────────────────────────────────────────────────────────────────────────────────────

    def dump_moment(self) -> dict[str, Any]:
        """How it stands now."""
        return {
            "heard_at": self._heard_at,
            "has_ended": self._has_ended,
            "known": {instance: list(known) for instance, known in self._known.items()},
        }

    def load_moment(self, written: Mapping[str, Any]) -> None:
        """Go on from there. Raises ValueError, TypeError or KeyError where it is nothing of that."""
        self._heard_at = None if written["heard_at"] is None else float(written["heard_at"])
        self._has_ended = bool(written["has_ended"])
        self._known = {
            str(instance): _Known(str(reported), float(handled), float(failed))
            for instance, (reported, handled, failed) in written["known"].items()
        }

    def dump_usual(self) -> dict[str, Any]:
        """What was learned."""
        return {"share": self._share.dump(), "duration": self._duration.dump()}

    def load_usual(self, written: Mapping[str, Any]) -> None:
        """Take over what was learned. Raises ValueError, TypeError or KeyError where it is nothing of that."""
        self._share.load(written["share"])
        self._duration.load(written["duration"])


def _figure(one: InstanceSample, name: str) -> float:
    """A figure as it is reckoned with: reports are foreign input."""
    value = one.figures.get(name, 0.0)
    return min(max(value, -_LARGEST), _LARGEST) if math.isfinite(value) else 0.0


def _duration(instances: Sequence[InstanceSample]) -> tuple[float, float] | None:
    """The 95th percentile of all processes together, about, and of how many runs; None where nothing ran."""
    weighed = [
        (math.log(max(_figure(one, "handler_p95_seconds"), _SMALLEST)), max(_figure(one, "recent_runs"), 0.0))
        for one in instances
        if "handler_p95_seconds" in one.figures
    ]
    runs = sum(weight for _, weight in weighed)
    if not runs:
        return None
    return math.exp(sum(value * (weight / runs) for value, weight in weighed)), runs


def _at_least(failed: float, total: float) -> float:
    """The share that surely fails, seen so many fail (the lower end of Wilson's interval)."""
    share, square = failed / total, _SURE**2
    middle = share + square / (2 * total)
    spread = _SURE * math.sqrt(max(0.0, share * (1 - share) / total + square / (4 * total**2)))
    return (middle - spread) / (1 + square / total)


def _told(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
