"""Which errors are retried, and after how long."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtask.retry import MAX_DELAY, Backoff, Retry

seconds = st.floats(min_value=0, max_value=MAX_DELAY)


def half() -> float:
    return 0.5


def test_by_default_five_attempts_with_a_ceiling_from_one_second_to_five_minutes():
    retry = Retry()
    assert retry.max_attempts == 5
    ceilings = [Backoff().bounds(attempt)[1] for attempt in range(1, 12)]
    assert ceilings == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert all(Backoff().bounds(attempt)[0] == 0 for attempt in range(1, 12))


@given(base=seconds, factor=st.floats(1, 1e6), cap=seconds, jitter=st.booleans(), draw=st.floats(0, 1))
def test_delays_stay_within_bounds_that_never_shrink_and_never_pass_the_cap(base, factor, cap, jitter, draw):
    backoff = Backoff(base=base, factor=factor, cap=cap, jitter=jitter)
    previous = 0.0
    for attempt in (1, 2, 3, 10, 1000, 10**9):
        low, high = backoff.bounds(attempt)
        assert 0 <= low <= high <= cap
        assert high >= previous
        assert low <= backoff.delay(attempt, lambda: draw) <= high
        previous = high


def test_jitter_is_even_from_zero_to_the_ceiling():
    draw = random.Random(7).random
    tenths = Counter(int(Backoff().delay(5, draw) / 1.6) for _ in range(10_000))
    assert set(tenths) == set(range(10))
    assert max(tenths.values()) < 2 * 1000


def test_without_jitter_the_delay_is_the_ceiling():
    assert [Backoff(jitter=False).delay(attempt, half) for attempt in (1, 2, 3)] == [1, 2, 4]


def test_a_number_a_sequence_and_a_function_are_backoffs_too():
    assert Retry(backoff=7).delay(3, half) == 7
    assert [Retry(backoff=[1, 10, 3600]).delay(attempt, half) for attempt in (1, 2, 3, 4)] == [1, 10, 3600, 3600]
    assert Retry(backoff=lambda attempt: attempt * 2).delay(3, half) == 6
    assert Retry(backoff=Backoff(base=4)).delay(1, half) == 2


@given(st.floats(), st.integers(min_value=-5))
def test_whatever_a_backoff_function_answers_the_delay_is_sound(answer, attempt):
    delay = Retry(backoff=lambda _: answer).delay(attempt, half)
    assert 0 <= delay <= MAX_DELAY


def test_only_the_errors_asked_for_are_retried():
    retry = Retry(3, retry_on=(OSError, ValueError), give_up_on=UnicodeError)
    assert retry.wants(ConnectionError())
    assert retry.wants(ValueError())
    assert not retry.wants(UnicodeError())
    assert not retry.wants(KeyError())


def test_by_default_errors_are_retried_and_interrupts_are_not():
    assert Retry().wants(RuntimeError())
    assert not Retry().wants(KeyboardInterrupt())


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"max_attempts": None},
        {"backoff": -1},
        {"backoff": math.nan},
        {"backoff": math.inf},
        {"backoff": "10"},
        {"backoff": []},
        {"backoff": [1, -1]},
        {"backoff": None},
        {"retry_on": "OSError"},
        {"retry_on": (OSError, 3)},
        {"give_up_on": ValueError("an instance")},
    ],
)
def test_a_wrong_retry_is_refused_when_it_is_made(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Retry(**options)


@pytest.mark.parametrize("options", [{"base": -1}, {"cap": math.inf}, {"factor": 0.5}, {"factor": math.nan}])
def test_a_wrong_backoff_is_refused_when_it_is_made(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Backoff(**options)


def test_a_retry_is_a_value():
    assert Retry(3, backoff=[1, 2]) == Retry(max_attempts=3, backoff=(1, 2))
    assert hash(Retry(3, backoff=[1, 2], retry_on=OSError))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Retry().max_attempts = 6
