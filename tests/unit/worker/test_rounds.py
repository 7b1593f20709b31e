"""Who waits for the next round wakes up together with all others who do, and once for each round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtask.worker.rounds import EARLY, ROUND, until_next

moments = st.floats(0.0, 1e7)


@given(moments, st.floats(0.0, 1.0, exclude_max=True))
def test_two_who_wait_in_one_round_wake_up_at_one_moment(round_: float, part: float) -> None:
    began = round(round_ / ROUND) * ROUND
    first, second = began + EARLY / 2, began + EARLY / 2 + part * (ROUND - 2 * EARLY)
    assert first + until_next(first) == pytest.approx(second + until_next(second), abs=1e-6)


@given(moments, st.floats(-EARLY / 2, EARLY / 2))
def test_who_wakes_up_a_little_early_or_late_waits_for_a_whole_round(round_: float, off: float) -> None:
    moment = round(round_ / ROUND) * ROUND + off
    assert until_next(moment) == pytest.approx(ROUND - off, abs=1e-6)


@given(moments)
def test_nobody_waits_longer_than_a_round_and_a_little(moment: float) -> None:
    assert EARLY <= until_next(moment) <= ROUND + EARLY
