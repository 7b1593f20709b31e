"""One run: workers, publishers and a server in one thread, with the faults of a seed; and what it has shown."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any
from unittest.mock import patch

from streamtask.errors import PublishError, TransportError
from streamtask.settings import WorkerSettings
from streamtask.worker.keeper import BEAT_TTL, Keeper
from tests.simulation import program
from tests.simulation.loops import Loop, Process, Scheduler, SpinningError, virtual
from tests.simulation.network import Server
from tests.simulation.options import Options
from tests.simulation.oracle import Oracle
from tests.simulation.promises import broken

#: Seconds until a dead worker is replaced, at most.
_REPLACED = 2.0
#: Seconds that handlers get when a worker is asked to end.
_GRACE = 3.0
#: How many callbacks of a process a fault may wait for, so that it hits between any two of them.
_FUSE = 60
#: Seconds for which an idle fleet is watched, and commands that a worker may send in each.
_IDLE = 10.0
_IDLE_COMMANDS = 40


@dataclass(slots=True)
class Result:
    """What came of a run."""

    options: Options
    wrong: list[str]
    digest: str
    lines: list[str]
    #: Figures, to be added up over runs.
    figures: dict[str, float] = field(default_factory=dict)


class SimulatedKeeper(Keeper):
    """A keeper whose thread is one of the simulated process."""

    def start(self) -> None:
        self._task = _loop().process.thread("keeper", self.run())

    async def stop(self) -> None:
        self._stop.set()
        # The task is another loop's, which nothing here can wait for.
        while not self._task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def simulate(options: Options) -> Result:
    """Run a seed."""
    chance = Random(f"run {options.seed}")
    scheduler = Scheduler(chance)
    ids = map("event-{:03}".format, count())
    with (
        virtual(scheduler, options.seed),
        patch("streamtask.worker.worker.Keeper", SimulatedKeeper),
        patch("streamtask.worker.worker.new_owner", map("owner-{:03}".format, count()).__next__),
        # Events that are due at one moment are promoted in the order of their ids.
        patch("streamtask.envelope.new_event_id", ids.__next__),
    ):
        world = _World(options, scheduler, chance)
        try:
            wrong = world.run()
        except SpinningError as error:
            wrong = [str(error)]
        finally:
            scheduler.bury()
    oracle = world.oracle
    return Result(options, wrong, oracle.digest, oracle.lines, world.figures)


class _World:
    def __init__(self, options: Options, scheduler: Scheduler, chance: Random) -> None:
        self.oracle = Oracle(now=lambda: scheduler.now)
        self.figures: dict[str, float] = {}
        self._options = options
        self._scheduler = scheduler
        self._chance = chance
        self._server = Server(scheduler, chance, self.oracle, options.faults)
        conduct = program.Conduct(self.oracle, options.lease, lambda loop: self._kill(loop.process))
        self._app = program.make_app(self._server, conduct)
        self._kinds = program.kinds(chance, options.events)
        #: Living workers, and what asks each to end.
        self._workers: dict[Process, Callable[[], None]] = {}
        self._started = 0
        self._publishing = 0
        self._struck: Counter[str] = Counter()
        self._chaos = scheduler.process("chaos")

    def run(self) -> list[str]:
        """Everything that went wrong."""
        options, oracle = self._options, self.oracle
        for _ in range(options.workers):
            self._start_worker()
        for first in range(2):
            self._publishing += 1
            self._scheduler.process(f"publisher {first}").thread("main", self._publish(range(first, options.events, 2)))
        self._strike()
        self._scheduler.run(lambda: bool(oracle.wrong), options.lasts)
        if not options.heals or oracle.wrong:
            return self._summary(self._broken(finished=False))
        self._chaos.kill()
        self._server.heal()
        for process in self._workers:
            process.go_on()
        for _ in range(options.workers - len(self._workers)):
            self._start_worker()
        healed_at = self._scheduler.now
        self._scheduler.run(lambda: bool(oracle.wrong) or self._is_finished(), self._bound())
        self.figures["seconds until all was settled"] = self._scheduler.now - healed_at
        return self._summary(self._broken(finished=True) or self._idle())

    # ── actors ────────────────────────────────────────────────────────────────────────────────────────────────

    def _start_worker(self) -> None:
        self._started += 1
        process = self._scheduler.process(f"worker {self._started}")
        asked = asyncio.Event()
        task = process.thread("main", self._work(process, asked))
        loop: Any = task.get_loop()
        self._workers[process] = lambda: loop.call_soon_threadsafe(asked.set)

    async def _work(self, process: Process, asked: asyncio.Event) -> None:
        settings = WorkerSettings(
            concurrency=self._options.concurrency, lease=self._options.lease, shutdown_timeout=_GRACE
        )
        worker = self._app.make_worker(settings)
        while True:
            try:
                await worker.connect()
                break
            except TransportError:
                await asyncio.sleep(0.5)
        await worker.start()
        ends = asyncio.create_task(asked.wait())
        fails = asyncio.create_task(worker.failed())
        await asyncio.wait((ends, fails), return_when=asyncio.FIRST_COMPLETED)
        if fails.done() and not fails.cancelled():
            self.oracle.wrong.append(f"{process.name}: {fails.exception()!r}")
        await worker.stop()
        self._kill(process)

    async def _publish(self, numbers: range) -> None:
        app = program.SimulatedApp("publisher", self._server)
        while True:
            try:
                await app.__aenter__()
                break
            except TransportError:
                await asyncio.sleep(0.5)
        for n in numbers:
            await asyncio.sleep(self._chance.uniform(0, 2 * 0.8 * self._options.lasts / len(numbers)))
            await self._publish_one(app, n, self._kinds[n])
        self._publishing -= 1

    async def _publish_one(self, app: program.SimulatedApp, n: int, kind: str) -> None:
        event, event_id = program.event_of(n, kind), None
        delay = 0.7 if n % 7 == 0 else None
        self.oracle.sending(n, kind)
        while True:
            try:
                await app.publish(event, event_id=event_id, delay=delay)
            except PublishError as error:
                event_id = error.event_id
                await asyncio.sleep(self._chance.uniform(0, 1))
            else:
                self.oracle.returned(n)
                return

    # ── faults ────────────────────────────────────────────────────────────────────────────────────────────────

    def _strike(self) -> None:
        """Begin with the faults that come from time to time."""
        faults, lease = self._options.faults, self._options.lease
        server, chance = self._server, self._chance
        for name, strike in {
            "disconnect_every": lambda: self._at_a_worker(server.hang_up),
            "stopped_every": lambda: self._at_a_worker(lambda process: process.stop(chance.uniform(0, 3 * lease))),
            "killed_every": lambda: self._at_a_worker(self._kill),
            "replaced_every": lambda: self._at_a_worker(lambda process: self._workers[process]()),
            "clock_set_every": lambda: self._at_a_worker(
                lambda process: process.set_clock(chance.uniform(-3600, 3600))
            ),
            "away_every": lambda: server.go_away(chance.uniform(0, 8)),
            "readonly_every": lambda: server.refuse_writes(chance.uniform(0, 8)),
            "full_every": lambda: server.be_full(chance.uniform(0, 8)),
            "forgets_every": lambda: server.forget(chance.uniform(0, 3)),
            "failover_every": lambda: server.fail_over(chance.uniform(0, 3)),
        }.items():
            if mean := getattr(faults, name):
                self._chaos.thread(name, self._every(mean, name, strike))

    async def _every(self, mean: float, name: str, strike: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(self._chance.expovariate(1 / mean))
            self.oracle.trace(name.removesuffix("_every"))
            self._struck[name.removesuffix("_every")] += 1
            strike()

    def _at_a_worker(self, strike: Callable[[Process], None]) -> None:
        """At some worker, a few of its callbacks from now."""
        living = list(self._workers)
        if living:
            process = self._chance.choice(living)
            process.after(self._chance.randint(0, _FUSE), lambda: process in self._workers and strike(process))

    def _kill(self, process: Process) -> None:
        process.kill()
        for verb in self._server.hang_up(process):
            # Where the killed were: it is trials that hit a window that count.
            self._struck[f"gone during {verb}"] += 1
        if self._workers.pop(process, None) is not None:
            self.oracle.trace(f"{process.name} is gone")
            starting = self._scheduler.process("supervisor")
            starting.thread("main", self._replace(self._chance.uniform(0, _REPLACED)))

    async def _replace(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if len(self._workers) < self._options.workers:
            self._start_worker()

    # ── what is looked at ─────────────────────────────────────────────────────────────────────────────────────

    def _broken(self, *, finished: bool) -> list[str]:
        return broken(self.oracle, self._server.store, self._options, finished=finished)

    def _is_finished(self) -> bool:
        if self._publishing:
            return False
        for stream, group in program.PLACES:
            state = self._server.store.find(stream)
            reading = state.log.groups.get(group)
            if state.delayed or reading is None or reading.pending or reading.last_delivered < state.log.last_id:
                return False
        return True

    def _bound(self) -> float:
        """Seconds within which all is settled, once nothing goes wrong any more."""
        lease = self._options.lease
        # What is promised; and handlers take their time, in the worst case one after the other. Poison dies five
        # times, and takes with it who runs beside it; each time the others wait for the beat to end.
        work = sum(program.seconds_of(kind, lease) for kind in self._kinds)
        deaths = 5 * "poison" in self._kinds
        return 3 * lease + 4 * BEAT_TTL + work + deaths * (3 * BEAT_TTL + 2 * lease)

    def _idle(self) -> list[str]:
        """Nothing is to be done: who asks all the same, and how often."""
        self._server.commands.clear()
        self._scheduler.run(lambda: False, _IDLE)
        most = max(self._server.commands.values(), default=0) / _IDLE
        self.figures["commands per idle second"] = most
        busy = {name: n for name, n in self._server.commands.items() if n > _IDLE_COMMANDS * _IDLE}
        return [f"{name} sent {n} commands in {_IDLE:g} idle seconds" for name, n in busy.items()]

    def _summary(self, wrong: list[str]) -> list[str]:
        oracle = self.oracle
        self.figures |= {
            "virtual seconds": self._scheduler.now,
            "events": len(oracle.sent),
            "handler runs": oracle.begun.total(),
            "runs cut off": oracle.begun.total() - oracle.handled.total() - oracle.raised.total(),
            "outcomes refused": oracle.refused,
            "outcomes taken": sum(map(len, oracle.taken.values())),
            **self._struck,
        }
        return wrong


def _loop() -> Loop:
    return asyncio.get_running_loop()  # type: ignore[return-value]
