"""A folder of configurations and the worker that keeps their versions, inside of a test."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streamtask_contrib.config_sync import ConfigSettings, router
from streamtask_contrib.config_sync.versions import Configs
from streamtask_contrib.events import ConfigReported

from streamtask import App
from tests.chaos.workers import until

#: Seconds that anything may take.
_PATIENCE = 20.0
SECRET = "hunter2-hunter2"


class Kept:
    """A folder of configurations that is watched."""

    def __init__(self, app: App, folder: Path) -> None:
        self.app = app
        self.folder = folder

    async def write(self, service: str, **values: Any) -> None:
        """Write a configuration, and wait until it is a version."""
        path = self.folder / f"{service}.json"
        before = await self.newest(service)
        path.with_suffix(".new").write_text(json.dumps(values))
        path.with_suffix(".new").rename(path)

        async def is_newer() -> bool:
            return await self.newest(service) > before

        await until(is_newer, _PATIENCE)

    async def newest(self, service: str) -> int:
        """The number of the head."""
        return max(await Configs(self.app.records).numbers(service), default=0)

    async def drift(self, service: str, instance: str, **values: Any) -> None:
        """Have a process of the service run with something else, and wait until that is known."""
        report = ConfigReported(
            service=service, instance=instance, version=await self.newest(service), checksum="other", values=values
        )
        await self.app.publish(report)

        async def is_known() -> bool:
            return bool(await Configs(self.app.records).drifts(service))

        await until(is_known, _PATIENCE)


@asynccontextmanager
async def kept(broker: str, folder: Path) -> AsyncIterator[Kept]:
    """A worker that watches a folder."""
    app = App("config-sync", broker=broker)
    app.include(router(ConfigSettings(folder=folder, every=0.05, grace=0.0)))
    async with app.worker():
        yield Kept(app, folder)
