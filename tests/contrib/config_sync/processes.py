"""Configuration workers and a service that follows, as processes of their own, around a folder with one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamtask_contrib.config_sync.versions import Configs, Version
from streamtask_contrib.events import ConfigRollbackRequested

from streamtask import App
from tests.chaos.conftest import StartWorker
from tests.chaos.workers import Ledger, WorkerProcess, until
from tests.servers import RedisServer

#: Seconds that anything may take.
PATIENCE = 20.0
WORKER = """
from streamtask_contrib.config_sync import ConfigSettings, router

app.include(router(ConfigSettings(folder=os.environ["CONFIGS"], every=0.25, lease_ttl=3)))
"""
#: Notes what it runs with.
SERVICE = """
from streamtask_contrib.config_sync import Follower


@app.worker_lifespan
async def following(app):
    async with Follower(app, "whisper", file=os.environ["FILE"], instance="whisper-1") as config:
        async def watch():
            values = None
            while True:
                values = config.values if values is None else await config.changed(values)
                note("runs", config.version, model=values["model"])

        task = asyncio.create_task(watch())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@app.on(Job)
async def work(job):
    pass
"""


class Scene:
    """One service with its source, its file, and whoever looks after them."""

    def __init__(self, server: RedisServer, folder: Path, start: StartWorker, ledger: Ledger) -> None:
        self.server = server
        self.ledger = ledger
        self._start = start
        self.source = folder / "configs" / "whisper.yaml"
        self.source.parent.mkdir()
        self.file = folder / "whisper-of-the-service.yaml"
        self.app = App("test", broker=server.url)
        self.configs = Configs(self.app.records)

    async def worker(self, source: str = WORKER, *, at: str = "", **options: Any) -> WorkerProcess:
        """Start a configuration worker. `at`: where it waits to be killed."""
        environment = {"CONFIGS": str(self.source.parent), "FILE": str(self.file), "AT": at}
        return await self._start(self.server.url, source, environment=environment, **options)

    async def service(self) -> WorkerProcess:
        """Start the service, and wait until it follows."""
        started = await self.worker(SERVICE)
        await until(lambda: self.ledger.lines("runs"), PATIENCE)
        return started

    async def head(self, number: int, *, within: float = PATIENCE) -> Version:
        """Wait for a version to be the head."""

        async def is_there() -> bool:
            found = await self.configs.head("whisper")
            return found is not None and found.number >= number

        await until(is_there, within)
        head = await self.configs.head("whisper")
        assert head is not None
        return head

    async def write(self, content: bytes, number: int) -> Version:
        """Change the source, and wait for the version that comes of it."""
        self.source.write_bytes(content)
        return await self.head(number)

    async def roll_back(self, to_version: int, request_id: str = "r") -> None:
        """Ask for a rollback."""
        request = ConfigRollbackRequested(
            request_id=request_id, service="whisper", to_version=to_version, requested_by="test", reason="as it was"
        )
        await self.app.publish(request)

    async def settled(self) -> Version:
        """Wait until the head, the source and the service's file are one."""
        return await self._settled(self.source, self.file)

    async def settled_source(self) -> Version:
        """Wait until the head and the source are one."""
        return await self._settled(self.source)

    async def _settled(self, *files: Path) -> Version:
        async def is_settled() -> bool:
            state, head = await self.configs.state("whisper"), await self.configs.head("whisper")
            assert state is not None
            assert head is not None
            return not state.unwritten and all(file.read_bytes() == head.content for file in files)

        await until(is_settled, PATIENCE)
        head = await self.configs.head("whisper")
        assert head is not None
        return head

    async def told(self, kind: type) -> list[dict[str, Any]]:
        """The payloads of all events of one type."""
        transport = self.app.transport
        page = await transport.read("config-sync", after="0", count=10_000, wait=0.0)
        envelopes = [self.app.broker.decode(delivery) for delivery in page]
        return [json.loads(each.payload_bytes) for each in envelopes if each.event_type == kind.__name__]

    def stored(self) -> dict[str, bytes]:
        """Everything that the server has, key by key, as far as it can be read."""
        client = self.server.client()
        read = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"stream": client.xrange,
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
            b"list": lambda key: client.lrange(key, 0, -1),
        }
        return {key.decode(): repr(read[client.type(key)](key)).encode() for key in client.scan_iter()}


def places_of(secrets: Sequence[str], found: dict[str, bytes]) -> set[str]:
    """Where one of these stands."""
    return {key for key, content in found.items() for secret in secrets if secret.encode() in content}
