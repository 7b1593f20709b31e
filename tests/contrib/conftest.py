"""One broker for tests to which it is the same which server that is, and where the code is that trained the models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ServerPool
from tests.servers import available_servers

# That code is in the repository, not in the package. Last, so that where the package is installed, it is the installed
# one that is tested.
sys.path.append(str(Path(__file__).parents[2] / "contrib"))


@pytest.fixture
def broker(server_pool: ServerPool) -> Iterator[str]:
    """The URL of an empty server, which is shared with other tests."""
    server = server_pool.get(available_servers()[0])
    yield server.url
    server.flush()
