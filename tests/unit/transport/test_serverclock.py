"""When a server's clock is taken to have been set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtask.transport.redis.serverclock import ServerClock

SECONDS = st.floats(0.0, 5.0)


def seen(*looks: tuple[float, float, float]) -> tuple[ServerClock, float]:
    """A clock after looks of (the server's time, asked at, answered at), and what the last one told."""
    clock, moved = ServerClock(), 0.0
    for seconds, asked_at, now in looks:
        moved = clock.saw(seconds, asked_at=asked_at, now=now)
    return clock, moved


@pytest.mark.parametrize("seconds", [-3600.0, -1.5, 1.5, 3600.0])
def test_a_clock_that_was_set_is_told_by_how_much(seconds: float) -> None:
    clock, moved = seen((1000.0, 0.0, 0.0), (1010.0 + seconds, 10.0, 10.0))

    assert moved == seconds
    assert (clock.times_set, clock.set_at) == (1, 10.0)


def test_it_is_told_once() -> None:
    clock, moved = seen((1000.0, 0.0, 0.0), (4610.0, 10.0, 10.0), (4620.0, 20.0, 20.0))

    assert moved == 0.0
    assert (clock.times_set, clock.set_at) == (1, 10.0)


def test_a_clock_that_drifts_is_not_set() -> None:
    clock, _ = seen(*[(1000.0 + 1.1 * n, float(n), float(n)) for n in range(100)])

    assert clock.times_set == 0


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS), max_size=20))
def test_replies_that_take_their_time_do_not_look_like_a_clock_that_was_set(
    looks: list[tuple[float, float, float]],
) -> None:
    clock, now = ServerClock(), 0.0
    for pause, there, back in looks:
        asked_at = now + pause
        now = asked_at + there + back
        # A clock that goes as ours does, a thousand seconds ahead, was read in between.
        assert clock.saw(1000.0 + asked_at + there, asked_at=asked_at, now=now) == 0.0
