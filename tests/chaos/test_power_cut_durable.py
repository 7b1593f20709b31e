"""`durability="disk"` when the power fails: what a publish had been told is on the disk is there, or nobody was told.

The host lives on; the files are cut back to what the server had synced, see `power.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.chaos.conftest import Measured
from tests.chaos.power import PluggedServer
from tests.chaos.preload import compiled
from tests.chaos.workers import LONG, Publisher, emitted, until
from tests.servers import ServerBinary, available_servers

_CUTS = 20 if LONG else 2
_ABLE = [each for each in available_servers() if each.has_waitaof]
_TRUTHFUL = [each for each in _ABLE if each.name.startswith("redis") and each.version >= (8,)]
_HASTY = [each for each in _ABLE if each not in _TRUTHFUL]

#: appendfsync -> a server that runs.
Plugged = Callable[[str], PluggedServer]


def first_of(binaries: list[ServerBinary], *, why_none: str) -> pytest.MarkDecorator:
    """The first of these, each in the long form, or the reason why there is none."""
    given = [pytest.param(each, id=each.name) for each in (binaries if LONG else binaries[:1])]
    none = pytest.param(None, marks=pytest.mark.skip(reason=why_none), id="no server")
    return pytest.mark.parametrize("server_binary", given or [none], indirect=True)


able = first_of(_ABLE, why_none="no server here has WAITAOF: it takes Redis 7.2 or newer, or Valkey")
truthful = first_of(_TRUTHFUL, why_none="no server here is Redis 8.0 or newer")
hasty = first_of(_HASTY, why_none="no server here is Valkey, or Redis 7.2 or 7.4")


@pytest.fixture
def plugged(server_binary: ServerBinary, tmp_path: Path) -> Iterator[Plugged]:
    """Start servers whose plug can be pulled; ended after the test."""
    servers: list[PluggedServer] = []

    def start(appendfsync: str) -> PluggedServer:
        servers.append(PluggedServer(server_binary, compiled("synced", tmp_path), appendfsync=appendfsync))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.close()


async def lost_by_cuts(server: PluggedServer, publisher: Publisher, measured: Measured) -> set[int]:
    """Cut the power under load, again and again: which publishes returned and are gone."""
    async with publisher:
        for _ in range(_CUTS):
            enough = len(publisher.returned) + 100
            await until(lambda: len(publisher.returned) > enough, 60)  # noqa: B023 - called in this round
            server.pull_the_plug()
            await asyncio.to_thread(server.start)
    there = [each["n"] for each in await emitted(server.url, "jobs")]
    assert len(there) == len(set(there))
    lost = publisher.returned.keys() - set(there)
    measured("published", len(publisher.returned))
    measured("publishes that raised", publisher.raised.total())
    measured("published and lost", len(lost))
    return lost


@able
@pytest.mark.timeout(300 if LONG else 60)
async def test_what_the_disk_had_to_have_is_not_lost(plugged: Plugged, measured: Measured) -> None:
    server = plugged("always")
    assert await lost_by_cuts(server, Publisher(server.url, lanes=5, durability="disk"), measured) == set()


@truthful
@pytest.mark.timeout(900 if LONG else 60)
async def test_what_the_disk_had_to_have_is_not_lost_though_it_is_synced_once_a_second(
    plugged: Plugged, measured: Measured
) -> None:
    server = plugged("everysec")
    assert await lost_by_cuts(server, Publisher(server.url, lanes=50, durability="disk"), measured) == set()


@hasty
async def test_a_server_that_is_refused_says_yes_and_loses_it(plugged: Plugged, measured: Measured) -> None:
    """Why it is refused. Should this fail on a newer version, that one can be believed."""
    server = plugged("everysec")
    with redis.Redis.from_url(server.url) as client:
        said_yes = 0
        for n in range(200):
            client.xadd("stream:jobs", {"n": n})
            said_yes += client.execute_command("WAITAOF", 1, 0, 3000)[0]
        server.pull_the_plug()
    server.start()

    kept = server.client().xlen("stream:jobs")
    measured("said to be on disk, and lost", said_yes - kept)
    assert kept < said_yes
