"""A bot's process: real ones, on a real Redis, in meetings that are recordings."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from tests.contrib.api.serving import quiet, tone
from tests.contrib.bot.attempts import Stage


async def test_a_bot_hears_a_meeting_to_its_end(stage: Stage) -> None:
    name = stage.record("two.wav", [quiet(0.5), tone(1.0), quiet(2.0)], [quiet(2.0), tone(1.0), quiet(0.5)])
    await stage.request(f"file:{name}?lobby=0.2", metadata={"names": "Anna,Ben"})

    attempt = await stage.start()

    assert await attempt.exit_code() == 0, attempt.said()
    bot = await stage.bot()
    assert bot.ending is not None
    assert (bot.ending.state, bot.ending.reason) == ("stopped", "meeting_ended")
    statuses = await stage.statuses()
    assert [status.sequence for status in statuses] == list(range(len(statuses)))
    states = list(dict.fromkeys(status.state for status in statuses))
    assert states == ["requested", "starting", "joining", "waiting_room", "in_call", "capturing", "leaving"]
    assert ["Anna", "Ben"] in [status.participants for status in statuses]
    chunks = await stage.chunks()
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.speaker for chunk in chunks] == ["Anna", "Ben", None]
    assert [chunk.is_last for chunk in chunks] == [False, False, True]


async def test_a_bot_that_was_killed_goes_on_behind_its_last_chunk(stage: Stage) -> None:
    talk = [part for _ in range(12) for part in (tone(0.7), quiet(0.8))]
    name = stage.record("talk.wav", talk)
    began = datetime.now(UTC) + timedelta(seconds=1)
    await stage.request(f"file:{name}?began={quote(began.isoformat())}", metadata={"names": "Anna"})
    first = await stage.start()
    await stage.has_chunks(3)

    first.send(signal.SIGKILL)
    assert await first.exit_code() == -signal.SIGKILL
    second = await stage.start()

    assert await second.exit_code() == 0, second.said()
    chunks = await stage.chunks()
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    starts = [chunk.start for chunk in chunks]
    assert starts == sorted(starts)
    # The talk goes by the wall clock, and so does the session: what is said at 1.5 s, 3 s, ... stands there.
    spoken = [chunk.start for chunk in chunks if chunk.speaker == "Anna"]
    assert all(abs((start + 0.3) % 1.5 - 0.3) < 0.5 for start in spoken), spoken
    assert len(set(spoken)) == len(spoken)
    states = [status.state for status in await stage.statuses()]
    assert states.count("starting") == 2
    assert {status.attempt for status in (await stage.statuses())[-3:]} == {2}
