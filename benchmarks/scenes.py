"""How the figures are taken: each scene starts from an empty server and yields (figure, value)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks import meters
from benchmarks.peers import System
from benchmarks.stage import MeasurementError, Stage, Worker

Values = Iterator[tuple[str, float]]
#: Of a drain, the part that is not measured, for the worker warms up; and the most events that this may be.
_WARM, _WARM_MOST = 0.1, 10_000
#: Of a drain, the part that has to be done in time, and the most events that this may be.
_ENOUGH, _ENOUGH_MOST = 0.05, 1_000
#: Of the events at low load, those that are not measured.
_FIRST = 20
_SMALL = 20_000


def publishing(stage: Stage) -> Values:
    """One publisher, no worker."""
    count = stage.scale.publishes
    stage.publisher.ask("one", kind="noop", count=count // 10)
    yield "publish-one", count / stage.publisher.ask("one", kind="noop", count=count)
    yield "publish-100", 2 * count / stage.publisher.ask("callers", kind="noop", count=2 * count)
    many = stage.scale.publishes_many
    seconds = stage.publisher.ask("many", kind="noop", count=many)
    if seconds is not None:
        yield "publish-many", many / seconds


def draining(stage: Stage) -> Values:
    """A backlog of events whose handlers do nothing; then the worker's highest memory."""
    stage.fill("noop", backlog := stage.system.backlog // stage.scale.divisor)
    with stage.worker("noop") as worker:
        drained = drain(stage, worker, backlog)
        yield "noop", drained.rate
        yield "noop-cpu", drained.cpu
        yield "memory-peak", meters.peak_mib(worker.pids)


def emitting(stage: Stage) -> Values:
    """As `draining`, but each handler emits an event in the step that acks."""
    stage.fill("emit", backlog := stage.system.backlog // stage.scale.divisor // 2)
    with stage.worker("emit") as worker:
        yield "emit", drain(stage, worker, backlog).rate


def waiting(stage: Stage) -> Values:
    """As `draining`, but each handler waits 10 ms, 100 of them at once."""
    stage.fill("io", backlog := stage.system.waiting // stage.scale.divisor)
    with stage.worker("io") as worker:
        yield "io", drain(stage, worker, backlog).rate


def quiet(stage: Stage) -> Values:
    """A worker that starts, handles an event now and then, and then none."""
    stage.publisher.ask("one", kind="noop", count=1)
    with stage.worker("noop") as worker:
        yield "start", stage.wait_for_first(worker)
        time.sleep(stage.scale.settle)
        limit = 15.0
        latencies = stage.publisher.ask("paced", kind="noop", count=stage.scale.paced + _FIRST, limit=limit)[_FIRST:]
        yield "latency-p50", 1000 * statistics.median(latencies)
        yield "latency-p99", 1000 * percentile(latencies, 0.99)
        time.sleep(stage.scale.settle)
        yield "memory-idle", meters.memory_mib(worker.pids)
        before = meters.cpu_seconds(worker.pids)
        time.sleep(stage.scale.idle)
        yield "cpu-idle", 100 * (meters.cpu_seconds(worker.pids) - before) / stage.scale.idle


def growing(stage: Stage) -> Values:
    """The same drain from a small and from a large backlog: the rate of its first seconds."""
    for name, backlog in (("drain-20k", _SMALL), ("drain-1m", stage.scale.grown)):
        stage.clear()
        stage.fill("noop", backlog)
        with stage.worker("noop") as worker:
            yield name, drain(stage, worker, backlog).rate


def beside_pending(stage: Stage) -> Values:
    """A drain in a group that has many entries pending which are not due."""
    stage.fill("park", pending := stage.scale.pending)
    with stage.worker("park") as worker:
        stage.wait_for_first(worker)
        if stage.wait(worker, pending, 60.0) < pending:
            raise MeasurementError(f"only {stage.board.count} of {pending} entries were left pending")
        # Counted, but perhaps not settled yet.
        time.sleep(1.0)
    stage.board.reset()
    stage.fill("noop", _SMALL)
    with stage.worker("noop") as worker:
        yield "drain-pending", drain(stage, worker, _SMALL).rate


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain has shown."""

    #: Events a second, by the times that handlers wrote.
    rate: float
    #: Processor time of the worker for one event, in microseconds.
    cpu: float


def drain(stage: Stage, worker: Worker, backlog: int) -> Drained:
    """Watch a worker handle a backlog, to its end or as long as the scale allows."""
    stage.wait_for_first(worker)
    first = max(1, min(int(backlog * _WARM), _WARM_MOST))
    first = max(1, stage.wait(worker, first, stage.scale.drain))
    cpu = meters.cpu_seconds(worker.pids)
    last = min(stage.wait(worker, backlog, stage.scale.drain), backlog)
    cpu = meters.cpu_seconds(worker.pids) - cpu
    # Of a worker that did not get to the end, the time counts in which it stood still, too.
    ended = stage.board.at(last) if last == backlog else time.monotonic_ns()
    seconds = (ended - stage.board.at(first)) / 1e9
    if last - first < min(backlog * _ENOUGH, _ENOUGH_MOST) or seconds <= 0:
        raise MeasurementError(f"only {last} of {backlog} events were handled in {stage.scale.drain:g} s")
    if stage.board.count > backlog:
        raise MeasurementError(f"{stage.board.count} handlers ran for {backlog} events: some ran twice")
    return Drained((last - first) / seconds, 1e6 * cpu / (last - first))


def percentile(values: list[float], share: float) -> float:
    """The smallest value that is not below this share of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Scene:
    """A function above, the figures it yields, and the systems that can play it."""

    play: Callable[[Stage], Values]
    figures: tuple[str, ...]
    #: What a system has to have among its `extras`.
    needs: str = ""
    long: bool = False

    def suits(self, system: System) -> bool:
        """Whether a system can play it."""
        if system.publishes_only:
            return self.play is publishing
        return not self.needs or self.needs in system.extras


SCENES = (
    Scene(publishing, ("publish-one", "publish-100", "publish-many")),
    Scene(draining, ("noop", "noop-cpu", "memory-peak")),
    Scene(emitting, ("emit",), needs="emit"),
    Scene(waiting, ("io",)),
    Scene(quiet, ("start", "latency-p50", "latency-p99", "memory-idle", "cpu-idle")),
    Scene(growing, ("drain-20k", "drain-1m"), needs="growth", long=True),
    Scene(beside_pending, ("drain-pending",), needs="pending", long=True),
)
