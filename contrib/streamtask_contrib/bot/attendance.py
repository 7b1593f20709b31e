"""A bot in its meeting: what its driver tells becomes states, participants and chunks, until there is a reason to go.

Its three parts run side by side (`attend`, `deliver`, `look`), and return or raise why it is over; whoever runs them
sees to the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from streamtask_contrib.bot import drivers
from streamtask_contrib.bot.drivers.port import (
    Admitted,
    Driver,
    Ended,
    Happening,
    Heard,
    Invitation,
    Joined,
    JoinError,
    Left,
    WaitingRoom,
)
from streamtask_contrib.bot.leaving import Leaving, Look
from streamtask_contrib.bot.logbook import Secrets
from streamtask_contrib.bot.references import TokenError, resolve
from streamtask_contrib.bot.reporting import Reporter, insisted
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.capture.tracks import SessionEndedError, Tracks
from streamtask_contrib.events import BotRequested

log = logging.getLogger(__name__)

#: Seconds between two looks whether it is time to go.
_LOOK = 0.5
#: Seconds that a driver has for ending what it is at, when it is cancelled.
_CANCELLED = 0.5
#: Of a driver that gives nothing more, and does not say why.
_DRIVER_ENDED = Ended("meeting_ended", "driver_ended")
#: Seconds of sound that may wait for the broker, all participants together: some 60 MB.
_MOST_WAITING = 1800.0


class BehindError(Exception):
    """More sound waits to be stored than may."""


class Attendance:
    """One bot's time in one meeting, by one process."""

    def __init__(
        self, request: BotRequested, *, settings: BotSettings, tracks: Tracks, reporter: Reporter, secrets: Secrets
    ) -> None:
        self._request = request
        self._settings = settings
        self._tracks = tracks
        self._reporter = reporter
        self._secrets = secrets
        self._cut = asyncio.Event()
        #: Participant → the label of what they say.
        self._participants: dict[str, str] = {}
        self._is_in_call = False
        self._is_leaving = False
        self._has_speech = False
        #: Seconds of the session that were over when this process came into the call; None before.
        self._in_call_before: float | None = None
        self._made_at = 0.0
        #: Seconds of the session at the driver's second 0.
        self._zero = 0.0
        #: None until it is made; `is_joined` once it has asked to be let in.
        self.driver: Driver | None = None
        self.is_joined = False
        self.last_audio: datetime | None = None

    # ── the meeting ───────────────────────────────────────────────────────────────────────────────────────────

    async def attend(self, folder: Path) -> Ended:
        """Join, and be there until the meeting is over. `folder`: an empty one.

        Raises:
            JoinError: the meeting cannot be joined; also where that takes longer than `join_timeout`.
            SessionTakenError, SessionEndedError: the session is not for this bot's sound.
        """
        await insisted(self._tracks.open)
        if self._tracks.is_ended:
            raise SessionEndedError("the session has its last chunk")
        self._reporter.tell("joining")
        first, rest = await self._joined(folder)
        if (ended := await self._happened(first)) is not None:
            return ended
        async for happening in rest:
            if (ended := await self._happened(happening)) is not None:
                return ended
        return _DRIVER_ENDED

    async def _joined(self, folder: Path) -> tuple[Happening, AsyncIterator[Happening]]:
        """What happens first, the waiting room or the call, and what happens then. Raises `JoinError`."""
        joining = asyncio.create_task(self._join(folder))
        limit = self._settings.join_timeout
        try:
            # Not by `timeout`: it would wait for a driver that cannot be cancelled.
            done, _ = await asyncio.wait([joining], timeout=limit)
            if not done:
                raise JoinError("join_timeout", f"neither a waiting room nor a call within {limit:g} s")
            return joining.result()
        finally:
            joining.cancel()
            await asyncio.wait([joining], timeout=_CANCELLED)

    async def _join(self, folder: Path) -> tuple[Happening, AsyncIterator[Happening]]:
        driver = await self._made(folder)
        await driver.join()
        self.is_joined = True
        happenings = driver.happenings()
        return await anext(happenings, _DRIVER_ENDED), happenings

    async def _made(self, folder: Path) -> Driver:
        """The driver. Whatever may block is done in threads."""
        token = None
        try:
            token = await asyncio.to_thread(resolve, self._request.auth_token_ref, self._settings)
        except TokenError as error:
            raise JoinError("token_unavailable", str(error)) from None
        if token is not None:
            self._secrets.add(token)
        make = await asyncio.to_thread(drivers.find, self._request.driver)
        invitation = Invitation(
            meeting_url=self._request.meeting_url,
            display_name=self._request.display_name,
            recipe=self._request.recipe,
            token=token,
            metadata=self._request.metadata,
            folder=folder,
        )
        self._made_at = time.monotonic()
        self.driver = make(invitation)
        return self.driver

    async def _happened(self, happening: Happening) -> Ended | None:
        match happening:
            case Heard():
                await self._hear(happening)
            case WaitingRoom():
                self._is_in_call = False
                self._tell("waiting_room")
            case Admitted():
                await self._enter()
            case Joined():
                await self._enter()
                self._participants[happening.participant] = self._tracks.join(happening.participant, happening.name)
                self._people_changed("bot.joined", self._participants[happening.participant])
            case Left():
                if (label := self._participants.pop(happening.participant, None)) is not None:
                    self._tracks.leave(happening.participant)
                    self._cut.set()
                    self._people_changed("bot.left", label)
            case Ended():
                return happening
        return None

    async def _enter(self) -> None:
        if self._in_call_before is None:
            await insisted(self._tracks.start_clock)
            self._in_call_before = self._tracks.now
            self._zero = self._tracks.now - (time.monotonic() - self._made_at)
        if not self._is_in_call:
            self._is_in_call = True
            self._tell("in_call")

    async def _hear(self, heard: Heard) -> None:
        if heard.participant not in self._participants:
            # Of one who has just left: their sound has taken longer than the news.
            log.debug("bot.unknown_participant", extra={"participant": heard.participant})
            return
        self.last_audio = datetime.now(UTC)
        self._tell("capturing")
        self._tracks.feed(heard.participant, self._zero + heard.at, heard.pcm)
        self._has_speech = self._has_speech or self._tracks.is_anyone_speaking
        if self._tracks.waiting:
            self._cut.set()
            if self._tracks.waiting > _MOST_WAITING:
                raise BehindError(f"more than {_MOST_WAITING:g} s of sound wait to be stored")
            # Nothing else here waits, and others want to run, too.
            await asyncio.sleep(0)

    def _tell(self, state: Literal["waiting_room", "in_call", "capturing"]) -> None:
        if not self._is_leaving:
            self._reporter.tell(state)

    def _people_changed(self, event: str, label: str) -> None:
        log.info(event, extra={"participant": label, "participants": len(self._participants)})
        if not self._is_leaving:
            self._reporter.tell_participants(list(self._participants.values()))

    # ── beside it ─────────────────────────────────────────────────────────────────────────────────────────────

    async def deliver(self) -> None:
        """Send chunks as they are cut, until cancelled. Raises `SessionEndedError`."""
        while True:
            await self._cut.wait()
            self._cut.clear()
            await insisted(self._tracks.write)

    async def look(self) -> str:
        """Look again and again whether it is time to go; the reason."""
        leaving = Leaving(self._request.automatic_leave)
        while True:
            await asyncio.sleep(_LOOK)
            self._tracks.flush_stalled()
            if self._tracks.waiting:
                self._cut.set()
            seen = Look(
                at=time.monotonic(),
                is_waiting=self._reporter.state == "waiting_room",
                is_in_call=self._is_in_call,
                participants=len(self._participants),
                has_speech=self._has_speech,
            )
            self._has_speech = False
            if (reason := leaving.see(seen, in_call_before=self._in_call_before or 0.0)) is not None:
                return reason

    def goes(self) -> None:
        """It is leaving: who comes and goes from now on is of no interest, what was said still is."""
        self._is_leaving = True
