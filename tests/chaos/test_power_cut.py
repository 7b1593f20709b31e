"""A power cut: the server is gone, and with it whatever its disk had not been made to keep. Counted, by setting.

No plug is pulled: the server runs with a library of ours that notes how much of each file was synced (`synced.c`), is
killed, and its files are cut back to that. So a cut takes all that it may.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.clocks import HOUR, WrongClock
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.oracle import LOAD, no_suspects
from tests.chaos.power import PluggedServer
from tests.chaos.preload import compiled
from tests.chaos.workers import LONG, Ledger, Publisher, emitted, nothing_pending, until
from tests.servers import ServerBinary

#: Seconds that this machine may be late by, with all that it does meanwhile.
MARGIN = 3.0
#: Seconds between two syncs by which `everysec` is far from either.
IN_BETWEEN = 0.5

#: (appendfsync, **options) -> a server that runs.
Plugged = Callable[..., PluggedServer]


@pytest.fixture
def plugged(server_binary: ServerBinary, tmp_path: Path) -> Iterator[Plugged]:
    """Start servers whose plug can be pulled; ended after the test."""
    library, servers = compiled("synced", tmp_path), []

    def start(appendfsync: str, **options: float) -> PluggedServer:
        servers.append(PluggedServer(server_binary, library, appendfsync=appendfsync, **options))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@dataclass(frozen=True)
class Cut:
    """What a power cut took."""

    #: How many events the server had said yes to.
    acknowledged: int
    #: Of each of those that is lost, how long before the cut that was, in seconds.
    ages: list[float]


async def cut(server: PluggedServer, measured: Measured, *, after: float, unsynced: float = 0.0) -> Cut:
    """Publish for `after` seconds and pull the plug.

    `unsynced`: seconds since the last sync at the least, so that there is something to lose.
    """
    async with Publisher(server.url, lanes=3) as publisher:
        await asyncio.sleep(after)
        await until(lambda: server.seconds_since_sync >= unsynced, 20)
        acknowledged, cut_at = dict(publisher.returned), time.monotonic()
        taken = server.pull_the_plug()
        server.start()
    there = {each["n"] for each in await emitted(server.url, "jobs")}
    ages = [cut_at - moment for n, moment in acknowledged.items() if n not in there]
    measured("acknowledged", len(acknowledged))
    measured("bytes that were not synced", taken)
    measured("lost", len(ages))
    measured("age of the oldest that is lost, s", max(ages, default=0.0))
    return Cut(len(acknowledged), ages)


async def test_a_power_cut_takes_nothing_from_a_server_that_syncs_every_write(
    plugged: Plugged, measured: Measured
) -> None:
    for _ in range(5 if LONG else 1):
        assert (await cut(plugged("always"), measured, after=2.0)).ages == []


async def test_a_power_cut_takes_two_seconds_at_most_from_a_server_that_syncs_every_second(
    plugged: Plugged, measured: Measured
) -> None:
    for _ in range(5 if LONG else 1):
        ages = (await cut(plugged("everysec"), measured, after=5.0, unsynced=IN_BETWEEN)).ages
        assert ages
        assert max(ages) < 2.0 + MARGIN


@one_server
async def test_a_power_cut_takes_more_than_two_seconds_where_a_sync_takes_as_long(
    plugged: Plugged, measured: Measured
) -> None:
    taken = await cut(plugged("everysec", sync_takes=2.0), measured, after=4.0, unsynced=IN_BETWEEN)

    # What came since the last sync began that has ended: its own time, up to a second, and the next one's so far.
    assert 2.0 < max(taken.ages) < 2 * 2.0 + 1.0 + MARGIN


@pytest.mark.parametrize("remedy", ["", "told", "restarted"])
async def test_a_server_whose_clock_was_set_back_syncs_no_more_until_it_is_told_to_or_restarted(
    server_binary: ServerBinary, tmp_path: Path, measured: Measured, *, remedy: str
) -> None:
    clock = WrongClock(compiled("clock", tmp_path), tmp_path / "clock")
    server = PluggedServer(clock.of(server_binary), compiled("synced", tmp_path), appendfsync="everysec")
    try:
        server.start()
        async with Publisher(server.url) as publisher:
            await asyncio.sleep(2.0)
            clock.move(-HOUR)
            set_at = time.monotonic()
            await asyncio.sleep(2.0)
            if remedy == "told":
                before = len(publisher.returned)
                server.client().config_set("appendfsync", "always")
                await until(lambda: len(publisher.returned) > before + 10, 10)
                server.client().config_set("appendfsync", "everysec")
            elif remedy == "restarted":
                server.restart()
            await asyncio.sleep(2.0 + MARGIN)
            acknowledged, cut_at = dict(publisher.returned), time.monotonic()
            server.pull_the_plug()
            server.start()
        there = {each["n"] for each in await emitted(server.url, "jobs")}
        ages = [cut_at - moment for n, moment in acknowledged.items() if n not in there]
    finally:
        server.close()

    measured("seconds since the clock was set back", cut_at - set_at)
    measured("age of the oldest that is lost, s", max(ages, default=0.0))
    if remedy:
        assert max(ages, default=0.0) < 2.0 + MARGIN
    else:
        assert max(ages) > cut_at - set_at - 1.0


async def test_a_power_cut_takes_everything_from_a_server_that_leaves_syncing_to_the_system(
    plugged: Plugged, measured: Measured
) -> None:
    taken = await cut(plugged("no"), measured, after=1.0)

    assert taken.acknowledged > 100
    assert len(taken.ages) == taken.acknowledged


@one_server
@pytest.mark.timeout(600 if LONG else 180)
async def test_of_what_power_cuts_leave_nothing_is_skipped_and_each_event_has_its_effects_once(
    plugged: Plugged, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    server = plugged("everysec")
    workers = [await start_worker(server.url, LOAD, concurrency=50) for _ in range(2)]
    cuts, lost, ages = 20 if LONG else 3, set[int](), list[float]()
    async with Publisher(server.url, lanes=3) as publisher:
        # Until the disk has the group, too.
        await asyncio.sleep(3.0)
        for _ in range(cuts):
            # New files take the place of the old ones, now and then under load, too.
            server.client().bgrewriteaof()
            await asyncio.sleep(1.0)
            await until(lambda: server.seconds_since_sync > IN_BETWEEN, 10)
            acknowledged, cut_at = dict(publisher.returned), time.monotonic()
            server.pull_the_plug()
            server.start()
            there = {each["n"] for each in await emitted(server.url, "jobs")}
            ages += [cut_at - acknowledged[n] for n in acknowledged.keys() - there - lost]
            lost |= acknowledged.keys() - there
    await nothing_pending(server.url, within=30)

    stored = Counter(each["n"] for each in await emitted(server.url, "jobs"))
    made = Counter(each["n"] for each in await emitted(server.url, "made"))
    ends = ledger.count("end")
    again = sum(ends[str(n)] - 1 for n in stored)
    measured("acknowledged", len(publisher.returned))
    measured(f"lost by {cuts} cuts", len(publisher.returned.keys() - stored.keys()))
    measured("age of the oldest that is lost, s", max(ages))
    measured("handled again, for their acks were lost", again)
    assert set(stored.values()) == {1}
    assert made == stored, f"skipped {stored - made}, doubled {made - stored}"
    assert again > 0
    assert max(ages) < 2.0 + MARGIN
    no_suspects(workers)
