"""A bot's process without a meeting: it takes its lease and changes its states as a real one, or as one gone wrong.

What it does is in `metadata["does"]` of its request; what it did, in the file that $STAND_IN_NOTES names.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime

from streamtask_contrib.bot.processes import ATTEMPT, BOT_ID, BROKER
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.states import Bot, Ending
from streamtask_contrib.leases import Lease
from streamtask_contrib.settings import from_environment

from streamtask import App, PublishError, TransportError

BOT, MINE = os.environ[BOT_ID], int(os.environ[ATTEMPT])


def note(what: str, **more: object) -> None:
    line = {"what": what, "key": BOT, "attempt": MINE, "pid": os.getpid(), "at": time.monotonic(), **more}
    with open(os.environ["STAND_IN_NOTES"], "ab", buffering=0) as file:  # noqa: PTH123 - one write, one line
        file.write(json.dumps(line).encode() + b"\n")


class StandIn:
    def __init__(self, app: App) -> None:
        self.settings = from_environment(BotSettings)
        self.bots = Bots(app, kept=self.settings.kept)
        holder = f"{BOT}:{MINE}:{secrets.token_hex(4)}"
        self.lease = Lease(app.records, f"bot-lease-{BOT}", holder, ttl=self.settings.lease_ttl)

    async def live(self) -> None:
        bot = await self.bots.load(BOT)
        if bot is None or bot.attempt != MINE or bot.desired == "stopped":
            note("not wanted")
            await self.end("stopped", bot.stop_reason if bot else "")
            return
        await self.hold()
        note("holds")
        does = (bot.request.metadata if bot.request else {}).get("does", "")
        if does == "never says a word":
            self.hang()
        await self.become("joining")
        if does == "hangs in joining":
            self.hang()
        if does == "fails to join":
            await self.end("failed", "no_such_meeting")
            return
        await self.become("in_call")
        sys.stdout.write(f"{BOT} is in the call\n")
        sys.stdout.flush()
        if does == "is deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.hang(renews=True)
        if does == "always crashes" or (does == "crashes once" and MINE == 1):
            self.spawn_two()
            os._exit(9)
        await self.become("capturing", participants=["Anna"])
        await self.listen()

    async def hold(self) -> None:
        held = await self.lease.take()
        while not held:
            await asyncio.sleep(0.1)
            held = await self.lease.take()

    async def listen(self) -> None:
        """Until it is asked to leave. A broker that is away is waited for, as long as the lease lasts."""
        while True:
            if self.lease.remaining < 1.0:
                note("ends itself")
                os.killpg(os.getpgrp(), signal.SIGKILL)
            with suppress(TransportError, PublishError):
                held = await self.lease.renew()
                bot = await self.bots.load(BOT)
                if not held or bot is None or bot.attempt != MINE:
                    note("ends itself")
                    os.killpg(os.getpgrp(), signal.SIGKILL)
                if bot.desired == "stopped":
                    await self.become("leaving", reason=bot.stop_reason)
                    await self.end("stopped", bot.stop_reason)
                    return
            await asyncio.sleep(0.5)

    async def become(self, state: str, *, reason: str = "", participants: list[str] | None = None) -> None:
        def changed(bot: Bot) -> Bot | None:
            if bot.attempt != MINE:
                return None
            return bot.advanced(state, at=datetime.now(UTC), reason=reason, participants=participants)  # type: ignore[arg-type] # tests write states as they are

        await self.bots.change(BOT, changed)

    async def end(self, state: str, reason: str) -> None:
        ending = Ending.model_validate({"state": state, "reason": reason})
        await self.bots.change(BOT, lambda bot: bot.with_(ending=ending) if bot.attempt == MINE else None)
        await self.lease.release()
        note("ends")

    def hang(self, *, renews: bool = False) -> None:
        """Do nothing, for ever; with processes of its own that do not end by themselves either."""
        self.spawn_two()
        while True:
            time.sleep(1)

    @staticmethod
    def spawn_two() -> None:
        """One in the bot's group, and one that has moved away."""
        sleep = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
        for moves in (False, True):
            child = subprocess.Popen([sys.executable, "-c", sleep], start_new_session=moves)
            note("child", child=child.pid)


async def main() -> None:
    note("start")
    async with App("stand-in", broker=os.environ[BROKER]) as app:
        await StandIn(app).live()


asyncio.run(main())
