"""The driver `file`: a recording is played as a meeting of which each channel is a participant; for tests and demos.

`file:NAME.wav?speed=4`, the same as `recording:…`, plays a WAV (16 bits, 16 kHz) from the folder of the recordings, and
nothing else: what an event names is foreign input. The participants are called as `metadata["names"]` says ("Ada,Ben"),
else by who speaks in `NAME.json`, in order, else by number. In the address:

    speed=4         faster than life; moments are those of the recording
    lobby=2         seconds in the waiting room
    hold=60         the meeting goes on for so many seconds after the recording
    begins=2026-…   when somebody else comes, ISO 8601: a bot that is there later, or again, hears the rest
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import wave
from array import array
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from streamtask_contrib.bot.drivers.port import (
    RATE,
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
from streamtask_contrib.bot.folders import OutsideError, file_in
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.settings import from_environment

#: Seconds of a portion.
_PORTION = 0.1
_WIDTH = 2
_FASTEST, _LONGEST_WAIT = 1000.0, 86_400.0
_SCHEMES = ("file", "recording")


def make_driver(invitation: Invitation) -> FileDriver:
    """The driver, with the folder of the recordings as the environment names it."""
    return FileDriver(invitation, folder=from_environment(BotSettings).recordings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What the address says beside the name."""

    speed: float = 1.0
    lobby: float = 0.0
    hold: float = 0.0
    begins: datetime | None = None


class FileDriver:
    """A `Driver`."""

    def __init__(self, invitation: Invitation, *, folder: Path | None) -> None:
        self._invitation = invitation
        self._folder = folder
        self._made_at = time.monotonic()
        self._leaves = asyncio.Event()
        self._options = _Options()
        self._file: wave.Wave_read | None = None
        self._names: list[str] = []

    async def join(self) -> None:
        """See `Driver.join`."""
        name, self._options = _parsed(self._invitation.meeting_url)
        if self._folder is None:
            raise JoinError("no_recordings", "there is no folder of recordings: set STREAMTASK_BOT_RECORDINGS")
        try:
            path = file_in(self._folder, name)
        except OutsideError as error:
            raise JoinError("no_such_meeting", str(error)) from None
        self._file = await asyncio.to_thread(_opened, path)
        given = self._invitation.metadata.get("names", "").split(",")
        names = [each.strip() for each in given if each.strip()] or await asyncio.to_thread(_told, path)
        channels = self._file.getnchannels()
        self._names = [names[n] if n < len(names) else f"Speaker {n + 1}" for n in range(channels)]

    async def happenings(self) -> AsyncIterator[Happening]:
        """See `Driver.happenings`."""
        if self._options.lobby:
            yield WaitingRoom()
            await self._sleep_until(time.monotonic() + self._options.lobby)
        if not self._leaves.is_set():
            yield Admitted()
            await self._sleep_until(time.monotonic() - self._over)
            for number, name in enumerate(self._names):
                yield Joined(str(number), name)
            async for heard in self._played():
                yield heard
            await self._sleep_until(time.monotonic() + self._options.hold)
            for number in range(len(self._names)):
                yield Left(str(number))
        yield Ended("left" if self._leaves.is_set() else "meeting_ended")

    async def leave(self) -> None:
        """See `Driver.leave`."""
        self._leaves.set()

    async def close(self) -> None:
        """See `Driver.close`."""
        self._leaves.set()
        file, self._file = self._file, None
        if file is not None:
            file.close()

    @property
    def _over(self) -> float:
        """Seconds of the meeting that are over; below 0 where it has not begun."""
        begins = self._options.begins
        return 0.0 if begins is None else (datetime.now(UTC) - begins).total_seconds()

    async def _played(self) -> AsyncIterator[Heard]:
        """The recording, at its pace."""
        file, speed = self._file, self._options.speed
        if file is None:
            return
        file.setpos(min(max(0, round(self._over * speed * RATE)), file.getnframes()))
        portion = round(_PORTION * RATE)
        began, played = time.monotonic(), 0
        while pcm := await asyncio.to_thread(file.readframes, portion):
            # A portion is heard when it has been said.
            at = began - self._made_at + played / RATE
            frames = len(pcm) // _WIDTH // len(self._names)
            played += frames
            await self._sleep_until(began + played / RATE / speed)
            if self._leaves.is_set():
                return
            for number, samples in enumerate(_channels(pcm, len(self._names), frames)):
                yield Heard(str(number), at, samples)

    async def _sleep_until(self, moment: float) -> None:
        """Sleep, but not for longer than the bot stays."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, moment - time.monotonic())):
                await self._leaves.wait()


def _parsed(address: str) -> tuple[str, _Options]:
    """The recording's name, and the options. Raises `JoinError`."""
    parts = urlsplit(address)
    name = unquote(parts.path)
    if parts.scheme not in _SCHEMES or parts.netloc or not name or parts.fragment:
        raise JoinError("wrong_address", "a recording's address is file:NAME.wav or recording:NAME.wav?speed=2")
    read: Mapping[str, Callable[[str], float | datetime]] = {
        "speed": lambda text: _number(text, least=1.0, most=_FASTEST),
        "lobby": lambda text: _number(text, least=0.0, most=_LONGEST_WAIT),
        "hold": lambda text: _number(text, least=0.0, most=_LONGEST_WAIT),
        "begins": _moment,
    }
    options: dict[str, float | datetime] = {}
    for key, text in parse_qsl(parts.query):
        try:
            options[key] = read[key](text)
        except (KeyError, ValueError) as error:
            raise JoinError("wrong_address", f"{key}={text} in the recording's address: {error}") from None
    return name, _Options(**options)  # type: ignore[arg-type]  # each was read as what it is


def _number(text: str, *, least: float, most: float) -> float:
    number = float(text)
    if not (math.isfinite(number) and least <= number <= most):
        raise ValueError(f"from {least:g} to {most:g}")
    return number


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a moment needs a time zone, such as Z")
    return moment


def _opened(path: Path) -> wave.Wave_read:
    try:
        file = wave.open(str(path), "rb")  # noqa: SIM115 - closed by `close`
    except (wave.Error, EOFError, OSError) as error:
        raise JoinError("no_such_meeting", f"{path.name} is no WAV that can be read: {error}") from None
    if file.getsampwidth() != _WIDTH or file.getframerate() != RATE:
        bits, rate = 8 * file.getsampwidth(), file.getframerate()
        file.close()
        raise JoinError(
            "wrong_recording",
            f"{path.name} has {bits} bits at {rate} Hz; a recording has 16 bits at {RATE} Hz: "
            f"ffmpeg -i {path.name} -c:a pcm_s16le -ar {RATE} converted.wav",
        )
    return file


def _told(path: Path) -> list[str]:
    """Who speaks, by the lines beside the recording, in the order in which they begin; nobody without lines."""
    for beside in (path.with_suffix(".json"), path.with_name(f"{path.stem.removesuffix('-stereo')}.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            return list(dict.fromkeys(str(line["speaker"]) for line in json.loads(beside.read_text())))
    return []


def _channels(pcm: bytes, count: int, frames: int) -> list[bytes]:
    # A file that was cut off may end in the middle of a frame.
    samples = array("h", pcm[: frames * count * _WIDTH])
    return [samples[number::count].tobytes() for number in range(count)]
