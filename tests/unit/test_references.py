from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from streamtask.errors import ConfigurationError
from streamtask.references import (
    DeadLetterReference,
    EntryReference,
    dead_letter_reference,
    entry_reference,
    since,
    stream_name,
)

NOW = datetime(2024, 10, 19, 12, tzinfo=UTC)


@pytest.mark.parametrize("text", ["orders", "stream:orders"])
def test_a_stream_is_named_with_or_without_its_prefix(text: str) -> None:
    assert stream_name(text) == "orders"


@pytest.mark.parametrize("text", ["", "stream:"])
def test_no_name_is_no_stream(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no stream"):
        stream_name(text)


@pytest.mark.parametrize("text", ["orders/1700-3", "stream:orders/1700-3"])
def test_an_entry_is_named_by_its_stream_and_id(text: str) -> None:
    assert entry_reference(text) == EntryReference("orders", "1700-3")


@pytest.mark.parametrize(
    "text", ["", "orders", "/1-1", "orders/", "orders/1", "orders/1-", "orders/a-b", "orders/-1-1"]
)
def test_what_is_no_entry_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match="like orders"):
        entry_reference(text)


def test_an_id_beyond_what_the_server_can_count_is_refused() -> None:
    assert entry_reference(f"orders/{2**64 - 1}-{2**64 - 1}").entry_id.startswith("1844")
    with pytest.raises(ConfigurationError):
        entry_reference(f"orders/{2**64}-0")


def test_digits_of_other_scripts_are_no_id() -> None:
    with pytest.raises(ConfigurationError):
        entry_reference("orders/\u0661-\u0661")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("orders/shipping/1700-3", DeadLetterReference("orders", "shipping", "1700-3")),
        ("stream:orders/shipping/1700-3", DeadLetterReference("orders", "shipping", "1700-3")),
        ("orders/a/b/1700-3", DeadLetterReference("orders", "a/b", "1700-3")),
    ],
)
def test_a_dead_letter_is_named_by_stream_group_and_id(text: str, named: DeadLetterReference) -> None:
    assert dead_letter_reference(text) == named


@pytest.mark.parametrize(
    "text", ["", "1-1", "orders/1-1", "orders//1-1", "/g/1-1", "orders/g/", "orders/g/x", "a/b/c/d"]
)
def test_what_is_no_dead_letter_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match="like orders/shipping"):
        dead_letter_reference(text)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("1h", timedelta(hours=1)),
        ("1.5h", timedelta(hours=1.5)),
        ("2d12h", timedelta(days=2, hours=12)),
        ("1w", timedelta(weeks=1)),
    ],
)
def test_a_duration_is_that_long_ago(text: str, ago: timedelta) -> None:
    assert since(text, NOW) == NOW - ago


@pytest.mark.parametrize(
    ("text", "place"), [("0", "0-0"), ("1700000000000", "1700000000000-0"), ("1700000000000-7", "1700000000000-7")]
)
def test_an_id_is_itself(text: str, place: str) -> None:
    assert since(text, NOW) == place


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-10-18T12:00:00+00:00", datetime(2024, 10, 18, 12, tzinfo=UTC)),
        ("2024-10-18T12:00:00Z", datetime(2024, 10, 18, 12, tzinfo=UTC)),
        ("2024-10-18T12:00:00", datetime(2024, 10, 18, 12, tzinfo=UTC)),
        ("2024-10-18T14:00:00+02:00", datetime(2024, 10, 18, 14, tzinfo=timezone(timedelta(hours=2)))),
        ("2024-10-18", datetime(2024, 10, 18, tzinfo=UTC)),
        ("20241018", datetime(2024, 10, 18, tzinfo=UTC)),
    ],
)
def test_a_moment_without_a_zone_is_utc(text: str, moment: datetime) -> None:
    assert since(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "x", "1x", "h", "1 h", "-1h", "yesterday", "99999999999999w", "2024-13-01", "1-x"]
)
def test_what_is_no_place_in_history_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"duration \(30m"):
        since(text, NOW)


@pytest.mark.parametrize("text", ["2024-10-20", "9999999999999-0", "9999999999999"])
def test_the_future_is_no_history(text: str) -> None:
    with pytest.raises(ConfigurationError, match="future"):
        since(text, NOW)


def test_a_clock_that_is_a_little_ahead_is_no_future() -> None:
    assert since("2024-10-19T12:00:30Z", NOW) == NOW + timedelta(seconds=30)
