"""A bot in its meeting: what a driver tells, in whatever order, becomes states, people and sound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("pydantic_settings", reason="the extra `bot` is not installed")

from streamtask_contrib.bot import attendance as module
from streamtask_contrib.bot import drivers
from streamtask_contrib.bot.attendance import Attendance, BehindError
from streamtask_contrib.bot.drivers.port import (
    Admitted,
    Ended,
    Happening,
    Heard,
    Invitation,
    Joined,
    JoinError,
    Left,
    WaitingRoom,
)
from streamtask_contrib.bot.logbook import Secrets
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.capture.tracks import SessionEndedError, Tracks, tracks_of
from streamtask_contrib.events import AutomaticLeave, BotRequested

from streamtask import App
from tests.contrib.pcm import quiet, tone

ANNA, BEN = Joined("a", "Anna"), Joined("b", "Ben")


class Told:
    """In place of a reporter: what it is told."""

    def __init__(self) -> None:
        self.state = "starting"
        self.states: list[str] = []
        self.people: list[list[str]] = []

    def tell(self, state: str, **_: str) -> None:
        if state != self.state:
            self.states.append(state)
            self.state = state

    def tell_participants(self, names: Sequence[str]) -> None:
        self.people.append(list(names))


class Scripted:
    """A driver that tells what it was given."""

    def __init__(self, happenings: Sequence[Happening]) -> None:
        self._happenings = happenings
        self.invitation: Invitation | None = None

    def __call__(self, invitation: Invitation) -> Scripted:
        self.invitation = invitation
        return self

    async def join(self) -> None:
        pass

    async def happenings(self) -> AsyncIterator[Happening]:
        for happening in self._happenings:
            yield happening

    async def leave(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Meeting:
    """One attendance of a scripted meeting."""

    def __init__(
        self, app: App, monkeypatch: pytest.MonkeyPatch, happenings: Sequence[Happening], **limits: float
    ) -> None:
        self.told = Told()
        self.driver = Scripted(happenings)
        monkeypatch.setattr(drivers, "find", lambda name: self.driver)
        request = BotRequested(
            bot_id="bot",
            session_id="talk",
            meeting_url="odd:",
            display_name="Minutes",
            automatic_leave=AutomaticLeave(**limits),
        )
        self.tracks: Tracks = tracks_of(app, request, BotSettings())
        self.attendance = Attendance(
            request,
            settings=BotSettings(join_timeout=0.5),
            tracks=self.tracks,
            reporter=self.told,  # type: ignore[arg-type]  # what it needs of one
            secrets=Secrets(),
        )

    async def attend(self) -> Ended:
        return await asyncio.wait_for(self.attendance.attend(Path("/nowhere")), 10)


def said(participant: str, at: float, pcm: bytes) -> list[Heard]:
    """In portions of half a second."""
    return [
        Heard(participant, at + place / 32_000, pcm[place : place + 16_000]) for place in range(0, len(pcm), 16_000)
    ]


@pytest.fixture
async def app(broker: str) -> AsyncIterator[App]:
    async with App("test", broker=broker) as connected:
        yield connected


async def test_states_follow_what_happens(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    happenings = [
        WaitingRoom(), Admitted(), ANNA, *said("a", 0, quiet(0.5)), WaitingRoom(), Admitted(),
        *said("a", 9, quiet(0.5)), Ended("removed", "by_host"),
    ]  # fmt: skip
    meeting = Meeting(app, monkeypatch, happenings)
    assert await meeting.attend() == Ended("removed", "by_host")
    assert meeting.told.states == [
        "joining", "waiting_room", "in_call", "capturing", "waiting_room", "in_call", "capturing",
    ]  # fmt: skip
    assert meeting.driver.invitation is not None
    assert meeting.driver.invitation.display_name == "Minutes"


async def test_people_are_told_by_the_label_of_what_they_say(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Joined("c", "Anna")
    meeting = Meeting(app, monkeypatch, [Admitted(), ANNA, BEN, other, Left("a"), Left("a"), Joined("b", "Benjamin")])
    # It has said nothing of an end, and gives nothing more.
    assert await meeting.attend() == Ended("meeting_ended", "driver_ended")
    assert meeting.told.people == [
        ["Anna"],
        ["Anna", "Ben"],
        ["Anna", "Ben", "Anna (2)"],
        ["Ben", "Anna (2)"],
        ["Benjamin", "Anna (2)"],
    ]


async def test_who_is_there_before_the_bot_was_let_in_lets_it_in(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = Meeting(app, monkeypatch, [ANNA])
    await meeting.attend()
    assert meeting.told.states == ["joining", "in_call"]


async def test_the_last_words_of_one_who_has_left_are_kept_and_what_comes_after_is_passed_over(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = said("a", 1.0, tone(0.5))
    meeting = Meeting(app, monkeypatch, [Admitted(), ANNA, *said("a", 0, tone(1.0)), Left("a"), *late])
    await meeting.attend()
    assert meeting.tracks.waiting == pytest.approx(1.0, abs=0.1)


async def test_what_is_told_while_it_leaves_changes_no_state(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = Meeting(app, monkeypatch, [Admitted(), ANNA, *said("a", 0, tone(1.0)), Left("a")])
    meeting.attendance.goes()
    await meeting.attend()
    assert meeting.told.states == ["joining"]
    assert meeting.told.people == []
    assert meeting.tracks.waiting, "and is heard"


async def test_more_sound_than_may_wait_is_a_fault(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 3.0)
    words = [heard for n in range(6) for heard in said("a", n * 2.0, tone(1.0) + quiet(1.0))]
    meeting = Meeting(app, monkeypatch, [Admitted(), ANNA, *words])
    with pytest.raises(BehindError):
        await meeting.attend()


async def test_a_call_that_nothing_is_heard_of_was_not_joined(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = Meeting(app, monkeypatch, [])

    async def silent() -> AsyncIterator[Happening]:
        await asyncio.Event().wait()
        yield Admitted()

    monkeypatch.setattr(meeting.driver, "happenings", silent)
    with pytest.raises(JoinError) as error:
        await meeting.attend()
    assert error.value.reason == "join_timeout"


async def test_a_session_that_is_over_is_not_gone_on_with(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Meeting(app, monkeypatch, [Admitted(), Ended("meeting_ended")])
    await first.attend()
    await first.tracks.end()
    second = Meeting(app, monkeypatch, [Admitted()])
    with pytest.raises(SessionEndedError):
        await second.attend()
    assert second.told.states == []


async def test_it_says_when_it_is_time_to_go(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.01)
    meeting = Meeting(app, monkeypatch, [Admitted(), ANNA, Left("a")], everyone_left=0.2)
    await meeting.attend()
    # Nobody was seen in the call before it looked for the first time.
    meeting.attendance._participants["x"] = "Anna"
    looking = asyncio.create_task(meeting.attendance.look())
    await asyncio.sleep(0.3)
    assert not looking.done()
    meeting.attendance._participants.clear()
    assert await asyncio.wait_for(looking, 5) == "everyone_left"
