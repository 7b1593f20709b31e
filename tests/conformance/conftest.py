"""`engine`: the reference model, then every server program on this machine, then a cluster of the first of them.

In the long form a cluster of each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.chaos.workers import LONG
from tests.conformance.engines import ClusterEngine, Engine, MemoryEngine, RedisEngine
from tests.conftest import ServerPool
from tests.servers import RedisServer, ServerBinary, available_servers

#: An engine by its name: made from the servers of this session.
_ENGINES: dict[str, Callable[[ServerPool], Engine]] = {"memory": lambda _: MemoryEngine()}


def _add(binary: ServerBinary, *, cluster: bool) -> None:
    _ENGINES[binary.name] = lambda pool: RedisEngine(pool.get(binary))
    if cluster:
        _ENGINES[f"{binary.name}-cluster"] = lambda pool: ClusterEngine(pool.cluster(binary))


for _place, _binary in enumerate(available_servers()):
    _add(_binary, cluster=LONG or _place == 0)


@pytest.fixture(params=_ENGINES)
async def engine(request: pytest.FixtureRequest, server_pool: ServerPool) -> AsyncIterator[Engine]:
    """Each engine in turn, empty."""
    made = _ENGINES[request.param](server_pool)
    yield made
    await made.close()


@pytest.fixture
async def redis_engine(redis_server: RedisServer) -> AsyncIterator[RedisEngine]:
    """A real server only: for what cannot go wrong in memory."""
    made = RedisEngine(redis_server)
    yield made
    await made.close()
