"""What handlers have come to on its way: states wait for the server, progress waits for nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streamtask.errors import LeaseLostError, TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.values import Delivery, Progress
from streamtask.worker.checkpoints import Checkpoints
from streamtask.worker.outage import Outage
from tests.chaos.workers import until

ONE = Delivery("orders", "g", "1-0", "a", [])
TWO = Delivery("orders", "g", "2-0", "a", [])


class Engine:
    """Fails as often as it is told to, then answers."""

    def __init__(self) -> None:
        self.checkpoints = self
        self.failures = 0
        self.holds = True
        self.saved: list[bytes] = []
        #: Of every save that was asked for.
        self.numbers: list[int] = []
        self.reported: list[dict[str, float]] = []
        self.at: list[float] = []
        #: Called while a report is under way.
        self.meanwhile: Callable[[], None] = lambda: None

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise TransportError("away")

    async def save(self, delivery: Delivery, state: bytes, number: int) -> bool:
        self.numbers.append(number)
        self._fail()
        self.saved.append(state)
        return self.holds

    async def load(self, delivery: Delivery) -> bytes | None:
        self._fail()
        return b"1"

    async def report(self, reports: list[tuple[Delivery, str, Progress]]) -> None:
        self.at.append(asyncio.get_running_loop().time())
        self.meanwhile()
        self._fail()
        self.reported.append({delivery.entry_id: progress.fraction for delivery, _, progress in reports})


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def checkpoints(engine: Engine) -> AsyncIterator[Checkpoints]:
    transport: Any = engine
    made = Checkpoints(transport, Outage("checkpoint", Metrics()))
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_server_that_is_away_is_outlasted(
    checkpoints: Checkpoints, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine.failures = 3
    await checkpoints.save(ONE, b"state")
    engine.failures = 1

    assert await checkpoints.load(ONE) == b"1"
    assert engine.saved == [b"state"]
    assert [record.getMessage() for record in caplog.records][:2] == ["checkpoint.failed", "checkpoint.works_again"]


async def test_what_is_asked_again_has_its_number_and_what_is_saved_later_a_higher_one(
    checkpoints: Checkpoints, engine: Engine
) -> None:
    engine.failures = 1
    await checkpoints.save(ONE, b"early")
    await checkpoints.save(ONE, b"late")

    first, again, later = engine.numbers
    assert first == again < later


async def test_a_lease_that_is_lost_is_told_to_the_handler(checkpoints: Checkpoints, engine: Engine) -> None:
    engine.holds = False

    with pytest.raises(LeaseLostError):
        await checkpoints.save(ONE, b"late")
    with pytest.raises(LeaseLostError):
        await asyncio.to_thread(checkpoints.save_blocking, ONE, b"late")


async def test_a_thread_waits_until_it_is_kept(checkpoints: Checkpoints, engine: Engine) -> None:
    engine.failures = 2

    await asyncio.to_thread(checkpoints.save_blocking, ONE, b"state")

    assert engine.saved == [b"state"]


async def test_no_thread_waits_for_a_server_that_is_away_when_the_worker_has_ended(
    checkpoints: Checkpoints, engine: Engine
) -> None:
    engine.failures = 1_000_000
    waiting = asyncio.create_task(asyncio.to_thread(checkpoints.save_blocking, ONE, b"state"))
    await until(lambda: engine.failures < 1_000_000, 5)

    checkpoints.close()

    async with asyncio.timeout(5):
        # As asyncio has it, the cancellation of what a thread waits for is one of the thread.
        result = (await asyncio.gather(waiting, return_exceptions=True))[0]
    assert isinstance(result, asyncio.CancelledError)
    with pytest.raises(LeaseLostError):
        await asyncio.to_thread(checkpoints.save_blocking, ONE, b"later")


async def test_of_each_delivery_the_last_progress_is_written_and_no_more_than_twice_a_second(
    checkpoints: Checkpoints, engine: Engine
) -> None:
    for n in range(1000):
        checkpoints.report(ONE, "e1", Progress(n / 1000))
    await until(lambda: engine.reported, 5)
    # From threads, few: these have to be done before the next write, half a second later.
    for n in range(20):
        checkpoints.report(ONE, "e1", Progress(n / 20))
        await asyncio.to_thread(checkpoints.report, TWO, "e2", Progress(n / 40))
    await until(lambda: len(engine.reported) == 2, 10)

    assert engine.reported == [{"1-0": 0.999}, {"1-0": 0.95, "2-0": 0.475}]
    assert engine.at[1] - engine.at[0] >= 0.45


async def test_progress_is_written_once_the_server_is_back(checkpoints: Checkpoints, engine: Engine) -> None:
    def meanwhile() -> None:
        engine.meanwhile = lambda: None
        checkpoints.report(ONE, "e1", Progress(0.2))

    engine.failures, engine.meanwhile = 1, meanwhile
    checkpoints.report(ONE, "e1", Progress(0.1))
    checkpoints.report(TWO, "e2", Progress(0.1))

    await until(lambda: engine.reported, 10)
    assert engine.reported == [{"1-0": 0.2, "2-0": 0.1}]
