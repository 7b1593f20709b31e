"""The recipe for Jitsi, in a page that has of Jitsi Meet's what the recipe looks at; no server of it was in reach."""

from __future__ import annotations

import pytest
from streamtask_contrib.bot.drivers.port import Admitted, JoinError, WaitingRoom

from tests.contrib.bot.drivers.listening import Listening, channels, likeness_by_parts, measured

pytestmark = pytest.mark.timeout(120)


async def host(meeting: Listening, does: str) -> None:
    await meeting.driver._window._shown.evaluate(f"{does}()")


async def test_each_participant_is_heard_under_the_name_of_its_tile(driver_for, site):
    async with Listening(driver_for("/jitsi.html", recipe="jitsi")) as meeting:
        await meeting.until(lambda: min(map(meeting.seconds, ("Alice", "Bob"))) > 6)
        assert sorted(meeting.present) == ["Alice", "Bob", "Silent Sue"]
        figures = [
            round(likeness_by_parts(meeting.samples(name), said[: 5 * 16_000], seconds=1), 2)
            for name, said in zip(("Alice", "Bob"), channels(), strict=True)
        ]
        measured(alike=figures)
        assert min(figures) > 0.8
        await meeting.driver.leave()
    assert dict(site.told) == {"left": ""}


async def test_a_page_of_jitsi_at_any_host_is_recognised_and_opened_as_jitsi(driver_for, site):
    async with Listening(driver_for("/jitsi.html")) as meeting:
        await meeting.until(lambda: "Silent Sue" in meeting.present)
        assert meeting.driver._recipe.name == "jitsi"
    assert dict(site.told) == {}


async def test_the_page_before_the_meeting_is_filled_in_in_any_language(driver_for, site):
    async with Listening(driver_for("/jitsi.html?prejoin", recipe="jitsi")) as meeting:
        await meeting.until(lambda: "Alice" in meeting.present)
    assert dict(site.told)["name"] == "Streamtask bot"


async def test_the_lobby_is_a_waiting_room_until_the_host_lets_the_bot_in(driver_for, site):
    async with Listening(driver_for("/jitsi.html?lobby", recipe="jitsi")) as meeting:
        await meeting.until(lambda: meeting.all(WaitingRoom))
        assert dict(site.told)["knocked"] == "Streamtask bot"
        assert len(meeting.happened) == 1
        await host(meeting, "admit")
        await meeting.until(lambda: "Alice" in meeting.present)
        assert [type(each) for each in meeting.happened[:2]] == [WaitingRoom, Admitted]


@pytest.mark.parametrize(
    ("query", "does", "reason"), [("?lobby", "reject", "denied"), ("", "kick", "removed"), ("", "end", "meeting_ended")]
)
async def test_what_the_host_does_ends_the_call_for_its_reason(driver_for, query, does, reason):
    async with Listening(driver_for(f"/jitsi.html{query}", recipe="jitsi")) as meeting:
        await meeting.until(lambda: meeting.all(Admitted, WaitingRoom))
        await host(meeting, does)
        await meeting.over()
        assert meeting.ended == [reason]


async def test_a_meeting_with_a_password_refuses_the_bot(driver_for):
    with pytest.raises(JoinError) as refused:
        async with Listening(driver_for("/jitsi.html?password", recipe="jitsi")):
            pass
    assert refused.value.reason == "password_required"
