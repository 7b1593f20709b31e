"""What is done with a bot, by tables: a row is what stands, what is seen, and what follows."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from streamtask_contrib.bot.decisions import (
    Action,
    Evict,
    Finish,
    Owner,
    Restart,
    Sight,
    Signal,
    Wait,
    decide,
    may_adopt,
)
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.states import Bot, Ending, Eviction, ProcessIdentity

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = BotSettings(
    start_timeout=30, join_timeout=60, terminate_after=10, kill_after=20, max_attempts=3, orchestrator_ttl=6
)
TERM, KILL = Signal(signal.SIGTERM), Signal(signal.SIGKILL)
#: Where a bot runs: every state in which it has a process, and is not about to end.
RUNNING = ("starting", "joining", "waiting_room", "in_call", "capturing")


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def bot(state: str | None = "capturing", **fields: Any) -> Bot:
    made = Bot(bot_id="b", attempt=0 if state in (None, "requested") else 1, state_since=ago(1))
    return made.with_(state=state, **fields)


def stopping(asked: float, state: str = "capturing", **fields: Any) -> Bot:
    return bot(state, desired="stopped", stop_reason="asked", stop_requested_at=ago(asked), **fields)


def evicted(at: float, *, may_retry: bool, attempt: int = 1, **fields: Any) -> Bot:
    eviction = Eviction(attempt=attempt, at=ago(at), reason="no_audio", may_retry=may_retry)
    return bot(eviction=eviction, **fields)


def told(state: str, *, may_retry: bool = False) -> Ending:
    return Ending.model_validate({"state": state, "reason": "its word", "sub_code": "finer", "may_retry": may_retry})


def what(bot: Bot, sight: Sight, *, cut_off: float | None = None) -> Action:
    reachable_since = datetime.min.replace(tzinfo=UTC) if cut_off is None else ago(cut_off)
    return decide(bot, sight, now=NOW, reachable_since=reachable_since, settings=SETTINGS)


# ── while it lives ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        *((bot(state), Wait()) for state in RUNNING),
        # The question, the request, the end; counted from when it was asked, whatever has happened since.
        (stopping(0), Wait()),
        (stopping(9.9), Wait()),
        (stopping(10), TERM),
        (stopping(19.9), TERM),
        (stopping(20), KILL),
        (stopping(9_999), KILL),
        (stopping(12, "starting"), TERM),
        (stopping(12, "joining"), TERM),
        # One that leaves by itself has as long.
        (bot("leaving", state_since=ago(9)), Wait()),
        (bot("leaving", state_since=ago(10)), TERM),
        (bot("leaving", state_since=ago(20)), KILL),
        # Who comes and goes is no news of its state.
        (bot("leaving", state_since=ago(20), changed_at=NOW), KILL),
        # What was asked first counts, not what the bot made of it, nor the second question.
        (stopping(20, "leaving", state_since=ago(1)), KILL),
        (stopping(1, "leaving", state_since=ago(20)), KILL),
        # It has not said a word, or does not come in.
        (bot("starting", state_since=ago(30)), Wait()),
        (bot("starting", state_since=ago(31)), Evict("start_timeout", may_retry=True)),
        (bot("joining", state_since=ago(75)), Wait()),
        (bot("joining", state_since=ago(76)), Evict("join_timeout", may_retry=False)),
        (bot("waiting_room", state_since=ago(9_999)), Wait()),
        # What was decided is not asked for, and not decided again.
        (evicted(0, may_retry=True), TERM),
        (evicted(9.9, may_retry=False, state_since=ago(99)), TERM),
        (evicted(10, may_retry=True), KILL),
        # Of the process before this one.
        (evicted(99, may_retry=True).with_(attempt=2), Wait()),
    ],
)
def test_what_is_done_with_one_that_lives(standing: Bot, expected: Action) -> None:
    assert what(standing, "alive") == expected


@pytest.mark.parametrize("state", RUNNING)
@pytest.mark.parametrize("wanted", ["running", "stopped"])
def test_nothing_is_done_to_one_that_nobody_here_can_see(state: str, wanted: str) -> None:
    standing = stopping(999, state) if wanted == "stopped" else bot(state, state_since=ago(999))
    assert what(standing, "unseen") == Wait()


@pytest.mark.parametrize("standing", [bot(), stopping(0), evicted(0, may_retry=True), bot("leaving")])
def test_what_a_dead_process_has_left_is_killed_at_once(standing: Bot) -> None:
    assert what(standing, "remains") == KILL


def test_no_time_counts_in_which_the_broker_was_away() -> None:
    assert what(stopping(60), "alive", cut_off=9) == Wait()
    assert what(stopping(60), "alive", cut_off=10) == TERM
    assert what(stopping(60), "alive", cut_off=20) == KILL
    assert what(bot("joining", state_since=ago(999)), "alive", cut_off=75) == Wait()
    assert what(bot("joining", state_since=ago(999)), "alive", cut_off=76) == Evict("join_timeout", may_retry=False)
    assert what(bot("starting", state_since=ago(999)), "alive", cut_off=30) == Wait()


# ── after its death ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        *((bot(state), Restart("process_lost")) for state in RUNNING),
        *((bot(state, attempt=2), Restart("process_lost")) for state in RUNNING),
        *((bot(state, attempt=3), Finish("failed", "process_lost")) for state in RUNNING),
        # Its word, where it gave one.
        (bot(ending=told("stopped")), Finish("stopped", "its word", "finer")),
        (bot(ending=told("failed")), Finish("failed", "its word", "finer")),
        (bot("leaving", ending=told("stopped")), Finish("stopped", "its word", "finer")),
        (bot("joining", ending=told("failed", may_retry=True)), Restart("its word", "finer")),
        (bot("joining", attempt=3, ending=told("failed", may_retry=True)), Finish("failed", "its word", "finer")),
        # It was about to leave.
        (bot("leaving", reason="everyone_left"), Finish("stopped", "everyone_left", "killed")),
        # What a user wants; and what had become of it before it could be done.
        (stopping(5), Finish("stopped", "asked", "killed")),
        (stopping(5, attempt=3), Finish("stopped", "asked", "killed")),
        (stopping(5, ending=told("stopped")), Finish("stopped", "its word", "finer")),
        (stopping(5, ending=told("failed")), Finish("failed", "its word", "finer")),
        (stopping(5, ending=told("failed", may_retry=True)), Finish("stopped", "asked")),
        # What was decided, whatever it says of itself when it is ended.
        (evicted(5, may_retry=True), Restart("no_audio")),
        (evicted(5, may_retry=True, ending=told("stopped")), Restart("no_audio")),
        (evicted(5, may_retry=True, attempt=1, state_since=NOW).with_(state="leaving"), Restart("no_audio")),
        (evicted(5, may_retry=False), Finish("failed", "no_audio")),
        (evicted(5, may_retry=False, ending=told("stopped")), Finish("failed", "no_audio")),
        (evicted(5, may_retry=True, attempt=3).with_(attempt=3), Finish("failed", "no_audio")),
        (
            evicted(5, may_retry=False, desired="stopped", stop_reason="asked", stop_requested_at=ago(1)),
            Finish("stopped", "asked", "killed"),
        ),
        # The eviction was that of the process before.
        (evicted(5, may_retry=False).with_(attempt=2), Restart("process_lost")),
    ],
)
def test_what_becomes_of_one_that_is_gone(standing: Bot, expected: Action) -> None:
    assert what(standing, "gone") == expected


# ── before it and behind it ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sight", ["alive", "remains", "gone", "unseen"])
def test_one_that_has_ended_or_is_not_requested_is_left_alone(sight: Sight) -> None:
    for state in (None, "stopped", "failed"):
        assert what(bot(state, desired="stopped", stop_requested_at=ago(99)), sight) == Wait()


def test_one_that_waits_to_be_started_is_started_by_who_has_room_or_stopped() -> None:
    assert what(bot("requested"), "gone") == Wait()
    assert what(stopping(0, "requested"), "gone") == Finish("stopped", "asked", "before_start")


# ── whose ─────────────────────────────────────────────────────────────────────────────────────────────────────────

RUNS_HERE = bot(process=ProcessIdentity(place="here", pid=7, started=1.0))
RUNS_THERE = bot(process=ProcessIdentity(place="there", pid=7, started=1.0))


@pytest.mark.parametrize(
    ("standing", "owner", "missing_for", "expected"),
    [
        # While its owner lives, nobody takes it: except where it runs, from one who cannot see it.
        (RUNS_HERE, Owner(place="here"), 0.0, False),
        (RUNS_HERE, Owner(place="there"), 0.0, True),
        (RUNS_THERE, Owner(place="there"), 0.0, False),
        (RUNS_THERE, Owner(place="here"), 0.0, False),
        (bot(), Owner(place="there"), 0.0, False),
        # Without an owner: at once where it runs, elsewhere after a while.
        (RUNS_HERE, None, 0.0, True),
        (RUNS_THERE, None, 0.0, False),
        (RUNS_THERE, None, 2.9, False),
        (RUNS_THERE, None, 3.0, True),
        # Nobody knows where it runs, or whether it does.
        (bot(), None, 0.0, False),
        (bot(), None, 3.0, True),
    ],
)
def test_who_takes_a_bot_over(standing: Bot, owner: Owner | None, missing_for: float, expected: bool) -> None:
    assert may_adopt(standing, owner, here="here", missing_for=missing_for, grace=3.0) is expected
