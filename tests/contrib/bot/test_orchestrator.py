from __future__ import annotations

from tests.contrib.bot.meetings import Meetings
from tests.chaos.workers import until


async def test_a_bot_is_started_once_and_stopped_when_asked(meetings: Meetings) -> None:
    await meetings.worker()
    await meetings.request("b1")
    await meetings.reach("capturing", "b1")
    await meetings.stop("b1")
    await meetings.reach("stopped", "b1")

    assert await meetings.states("b1") == [
        "requested", "starting", "joining", "in_call", "capturing", "leaving", "stopped",
    ]
    assert meetings.everything() == []
    assert meetings.most["b1"] == 1
