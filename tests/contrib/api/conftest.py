"""One broker for the tests of the API: which server it is, is the core's business."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import ServerPool
from tests.servers import available_servers


@pytest.fixture
def broker(server_pool: ServerPool) -> Iterator[str]:
    """The URL of an empty server, which is shared with other tests."""
    server = server_pool.get(available_servers()[0])
    yield server.url
    server.flush()
