"""Drivers that do their worst, for bots' processes: found by entry points, as those of other packages are."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from streamtask_contrib.bot.drivers.port import (
    Admitted,
    Ended,
    Happening,
    Heard,
    Invitation,
    Joined,
    JoinError,
    WaitingRoom,
)

from tests.contrib.pcm import quiet, tone

NAMES = (
    "nowhere", "deaf", "lobby", "blocked", "seized", "broken", "crashed", "leaky", "clinging", "littering", "talk",
)  # fmt: skip


def install(site: Path) -> None:
    """Make them known to a Python that has this folder on its path."""
    folder = site / "odd_drivers-1.0.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-drivers\nVersion: 1.0\n")
    points = [f"{name} = tests.contrib.bot.odd_drivers:make_{name}" for name in NAMES]
    missing = "missing = tests.contrib.bot.there_is_no_such_module:make_driver"
    (folder / "entry_points.txt").write_text("\n".join(["[streamtask.bot_drivers]", *points, missing, ""]))


class Talk:
    """Anna speaks for ever: a word, and a pause."""

    def __init__(self, invitation: Invitation) -> None:
        self.invitation = invitation
        self.made = time.monotonic()
        self.leaves = asyncio.Event()

    async def join(self) -> None:
        pass

    async def happenings(self) -> AsyncIterator[Happening]:
        yield Admitted()
        yield Joined("a", "Anna")
        while not self.leaves.is_set():
            for pcm in (tone(0.5), quiet(0.5), quiet(0.5)):
                at = time.monotonic() - self.made
                await asyncio.sleep(0.5)
                yield Heard("a", at, pcm)
                self.worst()
        yield Ended("left")

    def worst(self) -> None:
        """What happens after each half second."""

    async def leave(self) -> None:
        self.leaves.set()

    async def close(self) -> None:
        pass


class Nowhere(Talk):
    """The page never loads."""

    async def join(self) -> None:
        await asyncio.Event().wait()


class Deaf(Talk):
    """As above, and it cannot be cancelled."""

    async def join(self) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue


class Lobby(Talk):
    """Nobody lets the bot in."""

    async def happenings(self) -> AsyncIterator[Happening]:
        yield WaitingRoom()
        await self.leaves.wait()


class After(Talk):
    """Does its worst in the third second."""

    def worst(self) -> None:
        if time.monotonic() - self.made > 2.0:
            self.do()

    def do(self) -> None:
        raise NotImplementedError


class Blocked(After):
    def do(self) -> None:
        time.sleep(600)  # a driver's own thread would not be worth a test


class Seized(After):
    def do(self) -> None:
        re.match(r"(a+)+$", "a" * 64 + "b")


class Broken(After):
    def do(self) -> None:
        token = self.invitation.token
        raise RuntimeError(f"the page https://meet.example/?jwt={token and token.get_secret_value()} is gone")


class Crashed(Talk):
    async def happenings(self) -> AsyncIterator[Happening]:
        yield Admitted()
        yield Ended("browser_crashed", is_fault=True)


class Leaky(Talk):
    """Tells its token, where only reasons are to be told."""

    async def happenings(self) -> AsyncIterator[Happening]:
        yield Admitted()
        token = self.invitation.token
        assert token is not None
        yield Ended(f"refused_{token.get_secret_value()}", token.get_secret_value())


class Clinging(Talk):
    """Its way out never ends."""

    async def leave(self) -> None:
        await asyncio.Event().wait()


class Littering(Talk):
    """Starts a process, and cannot end it."""

    def __init__(self, invitation: Invitation) -> None:
        super().__init__(invitation)
        program = "import time; time.sleep(600)"
        self.child = subprocess.Popen([sys.executable, "-c", program])
        (Path(invitation.metadata["note"])).write_text(str(self.child.pid))

    async def close(self) -> None:
        raise JoinError("stuck", "it does not end")


def _maker(kind: type[Talk]) -> Callable[[Invitation], Talk]:
    return kind


make_nowhere, make_deaf, make_lobby, make_blocked = _maker(Nowhere), _maker(Deaf), _maker(Lobby), _maker(Blocked)
make_seized, make_broken, make_crashed, make_clinging = (
    _maker(Seized),
    _maker(Broken),
    _maker(Crashed),
    _maker(Clinging),
)
make_littering, make_talk, make_leaky = _maker(Littering), _maker(Talk), _maker(Leaky)
