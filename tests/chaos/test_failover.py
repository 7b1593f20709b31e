"""A primary with two replicas and three sentinels, which replace it under load: what a publish waits for decides what
may be lost.

A publisher that waits for nobody loses what the new primary had not received; how much is printed. One that waits for
its replicas loses nothing, also where the old primary lives on and goes on saying yes, or is cut off together with its
clients. One of two is not enough for that.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import redis

from streamtask.transport.values import Durability
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Ledger, Publisher, emitted, nothing_pending, until
from tests.proxy import Proxy
from tests.servers import RedisServer, ServerBinary, free_port

COUNT = """
@app.on(Job)
async def count(job: Job) -> None:
    note("end", job.n, kind=job.kind)
"""

#: Beside them, what an event leads to.
CARRY = """
@app.on(Job)
async def carry(job: Job) -> Made:
    await asyncio.sleep(0.05)
    note("end", job.n, kind=job.kind)
    return Made(n=job.n, by=job.kind)
"""

#: Seconds that a primary may be without word from a replica, that it is cut off, and that this machine may be late by.
MAX_LAG, CUT = (10, 60.0) if LONG else (3, 12.0)
MARGIN = 4.0

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

    def start(self, *options: str, at: int = 0) -> None:
        """Start all, and wait until every sentinel knows both replicas and the other sentinels.

        `options`: of each server. `at`: the port at which the others reach the primary, if it is not its own.
        """
        primary, *replicas = self.servers
        at = at or primary.port
        options += ("--repl-diskless-sync-delay", "0")
        primary.start(*options)
        for replica in replicas:
            # Said, because a primary that is reached by a proxy does not see where its replicas are.
            replica.start("--replicaof", "127.0.0.1", str(at), "--replica-announce-ip", "127.0.0.1", *options)
        for port in self._ports:
            folder = self._folder / f"sentinel-{port}"
            folder.mkdir()
            config = folder / "sentinel.conf"
            config.write_text(_CONFIG.format(port=port, folder=folder, primary=at))
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
def watched_apart(server_binary: ServerBinary, tmp_path: Path) -> Iterator[Watched]:
    """Nothing of it runs yet; ended after the test."""
    made = Watched(server_binary, tmp_path)
    yield made
    made.close()


@pytest.fixture
def watched(watched_apart: Watched) -> Watched:
    """All of it, in step."""
    watched_apart.start()
    return watched_apart


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


@pytest.fixture
async def network(watched_apart: Watched, chance: random.Random) -> AsyncIterator[Proxy]:
    """Between the first primary and all that is to be elsewhere: its replicas, the sentinels, and who asks those."""
    async with Proxy(watched_apart.servers[0].socket, chance) as proxy:
        options = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", str(MAX_LAG))
        # In a thread: the sentinels' way to the primary is on this loop.
        await asyncio.to_thread(watched_apart.start, *options, at=proxy.port)
        yield proxy


@one_server
@pytest.mark.timeout(400 if LONG else 180)
async def test_a_primary_that_is_cut_off_with_its_clients_says_yes_no_longer_than_it_may_be_without_replicas(
    watched_apart: Watched, network: Proxy, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    watched, old = watched_apart, watched_apart.servers[0]
    inside = await start_worker(old.url, CARRY)
    await start_worker(watched.url, CARRY)
    waits: dict[str, Durability] = {"nobody": "none", "a replica": "replica"}
    publishers = {
        f"{kind}, {where}": Publisher(url, kind=f"{kind}, {where}", durability=each)
        for where, url in {"inside": old.url, "outside": watched.url}.items()
        for kind, each in waits.items()
    }
    cut_off = [publishers[f"{kind}, inside"] for kind in waits]
    async with AsyncExitStack() as stack:
        for publisher in publishers.values():
            await stack.enter_async_context(publisher)
        await asyncio.sleep(2.0)
        network.fall_silent()
        silent = time.monotonic()
        await _promoted(watched, old)
        measured("seconds until another was promoted", time.monotonic() - silent)
        await until(lambda: all(publisher.raised for publisher in cut_off), MAX_LAG + 20)
        await asyncio.sleep(max(0.0, silent + CUT - time.monotonic()))
        # Split in two, and it does not know.
        assert len(watched.primaries()) == 2
        network.heal()
        healed = time.monotonic()
        await until(lambda: old not in watched.primaries(), 60, every=0.1)
        measured("seconds until the old primary was demoted, from healing", time.monotonic() - healed)
        await asyncio.sleep(2.0)
        for publisher in cut_off:
            await publisher.abandon()
    ended = time.monotonic()
    await inside.terminate()
    measured("seconds that the worker inside took to end", time.monotonic() - ended)
    await nothing_pending(watched.url, within=30)

    yes = max(moment for publisher in cut_off for moment in publisher.returned.values()) - silent
    measured("seconds for which the old primary went on saying yes", yes)
    assert yes < MAX_LAG + MARGIN
    lost = await _lost(watched, publishers, measured)
    assert lost["nobody, inside"]
    assert lost["a replica, inside"] == lost["a replica, outside"] == set()
    for kind, publisher in publishers.items():
        # All that is lost came at the cut or behind it; of what was published outside, nothing that came later.
        moments = [publisher.returned[n] - silent for n in lost[kind]]
        assert not moments or min(moments) > -MARGIN
        assert kind.endswith("inside") or not moments or max(moments) < MARGIN
    stored = Counter((each["kind"], each["n"]) for each in await emitted(watched.url, "jobs"))
    made = Counter((each["by"], each["n"]) for each in await emitted(watched.url, "made"))
    runs = Counter((line.more["kind"], int(line.key)) for line in ledger.lines("end"))
    measured("events that were handled again", sum(runs[event] - 1 for event in stored))
    assert set(stored.values()) == {1}
    assert made == stored, f"skipped {stored - made}, doubled {made - stored}"


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
