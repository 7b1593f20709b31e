"""The clock of an app in memory."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from streamtask.testing import FrozenClock


def test_it_stands_still_until_it_is_moved() -> None:
    clock = FrozenClock(datetime(2030, 1, 1, tzinfo=UTC))

    assert clock.now() == clock.now() == datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    clock.advance(60)
    assert clock.moment == datetime(2030, 1, 1, 0, 1, tzinfo=UTC)
    assert clock.monotonic() == 60


def test_it_can_be_set_to_a_moment_or_to_seconds() -> None:
    clock = FrozenClock()
    clock.set(datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC))

    assert clock.now() == 1_000_000_000
    clock.set(5.5)
    assert clock.now() == 5.5


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        FrozenClock(datetime(2030, 1, 1))  # noqa: DTZ001 - it is what is refused
