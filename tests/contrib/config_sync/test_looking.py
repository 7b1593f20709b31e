"""Asking for a version back: the head, too, where somebody runs with something else."""

from __future__ import annotations

import pytest
from streamtask_contrib.config_sync.drifts import Drifts
from streamtask_contrib.config_sync.keeping import Keeper
from streamtask_contrib.config_sync.looking import NothingToDoError, NotKeptError, ask_back
from streamtask_contrib.events import ConfigDriftDetected, ConfigReported

from streamtask import App
from tests.contrib.config_sync.sources import MadeSource, look


async def ask(app: App, number: int) -> int:
    """Which version was asked for."""
    return (await ask_back(app, "whisper", number, by="me", reason="")).to_version


async def test_the_head_is_asked_back_only_where_there_is_something_to_put_right():
    async with App("test", broker="memory://") as app:
        keeper, source = Keeper(app, keep=5), MadeSource(b"model: a\n")
        await look(keeper, source)
        with pytest.raises(NotKeptError):
            await ask(app, 2)
        with pytest.raises(NothingToDoError, match="version 1 is what 'whisper' has already"):
            await ask(app, 1)

        report = ConfigReported(service="whisper", instance="one", version=1, checksum="other")
        drift = ConfigDriftDetected(
            service="whisper", instance="one", expected_version=1, expected_checksum="one", actual_checksum="other"
        )
        await Drifts(app.records, "whisper").remember(report, drift)
        assert await ask(app, 1) == 1


async def test_the_head_is_asked_back_where_its_source_is_behind():
    async with App("test", broker="memory://") as app:
        keeper, source = Keeper(app, keep=5), MadeSource(b"model: a\n")
        await look(keeper, source)
        await keeper.configs.change("whisper", lambda now: now.written(source.place, "x", behind="it is only read"))
        assert await ask(app, 1) == 1
