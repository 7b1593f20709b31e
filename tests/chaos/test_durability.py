"""What each durability setting of the server is worth when its process is killed: counted, not believed.

The host goes on living, so what the kernel had been given is in the file. `test_power_cut.py` takes that away, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from streamtask import App
from streamtask.errors import PublishError
from tests.chaos.conftest import Measured
from tests.chaos.workers import LONG, Job, until
from tests.servers import RedisServer, ServerBinary

_EVENTS = 20_000 if LONG else 2_000


@pytest.fixture
def server(server_binary: ServerBinary) -> Iterator[RedisServer]:
    """Not started yet, and keeping nothing unless it is told to."""
    server = RedisServer(server_binary)
    yield server
    server.close()


async def lost_by_a_kill(server: RedisServer, *options: str) -> int:
    """Publish one by one, kill the server under the load, start it again: how many acknowledged events are gone."""
    server.start(*options)
    async with App("chaos", broker=server.url) as app:
        returned = [await app.publish(Job(n=n)) for n in range(_EVENTS)]
        server.kill()
        with pytest.raises(PublishError):
            await app.publish(Job(n=-1))
    server.start(*options)
    kept = b"".join(fields[b"envelope"] for _, fields in server.client().xrange("stream:jobs"))
    return sum(event_id.encode() not in kept for event_id in returned)


async def test_without_persistence_a_killed_server_loses_everything(server: RedisServer, measured: Measured) -> None:
    lost = await lost_by_a_kill(server)

    measured(f"lost of {_EVENTS}", lost)
    assert lost == _EVENTS


async def test_with_snapshots_a_killed_server_loses_what_came_after_the_last_one(
    server: RedisServer, measured: Measured
) -> None:
    server.start()
    async with App("chaos", broker=server.url) as app:
        await app.publish_many([Job(n=n) for n in range(100)])
        client = server.client()
        client.bgsave()
        await until(lambda: client.info("persistence")["rdb_bgsave_in_progress"] == 0, 10)
        await app.publish_many([Job(n=n) for n in range(100, 150)])
        server.kill()
    server.start()

    kept = server.client().xlen("stream:jobs")
    measured("lost of 50 after the snapshot", 150 - kept)
    assert kept == 100


async def test_with_an_append_only_file_a_killed_server_loses_nothing_if_every_write_is_synced(
    server: RedisServer, measured: Measured
) -> None:
    lost = await lost_by_a_kill(server, "--appendonly", "yes", "--appendfsync", "always")

    measured(f"lost of {_EVENTS}", lost)
    assert lost == 0


async def test_with_an_append_only_file_synced_every_second_a_killed_server_loses_two_seconds_at_most(
    server: RedisServer, measured: Measured
) -> None:
    began = time.monotonic()
    lost = await lost_by_a_kill(server, "--appendonly", "yes", "--appendfsync", "everysec")

    measured(f"lost of {_EVENTS}", lost)
    # It puts a write off, for two seconds at most, while the disk is still busy with the last sync.
    assert lost <= _EVENTS * min(1.0, 2 / (time.monotonic() - began))
