"""Bots and their tests: a broker and a stage for their processes; bot workers, whose bots are stand-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import StartWorker, chance, ledger, measured, server_binary, start_worker
from tests.chaos.workers import Ledger
from tests.conftest import ServerPool
from tests.contrib.bot.attempts import Stage, staged
from tests.contrib.bot.meetings import Meetings
from tests.servers import RedisServer, ServerBinary, available_servers

__all__ = [
    "broker",
    "chance",
    "ledger",
    "measured",
    "meeting_server",
    "meetings",
    "server_binary",
    "stage",
    "start_worker",
]


@pytest.fixture
def broker(server_pool: ServerPool) -> Iterator[str]:
    """The URL of an empty server, which is shared with other tests."""
    server = server_pool.get(available_servers()[0])
    yield server.url
    server.flush()


@pytest.fixture
async def stage(broker: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """Where processes of bots run."""
    async with staged(broker, tmp_path) as made:
        yield made


@pytest.fixture
def meeting_server(server_binary: ServerBinary) -> Iterator[RedisServer]:
    """A server of the test's own, to be paused; its disk is not what is tried here."""
    server = RedisServer(server_binary)
    server.start()
    yield server
    server.close()


@pytest.fixture
async def meetings(
    meeting_server: RedisServer, start_worker: StartWorker, ledger: Ledger, tmp_path: Path
) -> AsyncIterator[Meetings]:
    """Bots on a server of the test's own, and the workers that look after them; none of both outlives the test."""
    async with Meetings(meeting_server, start_worker, ledger, tmp_path) as running:
        yield running
