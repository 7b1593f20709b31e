"""Clocks: the machine's, and the one that tests move."""

from __future__ import annotations

import time

import pytest

from streamtask.clock import Clock, ManualClock, SystemClock


def differences(clock: Clock) -> tuple[float, float]:
    return clock.now(), clock.monotonic()


def test_the_system_clock_tells_the_time_of_day_and_never_goes_back():
    clock = SystemClock()
    now, first = differences(clock)
    _, second = differences(clock)

    assert abs(now - time.time()) < 60
    assert second >= first


def test_a_manual_clock_stands_still_until_it_is_advanced():
    clock = ManualClock(now=1000.0)
    before = differences(clock)
    assert differences(clock) == before

    clock.advance(1.5)

    assert differences(clock) == (1001.5, before[1] + 1.5)


def test_setting_the_time_of_day_leaves_differences_alone():
    clock = ManualClock(now=1000.0)
    clock.advance(1)
    clock.set(0.0)
    assert differences(clock) == (0.0, 1.0)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_time_does_not_pass_backwards(seconds):
    with pytest.raises(ValueError, match="forwards"):
        ManualClock().advance(seconds)
