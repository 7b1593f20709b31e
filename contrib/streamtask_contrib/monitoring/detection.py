"""What is unusual, and when it is over. Pure: reads no clock, does no I/O, never raises on any figures.

The `Detector` is shown a `Sample` every few seconds and answers what has changed: an anomaly has begun, or is over. At
most one is open for each kind and subject. What begins has to be wrong for long enough, what is over to be well for
long enough (`_CALM`), twice as long each time that it comes back within a while: what flaps stays open, and is told
ever more rarely. Where many of one kind begin in one look, one is told that stands for all of them, and is over when
they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from streamtask_contrib.monitoring import bots
from streamtask_contrib.monitoring.groups import GroupJudge
from streamtask_contrib.monitoring.limits import Limits
from streamtask_contrib.monitoring.samples import Sample
from streamtask_contrib.monitoring.services import ServiceJudge
from streamtask_contrib.monitoring.verdicts import Finding, Verdict

#: Seconds for which all has to be well, by kind; and what it grows to at most where an anomaly comes back again and
#: again within `_AGAIN` seconds of its end.
_CALM: Mapping[str, float] = {
    "stalled": 10.0,
    "lag": 60.0,
    "error_rate": 60.0,
    "latency": 60.0,
    "silent": 0.0,
    "bot": 10.0,
}
_CALM_ELSE, _LONGEST_CALM, _AGAIN = 60.0, 1800.0, 900.0
#: Seconds after which something that is not there any more is forgotten, and its anomalies with it.
_GONE, _SERVICE_GONE = 60.0, 86_400.0
#: Looks that may be left out before the time in between does not count.
_MISSED = 3.0

#: Subjects that a summary names.
_NAMED = 10

Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Opened:
    """Something is wrong. `part_of`: told as a part of the anomaly with this subject, and not by itself."""

    finding: Finding
    part_of: str = ""


@dataclass(frozen=True, slots=True)
class Closed:
    """Something is well again."""

    kind: str
    subject: str
    observed: float
    evidence: str


Change = Opened | Closed


@dataclass(slots=True)
class _Open:
    """An anomaly that is open."""

    part_of: str = ""
    #: Well since; None: it is not.
    calm_since: float | None = None
    calm: float = _CALM_ELSE


class Detector:
    """Judges sample after sample. What it has learned can be written down, and taken over by another."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._groups: dict[str, GroupJudge] = {}
        self._services: dict[str, ServiceJudge] = {}
        self._last_seen: dict[tuple[str, str], float] = {}
        self._open: dict[Name, _Open] = {}
        #: When it was over last, and how long all had been well by then.
        self._over: dict[Name, tuple[float, float]] = {}
        self._at: float | None = None

    @property
    def open(self) -> set[Name]:
        """Kind and subject of what is open."""
        return set(self._open)

    def adopt(self, name: Name, *, part_of: str = "") -> None:
        """Go on with an anomaly that somebody else has found."""
        self._open.setdefault(name, _Open(part_of, calm=_CALM.get(name[0], _CALM_ELSE)))

    def look(self, sample: Sample) -> list[Change]:
        """Judge what is there now: what has begun, and what is over."""
        began = self._pass_time(sample.at)
        verdicts = [
            *self._judge_groups(sample, began),
            *self._judge_services(sample),
            *(bots.judge(bot, self._limits) for bot in sample.bots),
        ]
        # A service may be called as a group is: then what is bad counts.
        by_name = {verdict.name: verdict for verdict in sorted(verdicts, key=lambda verdict: verdict.is_bad)}
        begun = [verdict.finding for name, verdict in by_name.items() if verdict.is_bad and name not in self._open]
        over = list(self._over_now(by_name, sample.at))
        return [*self._begin(begun, sample.at), *over, *self._many_over(sample.at)]

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _pass_time(self, at: float) -> float:
        """The last look, as it counts; time that nobody has watched does not."""
        last = at if self._at is None else self._at
        self._at = at
        missed = at - last - self._limits.interval
        if 0 <= at - last <= _MISSED * self._limits.interval:
            return last
        for group in self._groups.values():
            group.shift(missed)
        for service in self._services.values():
            service.shift(missed)
        for one in self._open.values():
            one.calm_since = None
        self._last_seen = {subject: seen + missed for subject, seen in self._last_seen.items()}
        self._over = {name: (over + missed, calm) for name, (over, calm) in self._over.items()}
        return at - self._limits.interval

    def _group(self, subject: str) -> GroupJudge:
        if subject not in self._groups:
            self._groups[subject] = GroupJudge(self._limits)
        return self._groups[subject]

    def _service(self, service: str) -> ServiceJudge:
        if service not in self._services:
            self._services[service] = ServiceJudge(service, self._limits)
        return self._services[service]

    # ── judging ───────────────────────────────────────────────────────────────────────────────────────────────

    def _judge_groups(self, sample: Sample, began: float) -> Iterator[Verdict]:
        for group in sample.groups:
            judge = self._group(group.subject)
            self._last_seen["group", group.subject] = sample.at
            yield from judge.look(group, sample.at, began, self._open.keys())
        yield from self._gone("group", self._groups, sample.at, _GONE)

    def _judge_services(self, sample: Sample) -> Iterator[Verdict]:
        for service, instances in sample.services.items():
            self._service(service).report(instances, sample.at)
            self._last_seen["service", service] = sample.at
        for judge in self._services.values():
            yield from judge.look(sample.at, self._open.keys(), reports_wait=sample.reports_wait)
        yield from self._gone("service", self._services, sample.at, _SERVICE_GONE)

    def _gone(self, of: str, judges: dict[str, Any], at: float, after: float) -> Iterator[Verdict]:
        """Forget what is not there any more."""
        for subject in [subject for subject in judges if at - self._last_seen.get((of, subject), at) > after]:
            del judges[subject]
            self._last_seen.pop((of, subject), None)
            for kind, about in self._open:
                if about == subject:
                    yield Verdict.well(kind, subject, 0.0, f"{subject} is not there any more")

    # ── what has begun ────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, findings: Iterable[Finding], at: float) -> Iterator[Change]:
        by_kind: dict[str, list[Finding]] = {}
        for finding in findings:
            by_kind.setdefault(finding.kind, []).append(finding)
        for kind, found in by_kind.items():
            subject = many(kind)
            if len(found) >= self._limits.many and (kind, subject) not in self._open:
                self._note((kind, subject), at)
                yield Opened(_summary(subject, found))
            part_of = subject if (kind, subject) in self._open else ""
            for finding in found:
                self._note((kind, finding.subject), at, part_of=part_of)
                yield Opened(finding, part_of)

    def _note(self, name: Name, at: float, *, part_of: str = "") -> None:
        calm = _CALM.get(name[0], _CALM_ELSE)
        before = self._over.pop(name, None)
        if before is not None and at - before[0] < _AGAIN:
            calm = min(_LONGEST_CALM, max(calm, 2 * before[1], 1.0))
        self._open[name] = _Open(part_of, calm=calm)

    # ── what is over ──────────────────────────────────────────────────────────────────────────────────────────

    def _over_now(self, verdicts: Mapping[Name, Verdict], at: float) -> Iterator[Closed]:
        for name, one in list(self._open.items()):
            verdict = verdicts.get(name)
            if verdict is None:
                verdict = self._unjudged(*name)
            if verdict is None:
                continue
            if verdict.is_bad:
                one.calm_since = None
                continue
            one.calm_since = at if one.calm_since is None else one.calm_since
            if at - one.calm_since >= one.calm:
                yield self._end(name, verdict.finding, at)

    def _unjudged(self, kind: str, subject: str) -> Verdict | None:
        """What is said of an anomaly that nobody judges: adopted, and its subject has not been seen since."""
        if subject == many(kind) or subject in self._groups or subject in self._services:
            return None
        return Verdict.well(kind, subject, 0.0, f"{subject} is not there any more")

    def _many_over(self, at: float) -> Iterator[Closed]:
        parts = {(kind, one.part_of) for (kind, _), one in self._open.items() if one.part_of}
        for kind, subject in [name for name in self._open if name[1] == many(name[0]) and name not in parts]:
            finding = Finding(kind=kind, subject=subject, evidence="all of them are well again")
            yield self._end((kind, subject), finding, at)

    def _end(self, name: Name, finding: Finding, at: float) -> Closed:
        one = self._open.pop(name)
        self._over[name] = (at, one.calm)
        self._over = {each: over for each, over in self._over.items() if at - over[0] < _AGAIN}
        return Closed(*name, observed=finding.observed, evidence=finding.evidence)

    # ── kept elsewhere ────────────────────────────────────────────────────────────────────────────────────────

    def dump_moments(self) -> dict[str, Any]:
        """How things stand now, for whoever goes on within seconds."""
        groups = {subject: judge.dump_moment() for subject, judge in self._groups.items()}
        return {
            "at": self._at,
            "groups": {subject: moment for subject, moment in groups.items() if moment is not None},
            "services": {service: judge.dump_moment() for service, judge in self._services.items()},
            "over": [[*name, over, calm] for name, (over, calm) in self._over.items()],
            "calm": [[*name, one.calm_since, one.calm] for name, one in self._open.items()],
        }

    def load_moments(self, written: Mapping[str, Any]) -> None:
        """Go on from there. Raises ValueError, TypeError or KeyError where it is nothing that was written by this."""
        self._at = None if written["at"] is None else float(written["at"])
        for subject, moment in written["groups"].items():
            self._group(subject).load_moment(moment)
            self._last_seen["group", subject] = self._at or 0.0
        for service, moment in written["services"].items():
            self._service(service).load_moment(moment)
            self._last_seen["service", service] = self._at or 0.0
        self._over = {
            (str(kind), str(subject)): (float(over), float(calm)) for kind, subject, over, calm in written["over"]
        }
        for kind, subject, since, calm in written["calm"]:
            if (one := self._open.get((kind, subject))) is not None:
                one.calm_since, one.calm = None if since is None else float(since), float(calm)

    def dump_usual(self) -> Iterator[tuple[Literal["group", "service"], str, dict[str, Any]]]:
        """What was learned, subject by subject."""
        for subject, judge in self._groups.items():
            yield "group", subject, judge.dump_usual()
        for service, each in self._services.items():
            yield "service", service, each.dump_usual()

    def load_usual(self, of: str, subject: str, written: Mapping[str, Any]) -> None:
        """Take over what was learned of a subject. Raises as `load_moments` does."""
        judge = self._group(subject) if of == "group" else self._service(subject)
        judge.load_usual(written)
        self._last_seen.setdefault((of, subject), self._at or 0.0)


def many(kind: str) -> str:
    """The subject of the anomaly that stands for many of a kind."""
    return f"many of {kind}"


def _summary(subject: str, found: list[Finding]) -> Finding:
    worst = max(found, key=lambda finding: (finding.severity == "critical", finding.score))
    named = ", ".join(finding.subject for finding in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return replace(
        worst,
        subject=subject,
        observed=float(len(found)),
        expected=0.0,
        evidence=f"{len(found)} at once: {named}{more}; such as {worst.subject}: {worst.evidence}",
    )
