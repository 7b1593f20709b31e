"""A bot's process: real ones, on a real Redis, in meetings that are recordings or go wrong."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.chaos.conftest import Measured
from tests.chaos.workers import until
from tests.contrib.bot.attempts import Attempt, Stage
from tests.contrib.pcm import quiet, tone
from tests.processes import lives

pytestmark = pytest.mark.timeout(120)

IN_ORDER, NOT_WANTED, TERMINATED = 0, 3, 4


async def ended(stage: Stage, attempt: Attempt, *, code: int = IN_ORDER) -> tuple[str, str, bool]:
    """How a bot wants to be remembered, after its process has ended: state, reason, whether it may be tried again."""
    assert await attempt.exit_code() == code, attempt.said()
    ending = (await stage.bot()).ending
    assert ending is not None, attempt.said()
    return ending.state, ending.reason, ending.may_retry


async def states(stage: Stage) -> list[str]:
    """The states that were published, in order."""
    return list(dict.fromkeys(status.state for status in await stage.statuses()))


# ── the whole way ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bot_hears_a_meeting_to_its_end(stage: Stage) -> None:
    name = stage.record("two.wav", [quiet(0.3), tone(1.2), quiet(2.0)], [quiet(2.0), tone(1.0), quiet(0.5)])
    await stage.request(f"file:{name}?lobby=0.2", metadata={"names": "Anna,Ben"}, user_id="carla", language="en")

    attempt = await stage.start()

    assert await ended(stage, attempt) == ("stopped", "meeting_ended", False)
    statuses = await stage.statuses()
    assert [status.sequence for status in statuses] == list(range(len(statuses)))
    assert await states(stage) == [
        "requested", "starting", "joining", "waiting_room", "in_call", "capturing", "leaving",
    ]  # fmt: skip
    assert ["Anna", "Ben"] in [status.participants for status in statuses]
    chunks = await stage.chunks()
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.speaker for chunk in chunks] == ["Anna", "Ben", None]
    assert [chunk.is_last for chunk in chunks] == [False, False, True]
    assert {(chunk.user_id, chunk.source_type, chunk.language) for chunk in chunks} == {("carla", "bot", "en")}
    # A word with all that is before it, and half a second after its end another; the quiet between them is shared out.
    first, second, _ = chunks
    assert first.start == 0.0
    assert second.start - (first.start + (first.duration or 0.0)) == pytest.approx(0.0, abs=0.1)
    assert second.start > 1.5
    assert [entry.chunk for entry in await stage.written()] == chunks


async def test_a_bot_that_was_killed_goes_on_behind_its_last_chunk(stage: Stage) -> None:
    name = stage.record("talk.wav", [part for _ in range(40) for part in (tone(0.7), quiet(0.8))])
    begins = quote(datetime.now(UTC).isoformat())
    await stage.request(f"file:{name}?begins={begins}", metadata={"names": "Anna"})
    first = await stage.start(LEASE_TTL="3")
    await stage.has_chunks(2)
    before = len(await stage.chunks())

    first.send(signal.SIGKILL)
    assert await first.exit_code() == -signal.SIGKILL
    second = await stage.start()
    await stage.has_chunks(before + 4)
    await stage.bots.stop("bot", "requested")

    assert await ended(stage, second) == ("stopped", "requested", False)
    chunks = await stage.chunks()
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    spoken = [chunk.start for chunk in chunks if chunk.speaker == "Anna"]
    assert spoken == sorted(set(spoken))
    # The talk goes by the wall clock, and so does the session: every one and a half seconds there is a word. What comes
    # first from a process may be the rest of one, and what comes last the beginning.
    whole = [start for number, start in enumerate(spoken[:-1]) if number not in {0, before}]
    assert len(whole) > 2
    distances = [(start - whole[0]) / 1.5 for start in whole]
    assert distances == pytest.approx([round(distance) for distance in distances], abs=0.15)
    statuses = await stage.statuses()
    assert [status.state for status in statuses].count("starting") == 2
    assert statuses[-1].attempt == 2


# ── what makes it go ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bot_that_is_asked_to_leaves_and_keeps_the_last_words(stage: Stage, measured: Measured) -> None:
    await stage.request(f"file:{stage.record('long.wav', [tone(30)])}")
    attempt = await stage.start()
    await stage.state("capturing")
    await asyncio.sleep(1)

    asked = time.monotonic()
    await stage.bots.stop("bot", "no_longer_needed")

    assert await ended(stage, attempt) == ("stopped", "no_longer_needed", False)
    measured("seconds from the stop to the end", time.monotonic() - asked)
    assert time.monotonic() - asked < 10
    statuses = await stage.statuses()
    assert (statuses[-1].state, statuses[-1].reason) == ("leaving", "no_longer_needed")
    *spoken, last = await stage.chunks()
    assert last.is_last
    assert sum(chunk.duration or 0 for chunk in spoken) > 1


@pytest.mark.parametrize(("driver", "state"), [("nowhere", "joining"), ("deaf", "joining"), ("lobby", "waiting_room")])
async def test_a_stop_works_before_the_bot_is_in_the_call(stage: Stage, driver: str, state: str) -> None:
    await stage.request("odd:", driver=driver)
    attempt = await stage.start()
    await stage.state(state)
    asked = time.monotonic()

    await stage.bots.stop("bot", "requested")

    assert await ended(stage, attempt) == ("stopped", "requested", False)
    assert time.monotonic() - asked < 10
    assert [chunk.is_last for chunk in await stage.chunks()] == [True]


async def test_a_stop_that_was_there_before_the_process_is_honoured(stage: Stage) -> None:
    await stage.request(f"file:{stage.record('long.wav', [tone(30)])}")
    await stage.bots.change("bot", lambda bot: bot.with_(desired="stopped", stop_reason="early"))

    attempt = await stage.start()

    assert await ended(stage, attempt) == ("stopped", "early", False)
    assert "capturing" not in await states(stage)


async def test_a_way_out_that_never_ends_is_not_waited_for(stage: Stage) -> None:
    await stage.request("odd:", driver="clinging")
    attempt = await stage.start()
    await stage.has_chunks(1)
    asked = time.monotonic()
    await stage.bots.stop("bot", "requested")
    assert await ended(stage, attempt) == ("stopped", "requested", False)
    assert time.monotonic() - asked < 10


async def test_a_terminated_bot_that_is_to_stop_has_ended(stage: Stage) -> None:
    await stage.request("odd:", driver="talk")
    attempt = await stage.start()
    await stage.has_chunks(1)
    # In one go: it has not seen yet that it is to stop.
    await stage.bots.stop("bot", "requested")
    attempt.send(signal.SIGTERM)
    assert await ended(stage, attempt) == ("stopped", "requested", False)


async def test_a_terminated_bot_that_is_to_run_leaves_the_end_to_its_next_process(stage: Stage) -> None:
    await stage.request("odd:", driver="talk")
    first = await stage.start()
    await stage.has_chunks(2)

    first.send(signal.SIGTERM)

    assert await first.exit_code() == TERMINATED, first.said()
    bot = await stage.bot()
    assert (bot.state, bot.ending) == ("capturing", None)
    assert not any(chunk.is_last for chunk in await stage.chunks())
    count = len(await stage.chunks())
    await stage.start()
    await stage.has_chunks(count + 2)
    chunks = await stage.chunks()
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))


@pytest.mark.parametrize(
    ("url", "limits", "reason"),
    [
        ("file:word.wav?lobby=60", {"waiting_room": 1}, "waiting_room_timeout"),
        ("file:word.wav?hold=60", {"silence": 1.5}, "silence"),
        ("file:word.wav?hold=60", {"longest": 2}, "longest"),
    ],
)
async def test_a_bot_leaves_by_itself(stage: Stage, url: str, limits: dict[str, float], reason: str) -> None:
    stage.record("word.wav", [tone(0.5), quiet(0.2)])
    await stage.request(url, automatic_leave=limits)
    attempt = await stage.start()
    assert await ended(stage, attempt) == ("stopped", reason, False)


# ── what cannot be ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"driver": "nowhere"}, "join_timeout"),
        ({"driver": "deaf"}, "join_timeout"),
        ({"driver": "carrier_pigeon"}, "unknown_driver"),
        ({"driver": "missing"}, "driver_unavailable"),
        ({"driver": "talk", "auth_token_ref": "env:PATH"}, "token_unavailable"),
        ({"driver": "talk", "language": "klingon"}, "wrong_request"),
        ({"driver": "file", "meeting_url": "file:../../etc/passwd"}, "no_such_meeting"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_meeting_that_cannot_be_joined_is_a_failure_with_a_reason(
    stage: Stage, wanted: dict[str, str], reason: str
) -> None:
    await stage.request(**({"meeting_url": "odd:"} | wanted))
    attempt = await stage.start(JOIN_TIMEOUT="1")
    assert await ended(stage, attempt) == ("failed", reason, False)


async def test_a_session_of_somebody_else_is_not_spoken_into(stage: Stage) -> None:
    await stage.request("odd:", bot_id="other", driver="talk", session_id="shared")
    await stage.start("other")
    await stage.state("capturing", "other")
    await stage.request("odd:", driver="talk", session_id="shared")
    attempt = await stage.start()
    assert await ended(stage, attempt) == ("failed", "session_taken", False)
    assert "joining" not in await states(stage)
    await stage.has_chunks(len(await stage.chunks("shared")) + 1, "shared")
    assert not any(chunk.is_last for chunk in await stage.chunks("shared"))


@pytest.mark.parametrize(("driver", "reason"), [("broken", "fault"), ("crashed", "browser_crashed")])
async def test_a_driver_that_fails_may_be_tried_again_in_the_same_session(
    stage: Stage, driver: str, reason: str
) -> None:
    await stage.request("odd:", driver=driver)
    first = await stage.start(MAX_ATTEMPTS="2")
    assert await ended(stage, first) == ("failed", reason, True)
    assert not any(chunk.is_last for chunk in await stage.chunks())

    second = await stage.start(MAX_ATTEMPTS="2")

    assert await ended(stage, second) == ("failed", reason, True)
    chunks = await stage.chunks()
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))


async def test_what_a_driver_cannot_end_ends_with_the_bot(stage: Stage, tmp_path: Path) -> None:
    note = tmp_path / "child"
    await stage.request("odd:", driver="littering", metadata={"note": str(note)})
    attempt = await stage.start()
    await stage.has_chunks(1)
    child = int(note.read_text())
    assert lives(child)

    await stage.bots.stop("bot", "requested")

    assert await ended(stage, attempt, code=-signal.SIGKILL) == ("stopped", "requested", False)
    await until(lambda: not lives(child), 10)
    assert (await stage.chunks())[-1].is_last


# ── what must not be told ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_is_in_no_log_no_status_and_no_chunk(stage: Stage, tmp_path: Path) -> None:
    token = 'open "sesame" & co'
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "meet").write_text(f"{token}\n")
    await stage.request("odd:", driver="broken", auth_token_ref="file:meet")

    attempt = await stage.start(TOKEN_FOLDER=str(tmp_path / "tokens"))

    assert await ended(stage, attempt) == ("failed", "fault", True)
    [fault] = attempt.logged("bot.fault")
    # It was there, or this would prove nothing.
    assert "https://meet.example/?jwt=***" in fault["exception"]
    stored = str(await stage.bot()) + str(await stage.statuses()) + str(await stage.chunks())
    for form in (token, quote(token), "sesame"):
        assert form not in attempt.said()
        assert form not in stored


async def test_a_token_that_a_driver_gives_as_a_reason_is_in_no_status(stage: Stage) -> None:
    await stage.request("odd:", driver="leaky", auth_token_ref="env:STREAMTASK_BOT_TOKEN_MEET")
    attempt = await stage.start(TOKEN_MEET="sesame")
    assert await ended(stage, attempt) == ("stopped", "refused_***", False)
    statuses = await stage.statuses()
    assert (statuses[-1].reason, statuses[-1].sub_code) == ("refused_***", "***")
    assert "sesame" not in attempt.said() + str(await stage.bot())


async def test_the_log_tells_what_has_happened(stage: Stage) -> None:
    name = stage.record("two.wav", [tone(0.5), quiet(1.5)], [quiet(2)])
    await stage.request(f"file:{name}", metadata={"names": "Anna,Ben"})
    attempt = await stage.start()
    await attempt.exit_code()
    assert [line["state"] for line in attempt.logged("bot.state")] == ["joining", "in_call", "capturing", "leaving"]
    assert [line["participant"] for line in attempt.logged("bot.joined")] == ["Anna", "Ben"]
    assert [line["participant"] for line in attempt.logged("bot.left")] == ["Anna", "Ben"]
    assert [line["speaker"] for line in attempt.logged("tracks.chunk")] == ["Anna", None]
    [leaves] = attempt.logged("bot.leaves")
    assert "meeting_ended" in leaves["ending"]
