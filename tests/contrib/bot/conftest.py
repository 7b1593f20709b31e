"""One broker for the tests of bots, and a stage for their processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import chance, measured
from tests.conftest import ServerPool
from tests.contrib.bot.attempts import Stage, staged
from tests.servers import available_servers

__all__ = ["broker", "chance", "measured", "stage"]


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
