"""Orchestrators as real workers, and bots as real processes: killed, stopped, cut off, and in each other's way."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from streamtask_contrib.events import BotRecoveryRequested

from tests.chaos.conftest import Measured
from tests.chaos.workers import LONG, Ledger, emitted, nothing_pending, until
from tests.contrib.api.serving import quiet, tone
from tests.contrib.bot.attempts import record
from tests.contrib.bot.meetings import REAL, Meetings
from tests.processes import lives

pytestmark = pytest.mark.timeout(180)

#: What a bot goes through that is asked to leave.
WHOLE_LIFE = ["requested", "starting", "joining", "in_call", "capturing", "leaving", "stopped"]
#: Seconds within which bots have to be owned again.
_OWNED_AGAIN = 15.0


def five() -> list[str]:
    return [f"b{n}" for n in range(5)]


async def owned_by_another(meetings: Meetings, bot_ids: Sequence[str], before: set[str]) -> float:
    """Wait until each bot has an owner that is none of those; the seconds that it took."""
    began = time.monotonic()

    async def owned() -> bool:
        return not await owners(meetings, bot_ids) & before

    await until(owned, 30)
    return time.monotonic() - began


async def owners(meetings: Meetings, bot_ids: Sequence[str]) -> set[str]:
    return {(await meetings.bot(bot_id)).owner for bot_id in bot_ids}


async def in_calls(meetings: Meetings, *, attempt: int) -> None:
    """Wait until the process of this attempt of all five is in its call."""

    async def are_there() -> bool:
        bots = [await meetings.bot(bot_id) for bot_id in five()]
        return all(bot.attempt == attempt and bot.state == "capturing" for bot in bots)

    await until(are_there, 60)


def kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)


# ── a life ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bot_is_started_once_told_of_in_order_and_leaves_when_asked(meetings: Meetings, ledger: Ledger) -> None:
    worker = await meetings.worker()
    await meetings.request("b1")
    await meetings.reach("capturing", "b1")
    standing = await meetings.bot("b1")
    await meetings.stop("b1")
    await meetings.reach("stopped", "b1")

    assert await meetings.states("b1") == WHOLE_LIFE
    assert ledger.count("start") == {"b1": 1}
    assert meetings.most["b1"] == 1
    assert meetings.everything() == []
    # Its log is there for its user alone, its folder is gone, and it was told of in whole lines.
    assert standing.process is not None
    [log] = meetings.logs.iterdir()
    assert (str(log), log.stat().st_mode & 0o777, meetings.logs.stat().st_mode & 0o777) == (
        standing.process.log,
        0o600,
        0o700,
    )
    [logged] = await emitted(meetings.url, "bot-logs")
    assert (logged["bot_id"], logged["attempt"], logged["position"]) == ("b1", 1, 0)
    assert logged["lines"] == ["b1 is in the call"]
    # Nobody looks at it any more, and it is no zombie.
    assert await meetings.bots.living() == []
    [pid] = await worker.child_pids()
    await until(lambda: psutil.Process(pid).children() == [], 5)


async def test_the_worker_of_the_package_takes_its_settings_from_the_environment(meetings: Meetings) -> None:
    worker = await meetings.worker(REAL, max_bots=1)
    assert worker.logs("orchestrator.begins")
    assert await worker.terminate() == 0


# ── ends that are asked for ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_stop_before_the_request_is_honoured_and_no_process_is_ever_started(
    meetings: Meetings, ledger: Ledger
) -> None:
    await meetings.worker()
    await meetings.stop("b1")
    await nothing_pending(meetings.url, "bot-control", "bot-orchestrator")
    await meetings.request("b1")
    await meetings.reach("stopped", "b1")

    assert await meetings.states("b1") == ["requested", "stopped"]
    assert (await meetings.statuses())["b1"][-1]["sub_code"] == "before_start"
    assert (await meetings.bot("b1")).attempt == 0
    assert ledger.lines() == []
    assert meetings.most["b1"] == 0


async def test_more_bots_than_there_is_room_for_wait_their_turn_and_can_be_stopped_while_they_wait(
    meetings: Meetings, ledger: Ledger
) -> None:
    worker = await meetings.worker(max_bots=2)
    for bot_id in ("b1", "b2", "b3", "b4"):
        await meetings.request(bot_id)
        await until(lambda bot_id=bot_id: meetings.bots.load(bot_id), 10)
    await meetings.reach("capturing", "b1", "b2")
    await meetings.stop("b3")
    await meetings.reach("stopped", "b3")
    assert (await meetings.bot("b4")).state == "requested"
    assert set(ledger.count("start")) == {"b1", "b2"}
    await meetings.stop("b1")
    await meetings.reach("capturing", "b4")

    assert await meetings.states("b3") == ["requested", "stopped"]
    assert (await meetings.statuses())["b3"][-1]["sub_code"] == "before_start"
    assert len(meetings.processes()) == 2
    # Said once for each of them, not each second.
    assert sorted(line["bot_id"] for line in worker.logs("bot.waits")) == ["b3", "b4"]


async def test_no_bot_is_started_above_the_load_that_is_set(meetings: Meetings, ledger: Ledger) -> None:
    worker = await meetings.worker(max_load=1e-9)
    await meetings.request("b1")
    await until(lambda: worker.logs("bot.waits"), 10)

    assert (await meetings.bot("b1")).state == "requested"
    assert ledger.lines() == []


async def test_a_bot_that_ignores_everything_is_gone_after_kill_after_with_all_it_has_started(
    meetings: Meetings, ledger: Ledger, measured: Measured
) -> None:
    worker = await meetings.worker(terminate_after=2, kill_after=4)
    await meetings.request("b1", does="is deaf")
    await until(lambda: len(ledger.lines("child")) == 2, 40)
    began = time.monotonic()
    await meetings.stop("b1")
    await meetings.reach("stopped", "b1")
    measured("seconds from the stop to the end", time.monotonic() - began)

    assert 3.5 < time.monotonic() - began < 12
    assert meetings.everything() == []
    assert not any(lives(line.more["child"]) for line in ledger.lines("child"))
    assert [line["signal"] for line in worker.logs("bot.signalled")][:2] == ["SIGTERM", "SIGKILL"]
    last = (await meetings.statuses())["b1"][-1]
    assert (last["state"], last["reason"], last["sub_code"]) == ("stopped", "asked", "killed")


async def test_a_bot_that_hangs_in_joining_is_ended_and_reported(
    meetings: Meetings, ledger: Ledger, measured: Measured
) -> None:
    await meetings.worker(join_timeout=0.5, terminate_after=1, kill_after=2)
    await meetings.request("b1", does="hangs in joining")
    await meetings.reach("joining", "b1")
    began = time.monotonic()
    await meetings.reach("failed", "b1")
    measured("seconds in joining, of 15.5 allowed", time.monotonic() - began)

    last = (await meetings.statuses())["b1"][-1]
    assert (last["state"], last["reason"], last["attempt"]) == ("failed", "join_timeout", 1)
    assert ledger.count("start") == {"b1": 1}
    assert len(ledger.lines("child")) == 2
    assert meetings.everything() == []


# ── ends that are not ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bot_that_dies_is_started_again_and_given_up_after_max_attempts(
    meetings: Meetings, ledger: Ledger
) -> None:
    await meetings.worker(max_attempts=3)
    await meetings.request("once", does="crashes once")
    await meetings.request("always", does="always crashes")
    await meetings.reach("failed", "always", within=60)
    await meetings.reach("capturing", "once")

    assert ledger.count("start") == {"once": 2, "always": 3}
    assert meetings.most == {"once": 1, "always": 1}
    statuses = await meetings.statuses()
    assert [each["reason"] for each in statuses["once"] if each["state"] == "starting"] == ["requested", "process_lost"]
    assert (statuses["always"][-1]["reason"], statuses["always"][-1]["attempt"]) == ("process_lost", 3)
    # Nothing is left of the four that have crashed, neither in their groups nor elsewhere.
    assert [process.pid for process in meetings.everything()] == [process.pid for process in meetings.processes("once")]
    assert not any(lives(line.more["child"]) for line in ledger.lines("child"))
    assert sorted(path.name for path in meetings.logs.glob("*.scratch")) == ["once.1.scratch", "once.2.scratch"]


async def test_a_bot_that_says_why_it_fails_is_not_started_again(meetings: Meetings, ledger: Ledger) -> None:
    await meetings.worker()
    await meetings.request("b1", does="fails to join")
    await meetings.reach("failed", "b1")

    assert (await meetings.statuses())["b1"][-1]["reason"] == "no_such_meeting"
    assert ledger.count("start") == {"b1": 1}


async def test_a_bot_that_never_says_a_word_is_tried_again(meetings: Meetings, ledger: Ledger) -> None:
    await meetings.worker(start_timeout=4, max_attempts=2, terminate_after=1, kill_after=2)
    await meetings.request("b1", does="never says a word")
    await meetings.reach("failed", "b1", within=60)

    assert await meetings.states("b1") == ["requested", "starting", "starting", "failed"]
    assert [each["reason"] for each in (await meetings.statuses())["b1"][2:]] == ["start_timeout"] * 2
    assert ledger.count("start") == {"b1": 2}
    assert meetings.most["b1"] == 1
    assert meetings.everything() == []


async def test_a_recovery_ends_the_process_and_starts_the_next_once(meetings: Meetings, ledger: Ledger) -> None:
    await meetings.worker(terminate_after=1, kill_after=2)
    await meetings.request("b1")
    await meetings.reach("capturing", "b1")
    request = BotRecoveryRequested(request_id="r1", bot_id="b1", reason="no_audio")
    await meetings.publish(request)

    async def is_second() -> bool:
        bot = await meetings.bot("b1")
        return bot.attempt == 2 and bot.state == "capturing"

    await until(is_second, 40)
    # Delivered again, as a handler's event may be; and one of before the process began.
    assert await meetings.bots.recover(request) is None
    assert await meetings.bots.recover(request.model_copy(update={"request_id": "r0"})) is None

    starts = [each for each in (await meetings.statuses())["b1"] if each["state"] == "starting"]
    assert [each["reason"] for each in starts] == ["requested", "no_audio"]
    assert meetings.most["b1"] == 1


# ── orchestrators that die ────────────────────────────────────────────────────────────────────────────────────────


async def test_the_living_bots_of_a_killed_orchestrator_are_owned_again_as_they_are(
    meetings: Meetings, ledger: Ledger, measured: Measured
) -> None:
    first = await meetings.worker()
    await meetings.request(*five())
    await meetings.reach("capturing", *five(), within=60)
    processes = {process.pid for process in meetings.processes()}
    before = await owners(meetings, five())
    await meetings.worker()
    await first.kill_whole()
    took = await owned_by_another(meetings, five(), before)
    measured("seconds until all five are owned again", took)
    assert took < _OWNED_AGAIN

    # What a stop needs is there, too.
    await meetings.stop(*five())
    await meetings.reach("stopped", *five(), within=60)
    for bot_id in five():
        assert await meetings.states(bot_id) == WHOLE_LIFE
    assert ledger.count("start") == dict.fromkeys(five(), 1)
    assert {line.pid for line in ledger.lines("start")} == processes
    assert meetings.most == dict.fromkeys(five(), 1)
    assert meetings.everything() == []
    measured("looks at all processes", meetings.looks)


async def test_bots_that_die_with_their_orchestrator_are_started_again_once_each(
    meetings: Meetings, ledger: Ledger, measured: Measured
) -> None:
    first = await meetings.worker(orchestrator_ttl=3)
    await meetings.request(*five())
    await meetings.reach("capturing", *five(), within=60)
    before = await owners(meetings, five())
    await meetings.worker(orchestrator_ttl=3)
    await first.kill_whole()
    kill(meetings.processes())
    took = await owned_by_another(meetings, five(), before)
    measured("seconds until all five are owned again", took)
    assert took < _OWNED_AGAIN
    began = time.monotonic()
    await in_calls(meetings, attempt=2)
    measured("seconds from there until all five are in their calls again", time.monotonic() - began)

    for bot_id in five():
        assert await meetings.states(bot_id) == WHOLE_LIFE[:5] + WHOLE_LIFE[1:5]
    assert ledger.count("start") == dict.fromkeys(five(), 2)
    assert meetings.most == dict.fromkeys(five(), 1)


async def test_a_worker_process_that_is_killed_alone_is_replaced_and_its_bots_go_on(
    meetings: Meetings, ledger: Ledger, measured: Measured
) -> None:
    worker = await meetings.worker(orchestrator_ttl=3)
    await meetings.request(*five())
    await meetings.reach("capturing", *five(), within=60)
    before = await owners(meetings, five())
    await worker.kill_child()
    took = await owned_by_another(meetings, five(), before)
    measured("seconds until all five are owned again", took)

    assert took < _OWNED_AGAIN
    assert ledger.count("start") == dict.fromkeys(five(), 1)
    assert meetings.most == dict.fromkeys(five(), 1)


async def test_a_bot_that_was_asked_to_leave_is_ended_in_time_by_the_next_orchestrator(
    meetings: Meetings, ledger: Ledger, measured: Measured
) -> None:
    first = await meetings.worker(orchestrator_ttl=3, terminate_after=6, kill_after=10)
    await meetings.request("b1", does="is deaf")
    await until(lambda: len(ledger.lines("child")) == 2, 40)
    owner = (await meetings.bot("b1")).owner
    began = time.monotonic()
    await meetings.stop("b1")

    async def is_asked() -> bool:
        return (await meetings.bot("b1")).desired == "stopped"

    async def is_missed() -> bool:
        return not await meetings.has_lease(owner)

    await until(is_asked, 10)
    await first.kill_whole()
    await until(is_missed, 20)
    await meetings.worker(orchestrator_ttl=3, terminate_after=6, kill_after=10)
    counted_anew = time.monotonic() + 10
    await meetings.reach("stopped", "b1")
    measured("seconds from the stop to the end, of 10 allowed", time.monotonic() - began)

    assert time.monotonic() < counted_anew
    assert meetings.everything() == []


async def test_bots_live_on_when_their_orchestrator_ends_in_order_and_the_next_has_them_at_once(
    meetings: Meetings, ledger: Ledger, measured: Measured
) -> None:
    first = await meetings.worker(orchestrator_ttl=30)
    await meetings.request("b1", "b2")
    await meetings.reach("capturing", "b1", "b2")
    before = await owners(meetings, ["b1", "b2"])
    await meetings.worker(orchestrator_ttl=30)
    assert await first.terminate() == 0
    took = await owned_by_another(meetings, ["b1", "b2"], before)
    measured("seconds until both are owned again", took)

    assert took < 5
    assert ledger.count("start") == {"b1": 1, "b2": 1}
    assert len(meetings.processes()) == 2
    await meetings.stop("b1", "b2")
    await meetings.reach("stopped", "b1", "b2")
    assert await meetings.states("b1") == WHOLE_LIFE


# ── orchestrators that are late, cut off, or two ──────────────────────────────────────────────────────────────────


async def test_an_orchestrator_that_was_paused_beyond_its_lease_doubles_nothing_and_goes_on_as_another(
    meetings: Meetings, ledger: Ledger
) -> None:
    paused = await meetings.worker(orchestrator_ttl=2)
    await meetings.request(*five())
    await meetings.reach("capturing", *five(), within=60)
    before = await owners(meetings, five())
    await paused.stop_whole()
    other = await meetings.worker(orchestrator_ttl=2)
    await owned_by_another(meetings, five(), before)
    # One is lost while the other looks after it; another is asked to leave.
    kill(meetings.processes("b0"))
    await until(lambda: ledger.count("start")["b0"] == 2, 20)
    await paused.continue_whole()
    await until(lambda: len(paused.logs("orchestrator.begins")) == 2, 20)
    await meetings.reach("capturing", *five())
    after = await owners(meetings, five())
    await meetings.stop(*five())
    await meetings.reach("stopped", *five())

    assert len(after) == 1
    assert not after & before
    assert ledger.count("start") == {**dict.fromkeys(five(), 1), "b0": 2}
    assert meetings.most == dict.fromkeys(five(), 1)
    assert await meetings.states("b0") == WHOLE_LIFE[:5] + WHOLE_LIFE[1:]
    assert paused.logs("bot.signalled") == other.logs("bot.signalled") == []

    # It is as good as new.
    await other.terminate()
    await meetings.request("b9")
    await meetings.reach("capturing", "b9")


async def test_two_orchestrators_that_race_for_twenty_bots_start_each_once(
    meetings: Meetings, ledger: Ledger, measured: Measured
) -> None:
    workers = await asyncio.gather(*(meetings.worker(max_bots=20, start_timeout=90) for _ in range(2)))
    bots = [f"b{n:02}" for n in range(20)]
    began = time.monotonic()
    await meetings.request(*bots)
    await meetings.reach("capturing", *bots, within=120)
    measured("seconds until twenty are in their calls", time.monotonic() - began)

    assert ledger.count("start") == dict.fromkeys(bots, 1)
    assert meetings.most == dict.fromkeys(bots, 1)
    shares = [len(worker.logs("bot.started")) for worker in workers]
    measured("started by the first", shares[0])
    assert sum(shares) == 20
    for bot_id in bots:
        assert await meetings.states(bot_id) == WHOLE_LIFE[:5]


async def test_a_broker_that_is_away_costs_no_bot(meetings: Meetings, ledger: Ledger) -> None:
    worker = await meetings.worker(orchestrator_ttl=2)
    await meetings.request(*five())
    await meetings.reach("capturing", *five(), within=60)
    processes = Counter(process.pid for process in meetings.processes())
    # Beyond the orchestrators' leases, and within those of the bots.
    meetings.server.pause()
    await asyncio.sleep(25 if LONG else 7)
    meetings.server.resume()
    await until(lambda: len(worker.logs("orchestrator.begins")) == 2, 20)
    before = {line["orchestrator"] for line in worker.logs("orchestrator.begins")[:1]}
    await owned_by_another(meetings, five(), before)

    assert Counter(process.pid for process in meetings.processes()) == processes
    assert worker.logs("bot.signalled") == worker.logs("bot.lost") == []
    await meetings.stop(*five())
    await meetings.reach("stopped", *five())
    for bot_id in five():
        assert await meetings.states(bot_id) == WHOLE_LIFE
    assert ledger.count("start") == dict.fromkeys(five(), 1)


# ── with real bots ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bots_die", [False, True], ids=["bots-live", "bots-die"])
async def test_five_bots_in_meetings_outlive_their_orchestrator_and_their_sessions_are_whole(
    meetings: Meetings, tmp_path: Path, measured: Measured, *, bots_die: bool
) -> None:
    talk = [part for _ in range(8) for part in (tone(0.7), quiet(0.8))]
    record(tmp_path / "talk.wav", talk)
    meetings.settings["recordings"] = tmp_path
    first = await meetings.worker(REAL, orchestrator_ttl=3)
    meeting = {"driver": "file", "meeting_url": "file:talk.wav?hold=600", "metadata": {"names": "Anna"}}
    await meetings.request(*five(), **meeting)
    await meetings.reach("capturing", *five(), within=90)
    before = await owners(meetings, five())
    await meetings.worker(REAL, orchestrator_ttl=3)
    await first.kill_whole()
    if bots_die:
        kill(meetings.processes())
    took = await owned_by_another(meetings, five(), before)
    measured("seconds until all five are owned again", took)
    assert took < _OWNED_AGAIN
    began = time.monotonic()
    attempt = 2 if bots_die else 1
    await in_calls(meetings, attempt=attempt)
    measured("seconds from there until all five are in their calls", time.monotonic() - began)
    await meetings.stop(*five())
    began = time.monotonic()
    await meetings.reach("stopped", *five(), within=60)
    measured("seconds from the stop until all five have left", time.monotonic() - began)

    assert meetings.most == dict.fromkeys(five(), 1)
    assert meetings.everything() == []
    for bot_id, updates in (await meetings.statuses()).items():
        starts = [update["attempt"] for update in updates if update["state"] == "starting"]
        assert starts == list(range(1, attempt + 1)), bot_id
        assert (updates[-1]["state"], updates[-1]["reason"]) == ("stopped", "asked")
    for bot_id in five():
        chunks = [each for each in await emitted(meetings.url, "audio-ingest") if each["session_id"] == f"s-{bot_id}"]
        assert [chunk["sequence"] for chunk in chunks] == list(range(len(chunks)))
        assert [chunk["is_last"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_the_session_of_a_bot_that_is_given_up_gets_its_last_chunk(meetings: Meetings, tmp_path: Path) -> None:
    record(tmp_path / "talk.wav", [part for _ in range(8) for part in (tone(0.7), quiet(0.8))])
    await meetings.worker(REAL, recordings=tmp_path, max_attempts=1)
    meeting = {"driver": "file", "meeting_url": "file:talk.wav?hold=600", "metadata": {"names": "Anna"}}
    await meetings.request("b1", **meeting)

    async def chunks() -> list[bool]:
        return [chunk["is_last"] for chunk in await emitted(meetings.url, "audio-ingest")]

    await until(chunks, 60)
    kill(meetings.processes())
    await meetings.reach("failed", "b1")

    *before, last = await chunks()
    assert last
    assert not any(before)
    # Whoever wants to know why reads it in the log.
    logged = await emitted(meetings.url, "bot-logs")
    assert any('"event": "bot.state"' in line for each in logged for line in each["lines"])
