"""A primary with two replicas and three sentinels, which replace it under load: what a publish waits for decides what
may be lost.

A publisher that waits for nobody loses what the new primary had not received; how much is printed. One that waits for
its replicas loses nothing, also where the old primary lives on and goes on saying yes. One of
two is not enough for that.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import redis

from streamtask.transport.values import Durability
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Ledger, Publisher, emitted, until
from tests.servers import RedisServer, ServerBinary, free_port

COUNT = """
@app.on(Job)
async def count(job: Job) -> None:
    note("end", job.n, kind=job.kind)
"""

_CONFIG = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor main 127.0.0.1 {primary} 2
sentinel down-after-milliseconds main 1000
sentinel failover-timeout main 5000
"""


class Watched:
    """A primary, its replicas, and the sentinels that watch over them by the name `main`."""

    def __init__(self, binary: ServerBinary, folder: Path) -> None:
        self.servers = [RedisServer(binary, tcp=True, appendfsync="everysec") for _ in range(3)]
        self._folder = folder
        self._ports = [free_port() for _ in range(3)]
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """What a transport connects to."""
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in self._ports) + "/main"

    def start(self) -> None:
        """Start all, and wait until every sentinel knows both replicas and the other sentinels."""
        primary, *replicas = self.servers
        primary.start("--repl-diskless-sync-delay", "0")
        for replica in replicas:
            replica.start("--replicaof", "127.0.0.1", str(primary.port), "--repl-diskless-sync-delay", "0")
        for port in self._ports:
            folder = self._folder / f"sentinel-{port}"
            folder.mkdir()
            config = folder / "sentinel.conf"
            config.write_text(_CONFIG.format(port=port, folder=folder, primary=primary.port))
            command = [str(primary.binary.path), str(config), "--sentinel"]
            with (folder / "log").open("wb") as log:
                environment = os.environ | primary.binary.env
                self._processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        deadline = time.monotonic() + 20
        while not all(map(self._knows_all, self._ports)):
            assert time.monotonic() < deadline, "the sentinels do not find each other"
            time.sleep(0.1)

    @staticmethod
    def _knows_all(port: int) -> bool:
        with suppress(redis.RedisError, OSError), redis.Redis(port=port, socket_timeout=5.0) as client:
            [primary] = client.sentinel_masters().values()
            return bool(primary["num-slaves"] == primary["num-other-sentinels"] == 2)
        return False

    def fail_over(self) -> None:
        """Have a replica promoted while the primary is well."""
        with redis.Redis(port=self._ports[0], socket_timeout=5.0) as client:
            client.execute_command("SENTINEL", "FAILOVER", "main")

    def primaries(self) -> list[RedisServer]:
        """Who takes writes; for some time there may be two."""
        return [server for server in self.servers if server.pid and self._role(server) == "master"]

    @staticmethod
    def _role(server: RedisServer) -> str:
        # While it changes its role, it drops its clients.
        with suppress(redis.RedisError):
            return str(server.client().info("replication")["role"])
        return ""

    def close(self) -> None:
        """End all."""
        for process in self._processes:
            process.kill()
            process.wait()
        for server in self.servers:
            server.close()


@pytest.fixture
def watched(server_binary: ServerBinary, tmp_path: Path) -> Iterator[Watched]:
    """All of it, in step."""
    made = Watched(server_binary, tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.close()


@one_server
@pytest.mark.timeout(600 if LONG else 120)
async def test_a_failover_from_a_primary_that_lives_on_loses_nothing_that_the_replicas_had_to_have(
    watched: Watched, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    await start_worker(watched.url, COUNT)
    old = watched.servers[0]
    waits: dict[str, Durability] = {"nobody": "none", "one of two": 1, "replica": "replica", "all of two": 2}
    publishers = {kind: Publisher(watched.url, kind=kind, durability=each) for kind, each in waits.items()}
    for _ in range(5 if LONG else 1):
        async with AsyncExitStack() as stack:
            for publisher in publishers.values():
                await stack.enter_async_context(publisher)
            await asyncio.sleep(1.0)
            [old] = watched.primaries()
            watched.fail_over()
            promoted = await _promoted(watched, old)
            await until(lambda: old not in watched.primaries(), 40, every=0.1)  # noqa: B023 - called in this round
            measured("seconds until the old primary was demoted", time.monotonic() - promoted)
            await asyncio.sleep(2.0)

    lost = await _lost(watched, publishers, measured)
    for kind in ("replica", "all of two"):
        assert lost[kind] == set()
        # The worker has followed, too.
        await _handled(ledger, kind, publishers[kind])


@one_server
@pytest.mark.timeout(300 if LONG else 120)
async def test_a_primary_that_dies_takes_nothing_with_it_that_a_replica_had_to_have(
    watched: Watched, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    await start_worker(watched.url, COUNT)
    old = watched.servers[0]
    publishers = {
        "nobody": Publisher(watched.url, kind="nobody"),
        "a replica": Publisher(watched.url, kind="a replica", durability="replica"),
    }
    async with AsyncExitStack() as stack:
        for publisher in publishers.values():
            await stack.enter_async_context(publisher)
        await asyncio.sleep(1.0)
        old.kill()
        killed = time.monotonic()
        measured("seconds until another was promoted", await _promoted(watched, old) - killed)
        before = {kind: len(publisher.returned) for kind, publisher in publishers.items()}
        await until(lambda: all(len(each.returned) > before[kind] + 100 for kind, each in publishers.items()), 20)
        measured("seconds until a hundred more were published", time.monotonic() - killed)

    lost = await _lost(watched, publishers, measured)
    assert lost["a replica"] == set()
    await _handled(ledger, "a replica", publishers["a replica"])


async def _promoted(watched: Watched, old: RedisServer) -> float:
    """Wait for a new primary; the moment at which it was one."""
    await until(lambda: any(server is not old for server in watched.primaries()), 30)
    return time.monotonic()


async def _handled(ledger: Ledger, kind: str, publisher: Publisher) -> None:
    """Wait until all that a publisher was told is stored is handled."""
    published = {str(n) for n in publisher.returned}
    await until(lambda: published <= {line.key for line in ledger.lines("end") if line.more["kind"] == kind}, 20)


async def _lost(watched: Watched, publishers: dict[str, Publisher], measured: Measured) -> dict[str, set[int]]:
    """By publisher, the numbers that it was told are stored and that are not. None is stored twice."""
    there = [(each["kind"], each["n"]) for each in await emitted(watched.url, "jobs")]
    assert len(there) == len(set(there))
    lost = {}
    for kind, publisher in publishers.items():
        lost[kind] = {n for n in publisher.returned if (kind, n) not in set(there)}
        measured(f"waits for {kind}: published", len(publisher.returned))
        measured(f"waits for {kind}: publishes that raised", publisher.raised.total())
        measured(f"waits for {kind}: published and lost", len(lost[kind]))
    return lost
