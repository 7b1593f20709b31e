"""Each engine in turn: what is kept in records has to stand on all of them."""

from __future__ import annotations

import pytest

from tests.conftest import ServerPool
from tests.servers import ServerBinary, available_servers


@pytest.fixture(params=[None, *available_servers()], ids=lambda binary: binary.name if binary else "memory")
def broker(request: pytest.FixtureRequest, server_pool: ServerPool) -> str:
    """URL of an empty broker."""
    binary: ServerBinary | None = request.param
    return server_pool.get(binary).url if binary else "memory://"
