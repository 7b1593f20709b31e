"""Bot workers and their bots' processes: started, watched from outside, and ended by their own numbers."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
from streamtask_contrib.bot.processes import BOT_ID, BROKER, PROGRAM
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.events import BotRequested, BotStopRequested

from streamtask import App, Event
from tests.chaos.conftest import StartWorker
from tests.chaos.workers import Ledger, WorkerProcess, emitted, until
from tests.servers import RedisServer

STAND_IN = Path(__file__).with_name("stand_in.py")
SOURCE = """
import sys

from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.worker import router
from streamtask_contrib.settings import from_environment

app.include(router(from_environment(BotSettings), program=(sys.executable, os.environ["STAND_IN"])))
"""
#: The worker as it is shipped, whose bots are real.
REAL = "from streamtask_contrib.bot import app\n"


class Meetings:
    """One broker, its bot workers, and the bots of both."""

    def __init__(self, server: RedisServer, start_worker: StartWorker, ledger: Ledger, folder: Path) -> None:
        self.server = server
        self.url = url = server.url
        self.ledger = ledger
        self.logs = folder / "logs"
        self.settings: dict[str, object] = {"logs": self.logs}
        self._start_worker = start_worker
        self._app = App("test", broker=url)
        self._workers: list[WorkerProcess] = []
        #: At most so many processes of each bot were seen at once.
        self.most: Counter[str] = Counter()
        self.looks = 0

    async def __aenter__(self) -> Self:
        await self._app.__aenter__()
        self.bots = Bots(self._app)
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        # The orchestrators first: they would start again what is ended here.
        for worker in self._workers:
            await worker.close()
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await self._app.__aexit__()
        for process in members(self.url):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        await until(lambda: not members(self.url), 10)

    async def worker(self, source: str = SOURCE, **settings: object) -> WorkerProcess:
        """A bot worker; `settings` are those of bots."""
        environment = {
            f"STREAMTASK_BOT_{name.upper()}": str(value) for name, value in {**self.settings, **settings}.items()
        }
        environment |= {"STAND_IN": str(STAND_IN), "STAND_IN_NOTES": str(self.ledger.path)}
        worker = await self._start_worker(self.url, source, environment=environment)
        self._workers.append(worker)
        return worker

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────

    async def request(self, *bot_ids: str, does: str = "", **wanted: Any) -> None:
        """Ask for bots. `does`: what a stand-in does; `wanted`: more of the request."""
        await self._app.publish_many([requested(bot_id, does, **wanted) for bot_id in bot_ids])

    async def stop(self, *bot_ids: str) -> None:
        """Ask bots to leave."""
        await self._app.publish_many([BotStopRequested(bot_id=bot_id, reason="asked") for bot_id in bot_ids])

    async def publish(self, event: Event) -> None:
        """Publish anything else."""
        await self._app.publish(event)

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────

    async def bot(self, bot_id: str) -> Bot:
        """A bot as it stands."""
        found = await self.bots.load(bot_id)
        assert found is not None
        return found

    async def has_lease(self, owner: str) -> bool:
        """Whether an orchestrator still counts as alive."""
        return bool(await self._app.records.read(f"bot-orchestrator-{owner}"))

    async def reach(self, state: str, *bot_ids: str, within: float = 40.0) -> None:
        """Wait until bots are in a state."""

        async def reached() -> bool:
            found = [await self.bots.load(bot_id) for bot_id in bot_ids]
            return all(bot is not None and bot.state == state and not bot.unpublished for bot in found)

        await until(reached, within)

    def processes(self, bot_id: str = "") -> list[psutil.Process]:
        """The living processes of bots, without those that they have started."""
        alike = {each.pid: each for each in members(self.url, bot_id) if _is_main(each)}
        # Between fork and exec, a child looks like its parent.
        return [each for each in alike.values() if _parent(each) not in alike]

    def everything(self, bot_id: str = "") -> list[psutil.Process]:
        """The living processes of bots, and all that they have started."""
        return members(self.url, bot_id)

    async def statuses(self) -> dict[str, list[dict[str, Any]]]:
        """Every status that was published, by bot, in the order of the stream; checked for gaps and repeats."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for payload in await emitted(self.url, "bot-control"):
            if "sequence" in payload and "state" in payload:
                found[payload["bot_id"]].append(payload)
        for bot_id, updates in found.items():
            assert [update["sequence"] for update in updates] == list(range(len(updates))), bot_id
        return found

    async def states(self, bot_id: str) -> list[str]:
        """The states that a bot was in, as they were published."""
        return [update["state"] for update in (await self.statuses())[bot_id]]

    async def _watch(self) -> None:
        while True:
            alive = Counter(process.environ()[BOT_ID] for process in await asyncio.to_thread(self.processes))
            self.most |= alive
            self.looks += 1
            await asyncio.sleep(0.1)


def requested(bot_id: str, does: str = "", **wanted: Any) -> BotRequested:
    """A bot for a meeting that nobody holds."""
    fields = {"meeting_url": "http://127.0.0.1:9/", "metadata": {"does": does}} | wanted
    return BotRequested(bot_id=bot_id, session_id=f"s-{bot_id}", **fields)


def members(url: str, bot_id: str = "") -> list[psutil.Process]:
    """Living processes whose environment says that they belong to a bot of this broker."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            environment = process.environ()
            ours = environment.get(BROKER) == url and bot_id in ("", environment.get(BOT_ID))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _is_main(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.cmdline()[1:] in ([str(STAND_IN)], list(PROGRAM[1:]))
    return False


def _parent(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return process.ppid()
    return 0
