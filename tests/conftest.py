"""Fixtures for every test: real servers, and a check that no test leaves a thread, child process or task behind."""

from __future__ import annotations

import asyncio
import functools
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.acl import Users
from tests.processes import children_of
from tests.servers import RedisCluster, RedisServer, ServerBinary, available_servers

#: Seconds that what a test has started may take to end after it.
_PATIENCE = 5.0
_SERVERS = available_servers()
#: Tests that wait most of the time, for leases to run out, processes to start, people to speak: it takes four at once
#: to keep two processors busy. What computes, or looks at milliseconds, is not among them.
_WAIT = [
    Path(__file__).parent / name
    for name in (
        "chaos",
        "contrib/audio/test_killed.py",
        "contrib/bot/test_care.py",
        "contrib/bot/test_lifeline.py",
        "contrib/bot/test_orchestrator.py",
        "contrib/bot/test_process.py",
        "contrib/bot/test_words.py",
        "contrib/config_sync",
        "contrib/monitoring/test_alerts.py",
        "contrib/monitoring/test_stalled_groups.py",
        "integration/test_supervisor.py",
    )
]

# In the background of a shell, SIGINT is ignored, and by all that is started here, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy this machine is, not whether the code is right.
settings.register_profile("streamtask", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For planted bugs, of which only has to be known that they are found: `--hypothesis-profile unshrunk`.
settings.register_profile(
    "unshrunk", settings.get_profile("streamtask"), phases=(Phase.explicit, Phase.generate), database=None
)
settings.load_profile("streamtask")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files out that only have tests that are left out: to import them all takes each process many seconds."""
    wanted = {"waits": True, "not waits": False}.get(config.getoption("markexpr"))
    if wanted is None or not collection_path.is_file() or _waits(collection_path) == wanted:
        return None
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _waits(item.path):
            item.add_marker(pytest.mark.waits)


@functools.cache
def _waits(path: Path) -> bool:
    return any(path.is_relative_to(each) for each in _WAIT)


class ServerPool:
    """One running server, and one running cluster, for each program, shared by the tests of a session."""

    def __init__(self) -> None:
        self._running: dict[str, RedisServer] = {}
        self._clusters: dict[str, RedisCluster] = {}

    def get(self, binary: ServerBinary) -> RedisServer:
        """The server of this program, running and empty."""
        if binary.name not in self._running:
            server = RedisServer(binary)
            self._running[binary.name] = server
            server.start()
        self._running[binary.name].flush()
        return self._running[binary.name]

    def cluster(self, binary: ServerBinary) -> RedisCluster:
        """The cluster of this program, running and empty."""
        if binary.name not in self._clusters:
            cluster = RedisCluster(binary)
            cluster.start()
            self._clusters[binary.name] = cluster
        self._clusters[binary.name].flush()
        return self._clusters[binary.name]

    @property
    def pids(self) -> set[int]:
        """Processes that outlive a test on purpose."""
        nodes = {node.pid for cluster in self._clusters.values() for node in cluster.nodes}
        return nodes | {server.pid for server in self._running.values()}

    def close(self) -> None:
        """Stop them all."""
        for running in (*self._running.values(), *self._clusters.values()):
            running.close()


@pytest.fixture(scope="session")
def server_pool() -> Iterator[ServerPool]:
    """The servers of this session; asked for by fixtures."""
    pool = ServerPool()
    yield pool
    pool.close()


@pytest.fixture(params=_SERVERS, ids=lambda binary: binary.name)
def server_binary(request: pytest.FixtureRequest) -> ServerBinary:
    """Each server program in turn."""
    binary: ServerBinary = request.param
    return binary


@pytest.fixture
def users(server_binary: ServerBinary) -> Iterator[Users]:
    """The Redis users of the documentation, on a server of the test's own."""
    server = RedisServer(server_binary, tcp=True)
    server.start()
    try:
        yield Users(server)
    finally:
        server.close()


@pytest.fixture
def redis_server(server_binary: ServerBinary, server_pool: ServerPool) -> Iterator[RedisServer]:
    """An empty server. Its process is shared with other tests: do not kill, pause or configure it."""
    server = server_pool.get(server_binary)
    yield server
    server.flush()


@pytest.fixture
def redis_cluster(server_pool: ServerPool) -> Iterator[RedisCluster]:
    """An empty cluster of three masters. It is shared with other tests: put back what you move, and kill nothing."""
    cluster = server_pool.cluster(_SERVERS[0])
    yield cluster
    cluster.flush()


@pytest.fixture
def private_cluster() -> Iterator[RedisCluster]:
    """A cluster of the test's own, a replica beside each master, to be killed and paused."""
    cluster = RedisCluster(_SERVERS[0], replicas=1)
    cluster.start()
    yield cluster
    cluster.close()


@pytest.fixture
def private_redis(server_binary: ServerBinary) -> Iterator[RedisServer]:
    """A server of the test's own with an append-only file, to be killed, paused and configured."""
    server = RedisServer(server_binary, appendfsync="always")
    server.start()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def nothing_left_running(server_pool: ServerPool) -> Iterator[None]:
    """Fail a test that leaves a thread or a child process behind."""
    threads, children = set(threading.enumerate()), _children()
    yield
    _wait_until(lambda: not _left_threads(threads) and not _left_children(children, server_pool))
    left = [thread.name for thread in _left_threads(threads)]
    left += [f"process {pid}" for pid in _left_children(children, server_pool)]
    assert not left, f"the test left behind: {left}"


@pytest.fixture(autouse=True)
async def no_task_left(nothing_left_running: None) -> AsyncIterator[None]:
    """Fail a test that leaves an asyncio task behind."""
    before = asyncio.all_tasks()
    yield
    deadline = time.monotonic() + _PATIENCE
    while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.01)
    assert not left, f"the test left behind: {left}"


def _left_threads(before: set[threading.Thread]) -> set[threading.Thread]:
    return set(threading.enumerate()) - before


def _left_children(before: set[int], pool: ServerPool) -> set[int]:
    return _children() - before - pool.pids


def _children() -> set[int]:
    """Process ids of our children, zombies included (they should have been waited for)."""
    return set(children_of("self"))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
