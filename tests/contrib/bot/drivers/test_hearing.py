"""What the capture reports becomes what happens; when something was heard stays right, whatever the clocks do."""

from __future__ import annotations

import base64
import random

import pytest
from pydantic import ValidationError
from streamtask_contrib.bot.drivers.hearing import MOST_PARTICIPANTS, READ, Block, Hearing, Now, Timeline
from streamtask_contrib.bot.drivers.port import RATE, Heard, Joined, Left

from tests.contrib.bot.drivers.listening import measured

BLOCK = 3200
#: The wall clock when the driver was made.
EPOCH = 1_700_000_000.0


def block(number: int, rendered: float, *, who: str = "a", pcm: str = "", count: int = BLOCK) -> dict:
    """Block `number`, rendered at this second of the driver."""
    at = (EPOCH + rendered) * 1000
    return {"kind": "heard", "id": who, "frame": number * BLOCK, "count": count, "rendered": at, "pcm": pcm}


def now(since: float) -> Now:
    return Now(since=since, wall=EPOCH + since)


def placed(timeline: Timeline, number: int, rendered: float, *, told_after: float = 0.0) -> float:
    return timeline.place(Block(**block(number, rendered)), now(rendered + told_after))


# ── when ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("drift", [-200e-6, 0.0, 200e-6])
def test_a_clock_that_goes_wrong_is_followed_within_50_ms_for_four_hours(drift):
    seed = 20261125
    chance = random.Random(seed)
    timeline, worst, jumps, last = Timeline(), 0.0, 0, None
    for number in range(4 * 3600 * 5):
        true = 10 + number * 0.2 * (1 + drift)
        rendered = true + 0.2 * (1 + drift) + chance.uniform(0, 0.02)
        at = placed(timeline, number, rendered, told_after=chance.uniform(0, 0.5))
        worst = max(worst, abs(at - true))
        if last is not None and abs(at - last - 0.2) > 1e-6:
            jumps += 1
        last = at
    measured(seed=seed, drift=drift, worst_ms=round(worst * 1000, 1), jumps=jumps)
    assert worst < 0.05
    assert jumps < 150


def test_reports_that_come_late_and_all_at_once_are_where_they_belong():
    timeline = Timeline()
    for number in range(5):
        placed(timeline, number, 1 + number * 0.2)
    for number in range(5, 30):
        at = placed(timeline, number, 1 + number * 0.2, told_after=5 - (number - 5) * 0.2)
        assert at == pytest.approx(0.8 + number * 0.2, abs=0.001)


def test_a_clock_that_stood_still_is_right_from_its_first_block_on():
    timeline = Timeline()
    for number in range(20):
        placed(timeline, number, 1 + number * 0.2)
    assert placed(timeline, 20, 1 + 20 * 0.2 + 30) == pytest.approx(0.8 + 20 * 0.2 + 30, abs=0.001)
    assert placed(timeline, 21, 1 + 21 * 0.2 + 30) == pytest.approx(0.8 + 21 * 0.2 + 30, abs=0.001)


def test_a_page_that_says_it_was_later_than_now_is_not_believed():
    assert placed(Timeline(), 0, 5.0, told_after=-4.0) <= 1.0


# ── who ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def told(*reports: dict, document: str = "page"):
    return READ.validate_python({"document": document, "reports": list(reports)})


def test_people_are_told_before_their_sound_and_are_gone_with_their_document():
    hearing = Hearing()
    pcm = base64.b64encode(b"\x01\x02" * BLOCK).decode()
    first = list(
        hearing.take(
            told({"kind": "joined", "id": "a", "name": "Ada"}, block(0, 1.0, pcm=pcm), block(0, 1.0, who="stranger")),
            now(1.0),
        )
    )
    assert first == [Joined("a#1", "Ada"), Heard("a#1", 0.8, b"\x01\x02" * BLOCK)]
    assert list(hearing.take(told({"kind": "joined", "id": "a", "name": ""}, document="frame"), now(1.0))) == [
        Joined("a#2", "Participant 1")
    ]
    assert list(hearing.present()) == [Joined("a#1", "Ada"), Joined("a#2", "Participant 1")]
    assert list(hearing.forget("page")) == [Left("a#1")]
    assert list(hearing.take(told({"kind": "left", "id": "a"}, document="frame"), now(2.0))) == [Left("a#2")]
    assert list(hearing.present()) == []


def test_another_name_is_the_same_participant():
    hearing = Hearing()
    list(hearing.take(told({"kind": "joined", "id": "a", "name": ""}), now(1.0)))
    assert list(hearing.take(told({"kind": "joined", "id": "a", "name": "Ada"}), now(1.0))) == [Joined("a#1", "Ada")]


def test_silence_is_as_long_as_it_is_and_samples_are_as_many_as_are_said():
    hearing = Hearing()
    short = base64.b64encode(b"\x01\x02").decode()
    happened = list(
        hearing.take(
            told(
                {"kind": "joined", "id": "a", "name": "Ada"},
                block(0, 1.0, count=RATE // 10),
                block(1, 1.2, pcm=short, count=3),
            ),
            now(1.2),
        )
    )
    assert [each.pcm for each in happened[1:]] == [bytes(RATE // 10 * 2), b"\x01\x02\0\0\0\0"]


def test_a_page_that_makes_people_up_gets_no_more_than_a_few():
    hearing = Hearing()
    happened = [
        each
        for number in range(MOST_PARTICIPANTS * 2)
        for each in hearing.take(told({"kind": "joined", "id": str(number), "name": "x"}), now(1.0))
    ]
    assert len(happened) == MOST_PARTICIPANTS


@pytest.mark.parametrize(
    "report",
    [
        {"kind": "heard", "id": "a", "frame": 0, "count": 10**9, "rendered": 0, "pcm": ""},
        {"kind": "heard", "id": "a", "frame": 0, "count": 10, "rendered": 0, "pcm": "A" * 10**6},
        {"kind": "heard", "id": "a", "frame": "NaN", "count": 10, "rendered": 0, "pcm": ""},
        {"kind": "heard", "id": "a", "frame": 0, "count": 10, "rendered": float("nan"), "pcm": ""},
        {"kind": "heard", "id": "a", "frame": 0, "count": 10, "rendered": 0, "pcm": "no base64!"},
        {"kind": "joined", "id": "", "name": "x"},
        {"kind": "joined", "id": "a", "name": "x" * 1000},
        {"kind": "ended"},
        None,
    ],
)
def test_what_is_no_report_is_refused(report):
    with pytest.raises(ValidationError):
        told(report)
