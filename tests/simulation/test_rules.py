"""Rules in the simulation: whoever publishes a tick is killed again and again, and the clocks of workers are off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from random import Random
from typing import Any
from unittest.mock import patch

import pytest

from streamtask import Tick
from streamtask.envelope import decode
from streamtask.errors import TransportError
from streamtask.settings import WorkerSettings
from streamtask.transport.memory import MemoryTransport
from streamtask.transport.values import Slot
from tests.chaos.workers import LONG
from tests.simulation.loops import EPOCH, Process, Scheduler, virtual
from tests.simulation.network import FaultyTransport, Server
from tests.simulation.options import Faults
from tests.simulation.oracle import Oracle
from tests.simulation.program import SimulatedApp
from tests.simulation.world import SimulatedKeeper

_WORKERS = 5
#: Seconds: how long it lasts, between two kills, until a killed worker is replaced, at most, and between two ticks.
_LASTS = 3600.0 if LONG else 120.0
_KILLED_EVERY = 60.0 if LONG else 10.0
_REPLACED = 2.0
_INTERVALS = {"beat": 5, "minute": 10}


class Noting:
    """A schedule that tells the fleet whose tick was taken, before the worker itself knows."""

    def __init__(self, schedule: Any, process: Process, fleet: Fleet) -> None:
        self._schedule = schedule
        self._process = process
        self._fleet = fleet

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._schedule, verb)

    async def tick(self, slots: Sequence[Slot]) -> list[bool]:
        taken: list[bool] = await self._schedule.tick(slots)
        if any(taken):
            self._fleet.ticked(self._process)
        return taken


class RuleServer(Server):
    """A server that tells the fleet who ticks."""

    fleet: Fleet

    def transport(self) -> FaultyTransport:
        memory = MemoryTransport(self.store, clock=self.clock)
        loop: Any = asyncio.get_running_loop()
        memory.schedule = Noting(memory.schedule, loop.process, self.fleet)  # type: ignore[assignment]
        return FaultyTransport(self, memory)


class Fleet:
    """Five workers, and what kills them."""

    def __init__(self, scheduler: Scheduler, chance: Random) -> None:
        self.killed = 0
        self._strikes = False
        self._scheduler = scheduler
        self._chance = chance
        self.server = RuleServer(scheduler, chance, Oracle(now=lambda: scheduler.now), Faults(delayed=0.2))
        self.server.fleet = self
        self._app = SimulatedApp("shop", self.server)

        @self._app.every(_INTERVALS["beat"], name="beat")
        async def beat(tick: Tick) -> None: ...

        @self._app.cron("*/10 * * * * *", tz="Europe/Berlin", name="minute")
        async def minute(tick: Tick) -> None: ...

    def run(self) -> None:
        """Have all of it happen."""
        for _ in range(_WORKERS):
            self._start()
        self._scheduler.process("killer").thread("main", self._kill())
        self._scheduler.run(lambda: False, _LASTS)

    def _start(self) -> None:
        process = self._scheduler.process("worker")
        process.set_clock(self._chance.uniform(-3600, 3600))
        process.thread("main", self._work())

    async def _work(self) -> None:
        worker = self._app.make_worker(WorkerSettings())
        while True:
            try:
                await worker.connect()
                break
            except TransportError:
                await asyncio.sleep(0.1)
        await worker.start()
        await worker.failed()

    async def _kill(self) -> None:
        while True:
            await asyncio.sleep(_KILLED_EVERY)
            self._strikes = True

    def ticked(self, process: Process) -> None:
        """A worker was the one to tick."""
        if self._strikes:
            self._strikes = False
            self.killed += 1
            process.kill()
            self.server.hang_up(process)
            asyncio.get_running_loop().call_later(self._chance.uniform(0, _REPLACED), self._start)

    def ticks(self, rule: str) -> list[tuple[int, float]]:
        """The moments of a rule that stand in the stream, in order, and how late each came there, in seconds."""
        found = []
        for entry in self.server.store.find("shop-tasks").log.after((0, 0)):
            envelope = decode(entry.fields[1])
            if envelope.event_type == rule:
                at = datetime.fromisoformat(envelope.payload["arguments"]["tick"]["at"]).timestamp()
                found.append((round(at), entry.id[0] / 1000 - at))
        return found


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2))
def test_no_tick_is_missed_or_doubled_while_whoever_ticks_is_killed(seed: int) -> None:
    chance = Random(f"rules {seed}")
    scheduler = Scheduler(chance)
    with virtual(scheduler, seed), patch("streamtask.worker.worker.Keeper", SimulatedKeeper):
        fleet = Fleet(scheduler, chance)
        try:
            fleet.run()
        finally:
            scheduler.bury()

    for rule, interval in _INTERVALS.items():
        ticks = fleet.ticks(rule)
        begin = int(EPOCH) // interval * interval + interval
        assert [at for at, _ in ticks] == list(range(begin, int(EPOCH + _LASTS), interval))
        assert max(late for _, late in ticks) < 2.0
        latest = max(late for _, late in ticks)
        print(f"\nMEASURED {rule}: latest of {len(ticks)} ticks, {fleet.killed} kills = {latest:.3f}")  # noqa: T201
    assert fleet.killed >= _LASTS / _KILLED_EVERY - 2
