"""Where samples belong: an hour of clocks that drift and shake stays within a tenth of a second."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamtask_contrib.capture.cutting import Format
from streamtask_contrib.capture.placing import Placement

from tests.contrib.pcm import RATE

FORM = Format(rate=RATE)
BLOCK = 0.2


class Line:
    """What has been placed, one portion after the other; only how long it is, is kept."""

    def __init__(self) -> None:
        self.placement = Placement(FORM)
        self.length = 0.0

    def place(self, at: float, seconds: float = BLOCK, *, is_open: bool = False) -> bytes | None:
        placed = self.placement.place(at, bytes(FORM.bytes(seconds)), position=self.length, is_open=is_open)
        self.length += FORM.seconds(len(placed or b""))
        return placed


@settings(max_examples=12)
@given(
    drift=st.floats(-0.002, 0.002),
    shake=st.sampled_from([0.0, 0.01, 0.04]),
    speaks=st.sampled_from([0.0, 0.7, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_an_hour_of_drift_stays_within_a_tenth_of_a_second(
    drift: float, shake: float, speaks: float, seed: int
) -> None:
    """The audio clock goes `drift` too fast, each moment is read up to `shake` late, and somebody speaks mostly."""
    chance, line, worst = random.Random(seed), Line(), 0.0
    for number in range(round(3600 / BLOCK)):
        true = number * BLOCK * (1 + drift)
        is_open = number % 60 < 60 * speaks
        placed = line.place(true + chance.uniform(0, shake), is_open=is_open)
        assert placed is not None
        worst = max(worst, abs(line.length - (true + BLOCK)))
    assert worst < 0.1


def test_a_drift_is_not_put_right_portion_by_portion() -> None:
    """An hour with a thousandth of drift is moved as often as it has to be, and no more."""
    line, moved = Line(), 0
    for number in range(round(3600 / BLOCK)):
        placed = line.place(number * BLOCK * 1.001, is_open=True)
        moved += len(placed or b"") != FORM.bytes(BLOCK)
    assert 3.6 / 0.1 < moved < 3.6 / 0.05


def test_what_is_missing_is_silence() -> None:
    line = Line()
    line.place(0.0)
    placed = line.placement.place(0.9, b"\1\0" * 160, position=line.length, is_open=True)
    assert placed == bytes(FORM.bytes(0.7)) + b"\1\0" * 160


def test_a_long_hole_is_an_interruption() -> None:
    line = Line()
    line.place(0.0)
    assert line.place(60.0) is None


@pytest.mark.parametrize("off", [1, 20])
def test_one_moment_that_is_off_moves_nothing(off: int) -> None:
    line = Line()
    for number in range(40):
        placed = line.place(number * BLOCK + (0.2 if number == off else 0.0))
        assert placed is not None
        assert len(placed) == FORM.bytes(BLOCK)


def test_a_clock_that_was_set_back_loses_no_sample() -> None:
    line = Line()
    for number in range(10):
        line.place(number * BLOCK)
    for number in range(10):
        line.place(number * BLOCK - 500)
    assert line.length == pytest.approx(20 * BLOCK)
    assert line.placement.moment(10 * BLOCK - 500) == pytest.approx(20 * BLOCK)
