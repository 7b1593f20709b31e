"""What is unusual and what is not, case by case; and what holds whatever is shown to the detector."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamtask_contrib.monitoring.detection import Change, Closed, Detector, Opened, many
from streamtask_contrib.monitoring.limits import Limits
from streamtask_contrib.monitoring.samples import BotSample, EntrySample, GroupSample, InstanceSample, Sample

LIMITS = Limits()


def group(*entries: EntrySample, name: str = "work", lag: int = 0, age: float = 0.0, **more) -> GroupSample:
    return GroupSample(
        stream="s",
        group=name,
        lag=lag,
        lag_seconds=age,
        pending=more.pop("pending", len(entries)),
        entries=entries,
        workers=more.pop("workers", 1),
        **more,
    )


def running(number: int, said: float | None = None, owner: str = "a") -> EntrySample:
    return EntrySample(f"{number}-0", "running", f"{owner} 1 {said}", has_progress=said is not None)


class Clock:
    """Shows a detector look after look, five seconds apart, and keeps what it said."""

    def __init__(self, limits: Limits = LIMITS, detector: Detector | None = None) -> None:
        self.detector = detector or Detector(limits)
        self.at = 1_000_000.0
        self.said: list[tuple[float, Change]] = []

    def show(self, *groups: GroupSample, times: int = 1, step: float = 5.0, **more) -> list[Change]:
        changes: list[Change] = []
        for _ in range(times):
            self.at += step
            changes = self.detector.look(Sample(at=self.at, groups=groups, **more))
            self.said += [(self.at, change) for change in changes]
        return changes

    def stalls(self, *groups: GroupSample, within: float) -> float | None:
        """Seconds after which this, unchanged, is told as stalled; None where it is not."""
        began = self.at
        while self.at - began < within:
            aged = [_aged(each, self.at + 5.0 - began) for each in groups]
            if any(isinstance(each, Opened) and each.finding.kind == "stalled" for each in self.show(*aged)):
                return self.at - began
        return None


def _aged(sample: GroupSample, seconds: float) -> GroupSample:
    if not sample.lag:
        return sample
    return group(*sample.entries, name=sample.group, lag=sample.lag, age=seconds, workers=sample.workers)


# ── stalled ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "standing",
    [
        group(lag=3, age=1.0, workers=0),
        group(lag=3, age=1.0, workers=2),
        group(EntrySample("1-0", "lost", "a 1 None"), workers=0),
        group(EntrySample("1-0", "due", "~parked 2 None")),
        group(running(1), lag=1, age=1.0),
        group(running(1), running(2)),
        group(*map(running, range(100)), pending=500),
    ],
    ids=["nobody lives", "nobody takes", "left behind", "due", "one runs, one waits", "two run", "many run"],
)
@pytest.mark.parametrize("was_idle", [True, False])
def test_work_that_waits_while_nothing_is_done_is_told_within_half_a_minute(
    standing: GroupSample, was_idle: bool
) -> None:
    clock = Clock()
    clock.show(group(), times=100 if was_idle else 1)
    if not was_idle:
        for number in range(1000, 1100):
            clock.show(group(running(number)))

    told = clock.stalls(standing, within=60)

    assert told is not None
    assert told <= 25


@pytest.mark.parametrize(
    ("standing", "hours"),
    [
        (group(), 2),
        (group(running(1)), 3.9),
        (group(EntrySample("1-0", "later", "~parked 2 None"), EntrySample("2-0", "later", "~waiting 1 None")), 2),
    ],
    ids=["idle", "one job alone", "retries that are due later"],
)
def test_what_is_no_stall_is_not_told(standing: GroupSample, hours: float) -> None:
    clock = Clock()
    clock.show(group())
    assert clock.stalls(standing, within=hours * 3600) is None


def test_a_job_alone_has_a_limit_too() -> None:
    clock = Clock(Limits(stalled_alone=600))
    clock.show(group())
    assert clock.stalls(group(running(1)), within=700) == pytest.approx(600, abs=10)


def test_handlers_that_say_how_far_they_are_are_no_stall_until_they_say_no_more() -> None:
    clock = Clock()
    for minute in range(60):
        clock.show(group(running(1, minute / 60), running(2, minute / 60), lag=4, age=60.0 * minute), times=12)
    assert clock.said == []
    assert clock.stalls(group(running(1, 1.0), running(2, 1.0)), within=600) == pytest.approx(300, abs=10)


def test_jobs_that_have_been_finished_three_times_after_long_are_known_to_be_long() -> None:
    clock = Clock()
    clock.show(group())
    for number in range(4):
        clock.show(group(running(2 * number), running(2 * number + 1)), times=24)
        clock.show(group(), times=6)
    told = [change.finding.kind for _, change in clock.said if isinstance(change, Opened)]
    assert told == ["stalled"] * 3


def test_what_was_ended_by_a_restart_teaches_no_patience() -> None:
    clock = Clock()
    clock.show(group())
    for number in range(6):
        clock.show(group(running(2 * number), running(2 * number + 1)), times=24)
        clock.show(group(running(2 * number, owner="b"), running(2 * number + 1, owner="b")))
        clock.show(group(), times=200)
    told = [change.finding.kind for _, change in clock.said if isinstance(change, Opened)]
    assert told == ["stalled"] * 6


def test_a_group_may_be_given_patience() -> None:
    clock = Clock(Limits(patience={"work": 120.0}))
    clock.show(group())
    assert clock.stalls(group(running(1), running(2)), within=200) == pytest.approx(120, abs=10)


def test_retries_that_run_and_fail_again_are_no_stall() -> None:
    clock = Clock()
    for attempt in range(100):
        entries = [EntrySample(f"{n}-0", "running" if attempt % 2 else "due", f"a {attempt} None") for n in range(3)]
        clock.show(group(*entries))
    assert clock.said == []


def test_time_in_which_nobody_looked_does_not_count() -> None:
    clock = Clock()
    clock.show(group())
    clock.show(group(lag=1, age=1.0, workers=0))
    clock.show(group(lag=1, age=3600.0, workers=0), step=3600)
    assert clock.said == []
    clock.show(group(lag=1, age=3600.0, workers=0), times=5)
    assert [change.finding.kind for _, change in clock.said] == ["stalled"]


def test_the_evidence_of_a_stall_is_a_sentence_with_figures() -> None:
    clock = Clock()
    clock.show(group())
    clock.stalls(group(running(1), running(2), lag=7, age=1.0), within=60)
    [(_, change)] = clock.said
    assert change.finding.evidence == (
        "7 events wait to be taken, 2 run, and nothing was taken or finished for 20 s; its one worker lives"
    )
    assert change.finding.severity == "critical"


# ── once, and once that it is over ────────────────────────────────────────────────────────────────────────────────

STANDING = group(EntrySample("1-0", "lost", "a 1 None"), workers=0)


def flap(clock: Clock, *, bad: int, well: int) -> list[str]:
    before = len(clock.said)
    clock.show(STANDING, times=bad)
    clock.show(group(), times=well)
    return ["begins" if isinstance(change, Opened) else "is over" for _, change in clock.said[before:]]


def test_each_is_told_once_and_its_end_once() -> None:
    clock = Clock()
    clock.show(group())
    assert flap(clock, bad=50, well=50) == ["begins", "is over"]


def test_what_flaps_stays_open_for_longer_and_longer() -> None:
    clock = Clock()
    clock.show(group())
    told = [flap(clock, bad=6, well=6) for _ in range(100)]
    # Two minutes of well enough for the first times; an hour and a half of it is told a few times.
    assert sum(map(len, told)) < 10
    assert flap(clock, bad=6, well=1000)[-1] == "is over"


def test_a_group_that_is_dropped_ends_what_is_open_of_it() -> None:
    clock = Clock()
    clock.show(group())
    clock.show(STANDING, times=10)
    clock.show(times=30)
    assert isinstance(clock.said[-1][1], Closed)
    assert "not there any more" in clock.said[-1][1].evidence


def test_many_at_once_are_told_as_one_and_it_is_over_with_the_last() -> None:
    names = [f"g{number}" for number in range(20)]

    def standing(bad: Sequence[str]) -> Iterable[GroupSample]:
        lost = EntrySample("1-0", "lost", "a 1 None")
        return [group(lost, name=name, workers=0) if name in bad else group(name=name) for name in names]

    clock = Clock()
    clock.show(*standing([]))
    clock.show(*standing(names), times=6)
    told = [change for _, change in clock.said if isinstance(change, Opened) and not change.part_of]
    assert [(each.finding.subject, each.finding.observed) for each in told] == [(many("stalled"), 20.0)]
    assert {each.part_of for _, each in clock.said if isinstance(each, Opened)} == {"", many("stalled")}

    clock.show(*standing(names[:1]), times=10)
    assert many("stalled") not in [change.subject for _, change in clock.said if isinstance(change, Closed)]
    clock.show(*standing([]), times=10)
    closed = [change.subject for _, change in clock.said if isinstance(change, Closed)]
    assert closed[-1] == many("stalled")
    assert sorted(closed[:-1]) == sorted(f"s/{name}" for name in names)
    assert clock.detector.open == set()


# ── statistics ────────────────────────────────────────────────────────────────────────────────────────────────────


def service(number: int, *, p95: float = 0.2, failed: float = 0.0, runs: float = 100.0, **more) -> InstanceSample:
    figures = {
        "handled_events": number * runs,
        "failed_events": failed,
        "recent_runs": runs,
        "handler_p95_seconds": p95,
    }
    return InstanceSample(instance="a", reported=str(number), figures=figures, **more)


def kinds(clock: Clock) -> list[str]:
    return [change.finding.kind if isinstance(change, Opened) else f"-{change.kind}" for _, change in clock.said]


def test_what_stays_slow_is_told_and_becomes_the_usual() -> None:
    clock = Clock()
    for number in range(1440):
        clock.show(services={"api": [service(number)]})
    assert clock.said == []
    for number in range(1440, 2400):
        clock.show(services={"api": [service(number, p95=1.0)]})
    # Half an hour later it is the usual, and over.
    assert kinds(clock) == ["latency", "-latency"]
    assert 1500 < clock.said[1][0] - clock.said[0][0] < 2400


def test_figures_below_their_floors_are_never_unusual() -> None:
    clock = Clock()
    for number in range(400):
        clock.show(group(lag=0), services={"api": [service(number, p95=0.0005)]})
    for number in range(400, 600):
        clock.show(group(lag=90, age=600.0 + number), services={"api": [service(number, p95=0.04)]}, step=5.0)
        clock.show(group(lag=0), services={"api": [service(number, p95=0.04, runs=1.0)]})
    assert clock.said == []


def test_nothing_is_judged_by_statistics_before_enough_was_seen() -> None:
    clock = Clock()
    for number in range(60):
        clock.show(services={"api": [service(number, p95=0.1 if number < 30 else 10.0, failed=50.0 * number)]})
    assert clock.said == []


def test_a_backlog_that_is_worked_off_is_none() -> None:
    clock = Clock()
    clock.show(group(lag=0), times=400)
    for lag in range(5000, 0, -20):
        clock.show(group(running(lag), lag=lag, age=120.0))
    assert clock.said == []


def test_a_service_that_has_said_that_it_ends_is_not_silent_and_one_that_has_not_is() -> None:
    clock = Clock()
    clock.show(services={"api": [service(1)], "jobs": [service(1)]})
    clock.show(services={"api": [service(2, has_ended=True)], "jobs": [service(2)]}, times=20)
    assert [(change.finding.kind, change.finding.subject) for _, change in clock.said] == [("silent", "jobs")]
    clock.show(services={"jobs": [service(3)]})
    assert kinds(clock) == ["silent", "-silent"]


def test_nobody_is_silent_while_reports_wait_to_be_read() -> None:
    clock = Clock()
    clock.show(services={"api": [service(1)]})
    clock.show(services={"api": [service(1)]}, reports_wait=True, times=50)
    assert clock.said == []


def test_a_bot_that_hears_nobody_is_told_once() -> None:
    clock = Clock()
    deaf = BotSample(bot_id="b", attempt=1, beat_age=1.0, audio_age=LIMITS.bot_audio + 1)
    clock.show(bots=[deaf], times=10)
    clock.show(bots=[BotSample(bot_id="b", attempt=2, beat_age=1.0, audio_age=1.0)], times=10)
    assert kinds(clock) == ["bot", "-bot"]


@pytest.mark.parametrize("bad_first", [True, False])
def test_of_two_verdicts_about_one_name_the_bad_one_counts(bad_first: bool) -> None:
    clock = Clock()
    both = [BotSample(bot_id="b", attempt=1, beat_age=age, audio_age=1.0) for age in (999.0, 1.0)]
    clock.show(bots=both if bad_first else both[::-1], times=10)
    assert kinds(clock) == ["bot"]


# ── another goes on ───────────────────────────────────────────────────────────────────────────────────────────────


def successor(clock: Clock) -> Detector:
    """A detector that knows what the other has written down, as JSON."""
    found = Detector(LIMITS)
    for name in clock.detector.open:
        found.adopt(name)
    for of, subject, usual in clock.detector.dump_usual():
        found.load_usual(of, subject, json.loads(json.dumps(usual)))
    found.load_moments(json.loads(json.dumps(clock.detector.dump_moments())))
    return found


@pytest.mark.parametrize("looks", range(12))
def test_a_successor_tells_what_the_other_would_have_told_at_the_same_moment(looks: int) -> None:
    clock = Clock()
    clock.show(group())
    busy = group(running(1), running(2), lag=3, age=60.0)
    clock.show(busy, times=looks)
    clock.detector = successor(clock)
    clock.show(busy, times=12 - looks)
    clock.show(group(), times=12)
    whole = Clock()
    whole.show(group())
    whole.show(busy, times=12)
    whole.show(group(), times=12)
    assert [(at, kind) for (at, _), kind in zip(clock.said, kinds(clock), strict=True)] == [
        (at, kind) for (at, _), kind in zip(whole.said, kinds(whole), strict=True)
    ]


def test_what_happened_while_nobody_looked_is_not_missed() -> None:
    clock = Clock()
    clock.show(group(running(1), running(2)), times=4)
    clock.detector = successor(clock)
    # Others are in work by now: the group goes on.
    clock.show(group(running(3), running(4)), times=3, step=8.0)
    assert clock.said == []


def test_what_was_learned_is_taken_over() -> None:
    clock = Clock()
    for number in range(400):
        clock.show(services={"api": [service(number)]})
    clock.detector = successor(clock)
    for number in range(400, 440):
        clock.show(services={"api": [service(number, p95=2.0)]})
    assert kinds(clock) == ["latency"]


# ── whatever is shown ─────────────────────────────────────────────────────────────────────────────────────────────

finite = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-(2**63), 2**63 - 1)
entries = st.builds(
    EntrySample,
    st.sampled_from(["1-0", "2-0", "2-1", "9", "", "x-y", "1-x"]),
    st.sampled_from(["running", "lost", "due", "later"]),
    st.text(max_size=2),
    st.booleans(),
)
groups = st.builds(
    GroupSample,
    stream=st.just("s"),
    group=st.sampled_from(["a", "b", "c", "d", "e", "f", "g"]),
    lag=st.none() | whole,
    lag_seconds=st.none() | finite,
    pending=whole,
    entries=st.lists(entries, max_size=4),
    dead=whole,
    workers=whole,
)
instances = st.builds(
    InstanceSample,
    instance=st.sampled_from(["1", "2"]),
    reported=st.text(max_size=1),
    has_ended=st.booleans(),
    figures=st.dictionaries(
        st.sampled_from(["handled_events", "failed_events", "recent_runs", "handler_p95_seconds"]), finite
    ),
)
ages = st.none() | finite
samples = st.builds(
    Sample,
    at=finite,
    groups=st.lists(groups, max_size=8),
    services=st.dictionaries(st.sampled_from(["a", "s/a"]), st.lists(instances, max_size=3), max_size=2),
    bots=st.lists(st.builds(BotSample, bot_id=st.just("a"), attempt=whole, beat_age=ages, audio_age=ages), max_size=1),
    reports_wait=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(samples, max_size=12), st.integers(0, 12))
def test_it_never_raises_and_tells_each_once_and_its_end_once(shown: list[Sample], handed_over: int) -> None:
    detector = Detector(Limits(stalled=1.0, many=2))
    is_open: set[tuple[str, str]] = set()
    for number, sample in enumerate(shown):
        if number == handed_over:
            written = json.dumps(detector.dump_moments())
            detector = Detector(Limits(stalled=1.0, many=2))
            for name in is_open:
                detector.adopt(name)
            detector.load_moments(json.loads(written))
        for change in detector.look(sample):
            if isinstance(change, Opened):
                name = (change.finding.kind, change.finding.subject)
                assert name not in is_open
                is_open.add(name)
            else:
                is_open.remove((change.kind, change.subject))
        assert is_open == detector.open
