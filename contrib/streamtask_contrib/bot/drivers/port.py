"""What a bot asks of a driver, which is its way into one meeting, and what a driver tells the bot.

A driver knows one kind of meeting and nothing of streams, records, states or time limits. Its bot calls `join`, goes
through `happenings` to their end, calls `leave` where it wants to go, and `close` in any case. Other packages bring
drivers by entry points of the group `streamtask.bot_drivers`: a callable that takes `Invitation` and gives a `Driver`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

#: Samples a second of what drivers hear: 16 bits, little endian, one channel.
RATE = 16_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Which meeting, and how to be there."""

    meeting_url: str
    #: Name that the others see.
    display_name: str
    #: See `BotRequested.recipe`.
    recipe: str = "auto"
    token: SecretStr | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: An empty folder of the bot, removed after it.
    folder: Path


@dataclass(frozen=True, slots=True)
class WaitingRoom:
    """Somebody has to let the bot in."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The bot is in the call."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Somebody else is in the call. The id is the driver's: one person that comes again may have another."""

    participant: str
    name: str


@dataclass(frozen=True, slots=True)
class Left:
    """Somebody has left the call."""

    participant: str


@dataclass(frozen=True, slots=True)
class Heard:
    """Samples of one participant. `at`: seconds since the driver was made, of the first sample."""

    participant: str
    at: float
    pcm: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The meeting is over for the bot. `reason`: such as "meeting_ended", "removed", "denied"."""

    reason: str
    sub_code: str = ""
    #: It is the driver that has come to its end, not the meeting: a new process may have more luck.
    is_fault: bool = False


Happening = WaitingRoom | Admitted | Joined | Left | Heard | Ended


class JoinError(Exception):
    """The meeting cannot be joined. The message is for people, and has no secret in it."""

    def __init__(self, reason: str, message: str, *, may_retry: bool = False) -> None:
        """`reason`: for programs, such as "no_such_meeting"; `may_retry`: a new process may have more luck."""
        super().__init__(message)
        self.reason = reason
        self.may_retry = may_retry


class Driver(Protocol):
    """One bot's way into one meeting. Every method may be cancelled."""

    async def join(self) -> None:
        """Go there and ask to be let in. Raises `JoinError`."""

    def happenings(self) -> AsyncIterator[Happening]:
        """What happens from then on, until `Ended` or the driver's end. Participants are told before their sound."""

    async def leave(self) -> None:
        """Leave as a person does, so that nobody sees a ghost. What was heard so far is still given by `happenings`."""

    async def close(self) -> None:
        """End all that was started. May be called at any time, and again."""


#: How a driver is made.
DriverFactory = Callable[[Invitation], Driver]
