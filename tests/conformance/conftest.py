"""`engine`: the reference model, then every server program on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conformance.engines import Engine, MemoryEngine, RedisEngine
from tests.conftest import ServerPool
from tests.servers import RedisServer, ServerBinary, available_servers


@pytest.fixture(
    params=[None, *available_servers()], ids=lambda binary: "memory" if binary is None else f"{binary.name}"
)
async def engine(request: pytest.FixtureRequest, server_pool: ServerPool) -> AsyncIterator[Engine]:
    """Each engine in turn, empty."""
    binary: ServerBinary | None = request.param
    made: Engine = MemoryEngine() if binary is None else RedisEngine(server_pool.get(binary))
    yield made
    await made.close()


@pytest.fixture
async def redis_engine(redis_server: RedisServer) -> AsyncIterator[RedisEngine]:
    """A real server only: for what cannot go wrong in memory."""
    made = RedisEngine(redis_server)
    yield made
    await made.close()
