"""The moments at which rules tick: intervals, cron texts, and hours that clocks leave out or show twice."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtask import ConfigurationError
from streamtask.timetable import Timetable, cron, every, moment_of, passed, timetable


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def moments(words: str, zone: str, start: str, count: int) -> list[str]:
    """The first moments after `start`, as the clocks of the zone show them."""
    table, found = cron(words, zone), [ms(start)]
    for _ in range(count):
        found.append(table.after(found[-1]))
    return [moment_of(each).astimezone(ZoneInfo(zone)).isoformat() for each in found[1:]]


# ── intervals ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_interval_is_counted_from_1970_so_that_every_worker_has_the_same_moments() -> None:
    table = every(30)

    assert [table.after(at) for at in (0, 29_999, 30_000, 1_700_000_012_345)] == [
        30_000,
        30_000,
        60_000,
        1_700_000_040_000,
    ]
    assert every(timedelta(minutes=2)).after(1) == 120_000
    assert every(1.5).after(3000) == 4500


@pytest.mark.parametrize("interval", [0, 0.5, -1, True, "30", float("nan"), float("inf"), timedelta(0), 10**9, None])
def test_what_is_no_interval_is_refused(interval: Any) -> None:
    with pytest.raises(ConfigurationError, match="an interval is in seconds"):
        every(interval)


# ── cron texts ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cron_text_is_read_by_the_clocks_of_its_zone() -> None:
    assert moments("*/20 8 * * MON-FRI", "Europe/Berlin", "2026-01-02T08:30:00+01:00", 3) == [
        "2026-01-02T08:40:00+01:00",
        "2026-01-05T08:00:00+01:00",
        "2026-01-05T08:20:00+01:00",
    ]
    assert moments("0 9 L * *", "America/New_York", "2026-02-01T00:00:00-05:00", 2) == [
        "2026-02-28T09:00:00-05:00",
        "2026-03-31T09:00:00-04:00",
    ]
    assert moments("*/30 * * * * *", "UTC", "2026-01-01T00:00:00+00:00", 2) == [
        "2026-01-01T00:00:30+00:00",
        "2026-01-01T00:01:00+00:00",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("61 * * * *", "Bad minute"),
        ("* * * *", "five fields"),
        ("@daily", "five fields"),
        ("0 0 31 4,6 *", "Bad day-of-month"),
        ("", "five fields"),
    ],
)
def test_what_is_no_cron_text_is_refused(words: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        cron(words, "UTC")


@pytest.mark.parametrize("zone", ["Europe/Berln", "", "../passwd", "/etc/localtime", "Europe"])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(ConfigurationError, match="no time zone"):
        cron("* * * * *", zone)


# ── clock changes ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_time_of_day_that_is_left_out_comes_once_when_clocks_have_gone_forward() -> None:
    assert moments("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+01:00", 2) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert moments("30 2 * * *", "America/New_York", "2026-03-07T12:00:00-05:00", 2) == [
        "2026-03-08T03:00:00-04:00",
        "2026-03-09T02:30:00-04:00",
    ]


@pytest.mark.parametrize("words", ["*/10 2 * * *", "0,30 2,3 * * *", "0 */2 * * *"])
def test_several_times_that_are_left_out_come_as_one(words: str) -> None:
    first, second = moments(words, "Europe/Berlin", "2026-03-29T01:59:00+01:00", 2)

    assert first == "2026-03-29T03:00:00+02:00"
    assert second > "2026-03-29T03:00:00"


def test_a_time_of_day_that_clocks_show_twice_comes_the_first_time() -> None:
    assert moments("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00+02:00", 2) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]
    assert moments("30 1 * * *", "America/New_York", "2026-10-31T12:00:00-04:00", 2) == [
        "2026-11-01T01:30:00-04:00",
        "2026-11-02T01:30:00-05:00",
    ]
    assert moments("*/30 2 * * *", "Europe/Berlin", "2026-10-25T00:00:00+02:00", 3) == [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:00:00+01:00",
    ]


def test_who_begins_within_the_second_showing_does_not_go_back_to_the_first() -> None:
    assert moments("30 2 * * *", "Europe/Berlin", "2026-10-25T02:10:00+01:00", 1) == ["2026-10-26T02:30:00+01:00"]


@pytest.mark.parametrize("words", ["30 * * * *", "30 0-23 * * *", "30 */1 * * *"])
def test_a_text_for_every_hour_goes_on_through_clock_changes(words: str) -> None:
    assert moments(words, "Europe/Berlin", "2026-03-29T01:00:00+01:00", 2) == [
        "2026-03-29T01:30:00+01:00",
        "2026-03-29T03:30:00+02:00",
    ]
    assert moments(words, "America/New_York", "2026-11-01T01:00:00-04:00", 3) == [
        "2026-11-01T01:30:00-04:00",
        "2026-11-01T01:30:00-05:00",
        "2026-11-01T02:30:00-05:00",
    ]


_TABLES = [
    *(cron(words, zone) for words in ("*/7 * * * *", "30 2 * * *", "5,35 1-3 * * *", "* * * * * *")
      for zone in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC")),
    every(7), every(3600),
]  # fmt: skip


@given(table=st.sampled_from(_TABLES), start=st.integers(ms("2026-01-01T00:00+00:00"), ms("2027-01-01T00:00+00:00")))
def test_moments_go_forward_and_do_not_depend_on_where_one_begins(table: Timetable, start: int) -> None:
    first = table.after(start)
    second = table.after(first)

    assert start < first < second
    assert table.after(first - 1) == first
    assert table.after((first + second) // 2) == second


# ── what has passed ───────────────────────────────────────────────────────────────────────────────────────────────


def test_what_has_passed_is_told_in_order_up_to_now() -> None:
    assert passed(every(10), 5_000, 40_000, most=100) == [10_000, 20_000, 30_000, 40_000]
    assert passed(every(10), 10_000, 19_999, most=100) == []


def test_of_very_much_that_has_passed_the_last_is_told() -> None:
    year = 366 * 86_400_000

    found = passed(every(1), 0, year, most=1000)

    assert found[-1] == year
    assert 1000 <= len(found) < 5000
    assert passed(cron("0 0 1 1 *", "UTC"), 0, 10 * year, most=3)[-3:] == [
        ms(f"{when}-01-01T00:00+00:00") for when in (1978, 1979, 1980)
    ]


# ── as text ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", ["every 30", "every 1.5", "every 1234567", "cron Europe/Berlin */5 * * * MON"])
def test_a_timetable_is_read_again_from_its_text(text: str) -> None:
    assert timetable(text).text == text
    assert timetable(text).after(0) == timetable(timetable(text).text).after(0)


@pytest.mark.parametrize("text", ["", "every", "every x", "every nan", "never", "cron", "cron Mars/Base * * * * *"])
def test_what_is_no_timetable_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        timetable(text)
