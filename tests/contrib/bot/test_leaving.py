"""When a bot leaves by itself: not too early, whatever a page shows for a moment, and not never."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamtask_contrib.bot.leaving import Leaving, Look
from streamtask_contrib.events import AutomaticLeave

NEVER = AutomaticLeave(waiting_room=0, nobody_joined=0, everyone_left=0, silence=0, longest=0)
LOOK = 0.5


def limits(**seconds: float) -> AutomaticLeave:
    return NEVER.model_copy(update=seconds)


def looks(seconds: float, *, since: float = 0.0, **seen: object) -> Iterator[Look]:
    """The same for so long."""
    for number in range(round(seconds / LOOK)):
        yield Look(at=since + number * LOOK, **seen)  # type: ignore[arg-type]  # what each test sees


def outcome(leaving: Leaving, *stretches: Iterator[Look]) -> tuple[float, str] | None:
    """When it leaves, and why."""
    for look in (look for stretch in stretches for look in stretch):
        if (reason := leaving.see(look)) is not None:
            return look.at, reason
    return None


def test_nobody_lets_it_in() -> None:
    leaving = Leaving(limits(waiting_room=300))
    assert outcome(leaving, looks(400, is_waiting=True)) == (300, "waiting_room_timeout")


def test_the_way_to_the_waiting_room_is_not_the_waiting_room() -> None:
    leaving = Leaving(limits(waiting_room=10))
    assert outcome(leaving, looks(100), looks(100, since=100, is_waiting=True)) == (110, "waiting_room_timeout")


def test_being_sent_back_to_the_waiting_room_begins_anew() -> None:
    leaving = Leaving(limits(waiting_room=10))
    back = looks(100, since=10, is_waiting=True)
    first = looks(8, is_waiting=True), looks(2, since=8, is_in_call=True, participants=1)
    assert outcome(leaving, *first, back) == (20, "waiting_room_timeout")


def test_nobody_comes() -> None:
    leaving = Leaving(limits(nobody_joined=600, everyone_left=5))
    assert outcome(leaving, looks(700, is_in_call=True)) == (600, "nobody_joined")


def test_everybody_goes() -> None:
    leaving = Leaving(limits(everyone_left=60, nobody_joined=1000))
    there = looks(100, is_in_call=True, participants=2)
    at, reason = outcome(leaving, there, looks(100, since=100, is_in_call=True)) or (0, "")
    assert reason == "everyone_left"
    assert at == pytest.approx(160, abs=LOOK)


def test_a_moment_in_which_nobody_is_to_be_seen_is_none_in_which_everyone_left() -> None:
    """Also where the limit is shorter than that moment."""
    leaving = Leaving(limits(everyone_left=0.4))
    flicker = [
        Look(at=number * LOOK, is_in_call=True, participants=0 if number % 6 in {1, 2} else 2) for number in range(600)
    ]
    assert outcome(leaving, iter(flicker)) is None


def test_who_is_heard_is_there_whatever_the_page_says() -> None:
    leaving = Leaving(limits(everyone_left=5, nobody_joined=5))
    heard = [Look(at=number * LOOK, is_in_call=True, has_speech=number % 8 == 0) for number in range(200)]
    assert outcome(leaving, iter(heard)) is None
    at, reason = outcome(leaving, looks(20, since=100, is_in_call=True)) or (0, "")
    assert reason == "everyone_left", "somebody who has been heard has been there"
    assert at < 106


def test_nobody_says_a_word() -> None:
    leaving = Leaving(limits(silence=30))
    speech = looks(10, is_in_call=True, participants=2, has_speech=True)
    at, reason = outcome(leaving, speech, looks(60, since=10, is_in_call=True, participants=2)) or (0, "")
    assert reason == "silence"
    assert at == pytest.approx(40, abs=LOOK)


def test_the_longest_counts_what_earlier_processes_were_there() -> None:
    look = Look(at=5000.0, is_in_call=True, participants=2, has_speech=True)
    assert Leaving(limits(longest=100)).see(look, in_call_before=99) is None
    assert Leaving(limits(longest=100)).see(look, in_call_before=100) == "longest"


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2), st.booleans()), max_size=60))
def test_without_limits_it_never_leaves(seen: list[tuple[bool, bool, int, bool]]) -> None:
    leaving = Leaving(NEVER)
    for number, (waits, is_in, people, speaks) in enumerate(seen):
        look = Look(at=number * 1e6, is_waiting=waits, is_in_call=is_in, participants=people, has_speech=speaks)
        assert leaving.see(look) is None


@given(
    st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=1, max_size=120),
    st.floats(1, 20),
    st.floats(1, 20),
)
def test_it_leaves_only_after_its_limit_of_nobody(
    seen: list[tuple[int, bool]], everyone_left: float, nobody_joined: float
) -> None:
    leaving = Leaving(limits(everyone_left=everyone_left, nobody_joined=nobody_joined))
    company, had = 0.0, False
    for number, (people, speaks) in enumerate(seen):
        at = number * LOOK
        if people or speaks:
            company, had = at, True
        alone_for = at - company
        reason = leaving.see(Look(at=at, is_in_call=True, participants=people, has_speech=speaks))
        if reason is not None:
            assert reason == ("everyone_left" if had else "nobody_joined")
            assert alone_for >= (everyone_left if had else nobody_joined)
            return
