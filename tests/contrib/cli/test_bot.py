"""`streamtask bot`: sent, followed, listed, called back, and what they wrote."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.cli.following import Log
from streamtask_contrib.cli.printing import ago, printable
from streamtask_contrib.events import BotLogged, BotStopRequested

from streamtask import App
from tests.chaos.workers import until
from tests.command_line import Said, ask, run_on_terminal, started
from tests.contrib.bots import advance

pytestmark = pytest.mark.skipif(
    not metadata.entry_points(group="streamtask.commands", name="bot"),
    reason="this checkout was installed before it had the command: pip install -e . again",
)

MEETING = "https://meet.example.org/standup"


async def bot(broker: str, *arguments: str) -> Said:
    return await ask(broker, "bot", *arguments)


async def sent(broker: str, bot_id: str, *arguments: str) -> Said:
    said = await bot(broker, "start", MEETING, "--id", bot_id, "--no-wait", *arguments)
    assert said.code == 0, said.err
    return said


async def known(app: App, bot_id: str) -> Bot:
    """A bot, as soon as it is known."""
    found: list[Bot] = []

    async def is_known() -> bool:
        there = await Bots(app).load(bot_id)
        if there is not None:
            found.append(there)
        return bool(found)

    await until(is_known, 20)
    return found[0]


# ── start and stop ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_start_prints_the_id_and_nothing_else(broker: str) -> None:
    said = await bot(broker, "start", MEETING, "--no-wait", "--name", "Notes", "--translate", "fr", "--translate", "de")
    bot_id = said.out.strip()
    assert re.fullmatch(r"[0-9a-f]{12}", bot_id)
    assert "No worker of group bot-orchestrator lives" in said.err
    async with App("test", broker=broker) as app:
        request = (await known(app, bot_id)).request
    assert request is not None
    assert (request.display_name, request.processing_flags.target_languages) == ("Notes", ["fr", "de"])


async def test_start_follows_until_the_bot_is_in_the_call(broker: str) -> None:
    async with App("test", broker=broker) as app:
        starting = asyncio.create_task(bot(broker, "start", MEETING, "--id", "standup"))
        await known(app, "standup")
        await advance(app, "standup", "starting", "joining", "waiting_room", "in_call")
        said = await starting
    assert (said.code, said.out) == (0, "standup\n")
    lines = [line for line in said.err.splitlines() if "lives" not in line]
    states = ["requested", "starting", "joining", "waiting room", "in call"]
    # The bot may have gone on before the command has read how it stands: from there on it misses nothing.
    assert lines
    assert lines == states[-len(lines) :]


async def test_a_bot_that_does_not_get_in_is_a_failure_with_its_reason(broker: str) -> None:
    async with App("test", broker=broker) as app:
        starting = asyncio.create_task(bot(broker, "start", MEETING, "--id", "standup", "--json"))
        await known(app, "standup")
        await advance(app, "standup", "starting", "joining")
        await advance(app, "standup", "failed", reason="join_timeout")
        said = await starting
    assert said.code == 1
    assert json.loads(said.out)["reason"] == "join_timeout"
    assert said.err.endswith("Error: bot standup is not in the meeting: failed (join_timeout)\n")


async def test_who_stops_to_wait_is_told_that_the_bot_goes_on(broker: str, tmp_path: Path) -> None:
    command = ("bot", "start", MEETING, "--id", "standup", "--broker", broker)
    with started(*command, folder=tmp_path) as process:
        async with App("test", broker=broker) as app:
            await known(app, "standup")
        assert process.stdout is not None
        told = await asyncio.to_thread(process.stdout.readline)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.to_thread(process.communicate, None, 20)
    assert (process.returncode, told, out) == (1, b"standup\n", b"")
    assert b"streamtask bot stop standup" in err
    assert b"Traceback" not in err


async def test_stop_follows_until_the_end(broker: str) -> None:
    await sent(broker, "standup")
    async with App("test", broker=broker) as app:
        await advance(app, "standup", "starting", "joining", "in_call", people=("Anna",))
        stopping = asyncio.create_task(bot(broker, "stop", "standup", "--json"))

        async def is_asked() -> bool:
            return (await known(app, "standup")).desired == "stopped"

        await until(is_asked, 20)
        assert "asked to leave" in (await bot(broker, "list")).out
        await advance(app, "standup", "leaving", "stopped", reason="requested")
        said = await stopping
        assert said.document == {"bot_id": "standup", "state": "stopped", "reason": "requested", "sub_code": ""}
        assert [line for line in said.err.splitlines() if "lives" not in line] == ["in call", "leaving", "stopped"]
        await app.publish(BotStopRequested(bot_id="the-end"))
        kinds = []
        async for stored in app.read("bot-control", after="0"):
            if stored.payload["bot_id"] == "the-end":
                break
            kinds.append(stored.event_type)
        assert kinds.count("BotStopRequested") == 1
    again = await bot(broker, "stop", "standup")
    assert (again.code, "has ended already" in again.err) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("meet.example.org",), "URL has to be a whole address"),
        (("file:meeting.wav",), "no meeting for the driver 'browser'"),
        ((MEETING, "--token-ref", "abc"), "--token-ref says where the token is"),
        ((MEETING, "--id", "../x"), "--id"),
        ((MEETING, "--language", "klingon"), "klingon"),
    ],
)
async def test_a_mistake_is_told_before_anything_is_asked(broker: str, arguments: tuple[str, ...], said: str) -> None:
    answer = await bot(broker, "start", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err


async def test_an_id_that_is_taken_is_not_taken_again(broker: str) -> None:
    await sent(broker, "standup")
    await sent(broker, "standup")
    other = await bot(broker, "start", f"{MEETING}-2", "--id", "standup", "--no-wait")
    assert (other.code, "asked for otherwise" in other.err) == (1, True)
    theirs = await bot(broker, "start", MEETING, "--id", "standup", "--user", "ben", "--no-wait")
    assert (theirs.code, "not yours" in theirs.err) == (1, True)


async def test_a_typo_is_answered_with_what_there_is(broker: str) -> None:
    await sent(broker, "standup")
    await sent(broker, "retro")
    for command in ("stop", "logs"):
        said = await bot(broker, command, "standip")
        assert (said.code, said.out) == (1, "")
        assert said.err == "Error: no bot 'standip'; did you mean 'standup'? there are: retro, standup\n"


async def test_a_broker_that_is_away_is_one_line(tmp_path: Path) -> None:
    said = await bot(f"unix://{tmp_path}/none", "list")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "cannot be used" in said.err


# ── list ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_list_has_who_lives_and_with_all_who_has_ended(broker: str) -> None:
    assert (await bot(broker, "list")) == Said(0, "", "No bot lives; --all lists those that have ended, too.\n")
    await sent(broker, "old")
    await sent(broker, "new")
    async with App("test", broker=broker) as app:
        await advance(app, "old", "starting")
        await advance(app, "old", "failed", reason="process_lost")
        await advance(app, "new", "starting", "joining", "in_call", people=("Anna", "Ben"))
    living = (await bot(broker, "list")).out
    assert "old" not in living
    assert re.search(rf"new\s+in_call\s+\d+s\s+{MEETING}\s+Anna, Ben", living)
    every = await bot(broker, "list", "--all", "--json")
    assert [(one["bot_id"], one["state"]) for one in every.document] == [("new", "in_call"), ("old", "failed")]
    assert every.document[0]["participants"] == ["Anna", "Ben"]
    assert re.search(r"old\s+failed \(process_lost\)", (await bot(broker, "list", "--all")).out)


async def test_what_comes_from_a_meeting_is_shown_and_not_obeyed(broker: str, tmp_path: Path) -> None:
    await sent(broker, "standup")
    async with App("test", broker=broker) as app:
        await advance(app, "standup", "starting", "joining", "in_call", people=("\x1b]0;title\x07\u202eAnna",))
    for arguments in (("list",), ("list", "--json")):
        said = run_on_terminal("bot", *arguments, folder=tmp_path, STREAMTASK_BROKER=broker)
        assert "Anna" in said.out
        assert "\x1b]" not in said.out
        assert "\u202e" not in said.out


# ── logs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def wrote(position: int, *lines: str, bot_id: str = "standup", attempt: int = 1) -> BotLogged:
    return BotLogged(bot_id=bot_id, attempt=attempt, position=position, lines=list(lines))


async def test_logs_has_the_past_lines_of_this_bot_each_once(broker: str) -> None:
    await sent(broker, "standup")
    async with App("test", broker=broker) as app:
        await app.publish_many([
            wrote(0, "one", "two"),
            wrote(0, "not mine", bot_id="retro"),
            wrote(4, "two", "three"),  # an orchestrator that took over has read on from where it knew
            wrote(14, "\x1b[31mfour"),
            wrote(0, "again", attempt=2),
            wrote(8, "late", attempt=1),
        ])  # fmt: skip
    said = await bot(broker, "logs", "standup")
    assert said == Said(0, "one\ntwo\nthree\n\\x1b[31mfour\nagain\n", "")
    lines = [json.loads(line) for line in (await bot(broker, "logs", "standup", "--json")).out.splitlines()]
    assert [(one["attempt"], one["line"]) for one in lines][-1] == (2, "again")


async def test_logs_of_a_bot_that_wrote_nothing_says_so(broker: str) -> None:
    await sent(broker, "standup")
    assert "has written nothing" in (await bot(broker, "logs", "standup")).err


async def test_logs_follow_until_the_bot_has_ended(broker: str, tmp_path: Path) -> None:
    await sent(broker, "standup")
    async with App("test", broker=broker) as app:
        await advance(app, "standup", "starting", "joining", "in_call")
        await app.publish(wrote(0, "one"))
        with started("bot", "logs", "standup", "-f", "--broker", broker, folder=tmp_path) as process:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"one\n"
            await app.publish_many([wrote(4, "two"), wrote(0, "noise", bot_id="retro")])
            assert await asyncio.to_thread(process.stdout.readline) == b"two\n"
            await advance(app, "standup", "leaving", "stopped")
            # Its last line comes after its last status.
            await app.publish(wrote(8, "three"))
            rest, err = await asyncio.to_thread(process.communicate, None, 20)
    assert (process.returncode, rest, err) == (0, b"three\n", b"")


async def test_following_is_ended_as_one_ends_things(broker: str, tmp_path: Path) -> None:
    await sent(broker, "standup")
    async with App("test", broker=broker) as app:
        await app.publish(wrote(0, "one"))
        with started("bot", "logs", "standup", "-f", "--broker", broker, folder=tmp_path) as process:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"one\n"
            process.send_signal(signal.SIGINT)
            _, err = await asyncio.to_thread(process.communicate, None, 20)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize(
    ("told", "lines"),
    [
        ([wrote(0, "a"), wrote(0, "a"), wrote(2, "b")], ["a", "b"]),
        ([wrote(0, "a", "b"), wrote(2, "b", "c")], ["a", "b", "c"]),
        ([wrote(0, "é"), wrote(3, "b")], ["é", "b"]),
        ([wrote(0, "a"), wrote(0, "a", attempt=2)], ["a", "a"]),
        ([wrote(0, "a", attempt=2), wrote(0, "a")], ["a"]),
    ],
)
def test_a_line_is_told_once(told: list[BotLogged], lines: list[str]) -> None:
    nowhere: Any = None
    log = Log(nowhere, nowhere)
    assert [line for logged in told for line in log.take(logged)] == lines


def test_how_long_ago_is_said_in_two_words_at_most() -> None:
    now = datetime.now(UTC)
    said = [ago(now - timedelta(seconds=seconds)) for seconds in (0, 59, 61, 3700, 90_000, -5)]
    assert said == ["0s", "59s", "1m", "1h 1m", "1d 1h", "0s"]


def test_text_stays_on_its_line() -> None:
    assert printable("a\nb\u2028c\x9bd é") == "a\\nb\\u2028c\\x9bd é"
