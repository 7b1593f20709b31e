"""A bot as a value: which state may follow which, and that every change is told, once and in order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamtask_contrib.bot.states import FINAL, Bot, Eviction
from streamtask_contrib.events import BotState

STATES: tuple[BotState, ...] = get_args(BotState)
START = datetime(2026, 1, 1, tzinfo=UTC)
#: The main road; whoever goes back has to be named in `BACK`.
ROAD: tuple[BotState, ...] = ("requested", "starting", "joining", "waiting_room", "in_call", "capturing", "leaving")
BACK = {(state, "starting") for state in ROAD[1:]} | {
    ("in_call", "waiting_room"),
    ("capturing", "waiting_room"),
    ("capturing", "in_call"),
}


def at(state: BotState | None, **fields: object) -> Bot:
    return Bot(bot_id="b").with_(state=state, **fields)


@pytest.mark.parametrize("before", [None, *STATES])
@pytest.mark.parametrize("after", STATES)
def test_a_state_follows_only_one_that_it_may_follow(before: BotState | None, after: BotState) -> None:
    advanced = at(before).advanced(after, at=START)
    if before is None:
        allowed = after == "requested"
    elif before in FINAL or after == "requested":
        allowed = False
    elif after in FINAL:
        allowed = True
    elif before == "requested":
        # It has no process that could be anywhere.
        allowed = after == "starting"
    elif before == "starting":
        # No meeting before the page of it: a process says that it joins.
        allowed = after in ("starting", "joining", "leaving")
    else:
        allowed = (before, after) in BACK or ROAD.index(after) > ROAD.index(before)
    assert (advanced is not None) == allowed


@given(st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from([None, ("Anna",), ("Anna", "Ben")]))))
def test_whatever_happens_statuses_have_no_gap_and_say_what_stands(
    steps: list[tuple[BotState, tuple[str, ...] | None]],
) -> None:
    bot = Bot(bot_id="b")
    for number, (state, people) in enumerate(steps):
        now = START + timedelta(seconds=number)
        advanced = bot.advanced(state, at=now, reason="why", participants=people)
        if advanced is None:
            continue
        assert not bot.is_final
        last = advanced.unpublished[-1]
        assert (last.state, last.participants, last.changed_at) == (advanced.state, list(advanced.participants), now)
        assert advanced.unpublished[:-1] == bot.unpublished
        assert advanced.state_since == (now if state != bot.state or state == "starting" else bot.state_since)
        bot = advanced
    assert [update.sequence for update in bot.unpublished] == list(range(len(bot.unpublished)))
    assert bot.sequence == len(bot.unpublished) - 1
    assert Bot.model_validate_json(bot.model_dump_json()) == bot


def test_who_comes_and_goes_is_news_and_no_new_state() -> None:
    bot = at("in_call", state_since=START)
    assert bot.advanced("in_call", at=START + timedelta(5)) is None
    assert bot.advanced("in_call", at=START + timedelta(5), participants=()) is None
    changed = bot.advanced("in_call", at=START + timedelta(5), participants=["Anna"])
    assert changed is not None
    assert (changed.participants, changed.state_since) == (("Anna",), START)
    # They stay as they are where nothing is said of them.
    further = changed.advanced("capturing", at=START + timedelta(6))
    assert further is not None
    assert further.unpublished[-1].participants == ["Anna"]
    assert at("stopped").advanced("stopped", at=START, participants=["Anna"]) is None


def test_an_eviction_is_of_one_attempt() -> None:
    bot = at("joining", attempt=1)
    assert bot.evicted is None
    eviction = Eviction(attempt=1, at=START, reason="no_audio", may_retry=True)
    assert bot.with_(eviction=eviction).evicted == eviction
    assert bot.with_(eviction=eviction, attempt=2).evicted is None


def test_a_bot_that_was_written_by_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    written = at("joining").model_dump(mode="json") | {"something": "new"}
    assert Bot.model_validate(written).state == "joining"
