"""Lookups: what is asked for together goes together, and nobody is told "no" by a server that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.worker.lookups import Lookups
from streamtask.worker.outage import Outage
from tests.chaos.workers import until


class Server:
    """Answers when it is let; even names stand."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[int]]] = []
        self.open = asyncio.Event()
        self.failures = 0

    async def ask(self, place: str, names: Sequence[int]) -> list[bool]:
        self.asked.append((place, list(names)))
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise TransportError("away")
        return [name % 2 == 0 for name in names]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def lookups(server: Server):
    lookups: Lookups[int] = Lookups(server.ask, Outage("marks", Metrics()))
    yield lookups
    await lookups.close()


async def test_while_one_round_trip_is_on_its_way_the_next_one_grows(server: Server, lookups: Lookups[int]) -> None:
    first = [asyncio.create_task(lookups.stands("orders", n)) for n in (1, 2)]
    await until(lambda: server.asked, 5)
    later = []
    for n in range(3, 9):
        later.append(asyncio.create_task(lookups.stands("orders", n)))
        await asyncio.sleep(0)
    elsewhere = asyncio.create_task(lookups.stands("bills", 4))
    await until(lambda: len(server.asked) == 2, 5)
    server.open.set()

    assert await asyncio.gather(*first, *later, elsewhere) == [n % 2 == 0 for n in range(1, 9)] + [True]
    assert server.asked == [("orders", [1, 2]), ("bills", [4]), ("orders", [3, 4, 5, 6, 7, 8])]


async def test_after_an_answer_others_are_asked_anew(server: Server, lookups: Lookups[int]) -> None:
    server.open.set()
    for n in range(3):
        assert await lookups.stands("orders", n) is (n % 2 == 0)

    assert server.asked == [("orders", [0]), ("orders", [1]), ("orders", [2])]


async def test_a_server_that_is_away_is_waited_for_by_all_who_have_asked(server: Server, lookups: Lookups[int]) -> None:
    server.failures = 2
    server.open.set()
    asked = [asyncio.create_task(lookups.stands("orders", 1))]
    await until(lambda: server.asked, 5)
    asked.append(asyncio.create_task(lookups.stands("orders", 2)))

    assert await asyncio.gather(*asked) == [False, True]


async def test_who_is_cancelled_takes_no_answer_from_the_others(server: Server, lookups: Lookups[int]) -> None:
    gone, stays = (asyncio.create_task(lookups.stands("orders", n)) for n in (1, 2))
    await until(lambda: server.asked, 5)
    gone.cancel()
    server.open.set()

    assert await stays is True
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_nobody_waits_for_what_is_closed(server: Server, lookups: Lookups[int]) -> None:
    first = asyncio.create_task(lookups.stands("orders", 1))
    await until(lambda: server.asked, 5)
    second = asyncio.create_task(lookups.stands("orders", 2))
    await asyncio.sleep(0)

    await lookups.close()

    for waiting in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await waiting
