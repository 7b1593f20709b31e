"""Watching: one worker at a time, another at once where it leaves, and no trouble ends it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from streamtask_contrib.config_sync import watching
from streamtask_contrib.config_sync.keeping import Keeper
from streamtask_contrib.config_sync.sources.port import Reading, SourceError
from streamtask_contrib.config_sync.watching import Watch

from streamtask import App
from tests.chaos.workers import until
from tests.contrib.config_sync.sources import MadeSource

PATIENCE = 20.0
Running = Callable[["CountedSource"], AbstractAsyncContextManager[Watch]]


class CountedSource(MadeSource):
    """Counts how often it is read; and fails as often as is wanted."""

    every = 0.05

    def __init__(self, content: bytes | None = b"model: a\n") -> None:
        super().__init__(content)
        self.reads = 0
        self.failures: list[Exception] = []
        self.is_closed = False

    async def services(self) -> dict[str, str]:
        if self.failures:
            raise self.failures.pop()
        return await super().services()

    async def read(self, service: str) -> Reading:
        self.reads += 1
        return await super().read(service)

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with App("test", broker="memory://") as made:
        yield made


@pytest.fixture
def running(app: App) -> Running:
    @contextlib.asynccontextmanager
    async def run(source: CountedSource) -> AsyncIterator[Watch]:
        watch = Watch(source, Keeper(app, keep=3), app.records, lease_ttl=60)
        task = asyncio.create_task(watch.run())
        yield watch
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    return run


async def test_one_watches_and_another_follows_at_once_where_it_leaves(running: Running):
    first, second = CountedSource(), CountedSource()
    async with contextlib.AsyncExitStack() as stack:
        async with running(first):
            await until(lambda: first.reads > 2, PATIENCE)
            await stack.enter_async_context(running(second))
            before = first.reads
            await until(lambda: first.reads > before + 5, PATIENCE)
            assert second.reads == 0
        assert first.is_closed
        # Not after a minute, when the lease would have run out.
        await until(lambda: second.reads > 2, PATIENCE)
    assert second.is_closed


@pytest.mark.parametrize("error", [SourceError("the folder is away"), RuntimeError("hunter2"), OSError(5, "I/O error")])
async def test_no_trouble_ends_it_and_it_is_told_once_in_a_while(
    running: Running, caplog: pytest.LogCaptureFixture, error: Exception
):
    source = CountedSource()
    source.failures = [error] * 5
    async with running(source):
        await until(lambda: source.reads > 2, PATIENCE)
    told = [record for record in caplog.records if record.message == "config.watch_failed"]
    assert len(told) == 1
    # Words that are not ours may quote what stands there.
    assert (told[0].error == str(error)) == (not isinstance(error, RuntimeError))
    assert "hunter2" not in str(vars(told[0]))


async def test_it_looks_at_once_when_it_is_nudged_and_something_is_to_be_done(
    app: App, running: Running, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "_TICK", 60.0)
    source = CountedSource()
    source.every = 60.0
    configs = Keeper(app, keep=3).configs
    async with running(source) as watch:
        await until(lambda: source.reads == 1, PATIENCE)

        async def is_there() -> bool:
            return await configs.numbers("whisper") == [1]

        await until(is_there, PATIENCE)
        watch.nudge()
        await asyncio.sleep(0.2)
        # It is not due, and there is nothing to be written.
        assert source.reads == 1
        await configs.change("whisper", lambda now: now.restored(now.versions[-1], keep=3))
        watch.nudge()
        await until(lambda: source.reads == 2, PATIENCE)
