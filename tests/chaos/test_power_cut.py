"""The power fails: what a server had not synced is gone. What each setting keeps of it, and what `durability="disk"`.

The host lives on, of course; the files are cut back to what the server had synced, see `power.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import redis

from tests.chaos.conftest import Measured
from tests.chaos.power import COMPILER, FrailServer
from tests.chaos.workers import LONG, Publisher, emitted, until
from tests.servers import ServerBinary, available_servers

pytestmark = pytest.mark.skipif(COMPILER is None, reason="a power cut takes a C compiler (cc)")

_CUTS = 20 if LONG else 2
#: Since 7.0 the file is in a folder of its own.
_NEW = [each for each in available_servers() if each.version >= (7,)]
_ABLE = [each for each in _NEW if each.has_waitaof]
_TRUTHFUL = [each for each in _ABLE if each.name.startswith("redis") and each.version >= (8,)]
_HASTY = [each for each in _ABLE if each not in _TRUTHFUL]


def first_of(binaries: list[ServerBinary], *, why_none: str) -> pytest.MarkDecorator:
    """The first of these, each in the long form, or the reason why there is none."""
    given = [pytest.param(each, id=each.name) for each in (binaries if LONG else binaries[:1])]
    none = pytest.param(None, marks=pytest.mark.skip(reason=why_none), id="no server")
    return pytest.mark.parametrize("server_binary", given or [none], indirect=True)


new = first_of(_NEW, why_none="no server here is Redis 7.0 or newer, or Valkey")
able = first_of(_ABLE, why_none="no server here has WAITAOF: it takes Redis 7.2 or newer, or Valkey")
truthful = first_of(_TRUTHFUL, why_none="no server here is Redis 8.0 or newer")
hasty = first_of(_HASTY, why_none="no server here is Valkey, or Redis 7.2 or 7.4")


@pytest.fixture
def server(server_binary: ServerBinary) -> Iterator[FrailServer]:
    """Not started yet."""
    server = FrailServer(server_binary)
    yield server
    server.close()


async def lost_by_cuts(
    server: FrailServer, appendfsync: str, publisher: Publisher, measured: Measured, *, load_for: float = 0.0
) -> list[float]:
    """Cut the power under load, again and again: for each publish that returned and is gone, how long before the cut.

    In seconds. `load_for`: so long between two cuts, and a hundred publishes.
    """
    options = ("--appendonly", "yes", "--appendfsync", appendfsync)
    cuts: list[float] = []
    server.start(*options)
    async with publisher:
        for _ in range(_CUTS):
            enough, until_then = len(publisher.returned) + 100, time.monotonic() + load_for
            await until(lambda: len(publisher.returned) > enough and time.monotonic() > until_then, 60)  # noqa: B023
            server.cut_power()
            cuts.append(time.monotonic())
            await asyncio.to_thread(server.start, *options)
    there = [each["n"] for each in await emitted(server.url, "jobs")]
    assert len(there) == len(set(there))
    lost = [publisher.returned[n] for n in publisher.returned.keys() - set(there)]
    measured("published", len(publisher.returned))
    measured("publishes that raised", publisher.raised.total())
    measured("published and lost", len(lost))
    # What the server had answered may be read a little after its end.
    return [next(cut for cut in cuts if at < cut + 0.1) - at for at in lost]


@new
async def test_with_a_file_that_is_never_synced_all_is_lost(server: FrailServer, measured: Measured) -> None:
    server.start("--appendonly", "yes", "--appendfsync", "no")
    client = server.client()
    for n in range(100):
        client.xadd("stream:jobs", {"n": n})
    measured("bytes lost", server.cut_power())
    server.start("--appendonly", "yes", "--appendfsync", "no")
    assert server.client().xlen("stream:jobs") == 0


@new
@pytest.mark.timeout(300 if LONG else 60)
async def test_with_a_file_that_is_always_synced_nothing_is_lost(server: FrailServer, measured: Measured) -> None:
    assert await lost_by_cuts(server, "always", Publisher(server.url, lanes=5), measured) == []


@new
@pytest.mark.timeout(300 if LONG else 60)
async def test_with_a_file_that_is_synced_every_second_the_last_seconds_are_lost(
    server: FrailServer, measured: Measured
) -> None:
    lost = await lost_by_cuts(server, "everysec", Publisher(server.url, lanes=5), measured, load_for=2.5)

    assert lost
    measured("seconds before the cut, the longest", max(lost))
    assert max(lost) < 3


@able
@pytest.mark.timeout(300 if LONG else 60)
async def test_what_the_disk_had_to_have_is_not_lost(server: FrailServer, measured: Measured) -> None:
    publisher = Publisher(server.url, lanes=5, durability="disk")
    assert await lost_by_cuts(server, "always", publisher, measured) == []


@truthful
@pytest.mark.timeout(900 if LONG else 60)
async def test_what_the_disk_had_to_have_is_not_lost_though_it_is_synced_once_a_second(
    server: FrailServer, measured: Measured
) -> None:
    publisher = Publisher(server.url, lanes=50, durability="disk")
    assert await lost_by_cuts(server, "everysec", publisher, measured) == []


@hasty
async def test_a_server_that_is_refused_says_yes_and_loses_it(server: FrailServer, measured: Measured) -> None:
    """Why it is refused. Should this fail on a newer version, that one can be believed."""
    server.start("--appendonly", "yes", "--appendfsync", "everysec")
    with redis.Redis.from_url(server.url) as client:
        said_yes = 0
        for n in range(200):
            client.xadd("stream:jobs", {"n": n})
            said_yes += client.execute_command("WAITAOF", 1, 0, 3000)[0]
        server.cut_power()
    server.start("--appendonly", "yes", "--appendfsync", "everysec")

    kept = server.client().xlen("stream:jobs")
    measured("said to be on disk, and lost", said_yes - kept)
    assert kept < said_yes
