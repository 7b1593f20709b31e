"""A server of each test's own for what runs as processes, and the workers of the chaos tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.conftest import ledger, measured, start_worker
from tests.servers import RedisServer, available_servers

__all__ = ["ledger", "measured", "server", "start_worker"]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that is empty and nobody else's."""
    running = RedisServer(available_servers()[0], tcp=True)
    running.start()
    yield running
    running.close()
