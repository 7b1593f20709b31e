"""Leases: one holder at a time, and none who believes to hold what may be another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from streamtask_contrib.leases import Lease

from streamtask import App, TransportError
from streamtask.clock import ManualClock
from streamtask.records import Records
from tests.conftest import ServerPool
from tests.servers import ServerBinary, available_servers


@pytest.fixture(params=[None, *available_servers()], ids=lambda binary: binary.name if binary else "memory")
async def records(request: pytest.FixtureRequest, server_pool: ServerPool) -> AsyncIterator[Records]:
    """Records on each engine in turn."""
    binary: ServerBinary | None = request.param
    async with App("test", broker=server_pool.get(binary).url if binary else "memory://") as app:
        yield app.records


def lease(records: Any, holder: str, *, ttl: float = 60.0, **options: Any) -> Lease:
    return Lease(records, "lease", holder, ttl=ttl, **options)


async def test_of_many_who_want_it_one_has_it(records: Records) -> None:
    leases = [lease(records, f"h{n}") for n in range(20)]
    taken = await asyncio.gather(*(each.take() for each in leases))
    assert sum(taken) == 1
    [holder] = [f"h{n}" for n, has in enumerate(taken) if has]
    assert await leases[0].holder() == holder
    assert [each.remaining > 0 for each in leases] == taken


async def test_it_is_renewed_by_its_holder_alone(records: Records) -> None:
    mine, other = lease(records, "mine"), lease(records, "other")
    assert not await mine.renew()
    assert await mine.take()
    assert await mine.take()
    assert await mine.renew()
    assert not await other.renew()
    assert not await other.take()
    assert (mine.remaining > 59, other.remaining) == (True, 0)


async def test_it_is_free_when_it_is_let_go_or_has_run_out_and_not_before(records: Records) -> None:
    mine, other = lease(records, "mine"), lease(records, "other", ttl=0.3)
    assert await mine.take()
    await other.release()
    assert await mine.holder() == "mine"
    await mine.release()
    assert (await mine.holder(), mine.remaining) == (None, 0)
    assert await other.take()
    while other.remaining:
        assert not await mine.take() or not other.remaining
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert await mine.take()
    # Whoever comes back is told, and knew it before.
    assert other.remaining == 0
    assert not await other.renew()
    assert await mine.holder() == "mine"


async def test_what_stands_beside_it_is_read_by_all_and_goes_with_it(records: Records) -> None:
    mine = lease(records, "mine")
    await mine.take({"place": b"here"})
    await mine.renew({"at": b"now"})
    assert await records.read("lease") == {"holder": b"mine", "place": b"here", "at": b"now"}
    await mine.release()
    assert await records.read("lease") == {}


async def test_it_counts_from_before_it_was_asked_for(records: Records) -> None:
    clock = ManualClock()

    class Slow:
        """Each answer takes three seconds."""

        async def swap(self, *args: Any, **options: Any) -> bool:
            clock.advance(3.0)
            return await records.swap(*args, **options)

    mine = lease(Slow(), "mine", ttl=10.0, clock=clock.monotonic)
    assert await mine.take()
    # Two questions: is it ours, is it free.
    assert mine.remaining == 4.0
    assert await mine.renew()
    assert mine.remaining == 7.0


async def test_without_an_answer_what_is_held_stays_held_until_its_time_is_over(records: Records) -> None:
    clock = ManualClock()
    is_away = False

    class Away:
        async def swap(self, *args: Any, **options: Any) -> bool:
            if is_away:
                raise TransportError("away")
            return await records.swap(*args, **options)

    mine = lease(Away(), "mine", ttl=10.0, clock=clock.monotonic)
    await mine.take()
    is_away = True
    clock.advance(4.0)
    for ask in (mine.take, mine.renew):
        with pytest.raises(TransportError):
            await ask()
    assert mine.remaining == 6.0
    clock.advance(6.5)
    assert mine.remaining == 0
