"""Worlds on a simulated clock: groups and services as they are on an ordinary day, and what can go wrong with them.

Each group is simulated look by look: arrivals, what its workers get done, what is in work, and who lives. A fault is
planted by changing a group or a service in the middle of its day. Nothing here knows how it is judged.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from streamtask_contrib.monitoring.samples import EntrySample, EntryState, GroupSample, InstanceSample, Sample

#: Seconds between two looks.
INTERVAL = 5.0
#: Seconds since the epoch, about, at which every day begins.
BEGIN = 1.7e9


def poisson(chance: random.Random, mean: float) -> int:
    """So many events where so many are expected."""
    if mean > 30:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), chance.random(), 0
    while product > limit:
        product *= chance.random()
        count += 1
    return count


@dataclass
class Running:
    """A long job in work."""

    entry_id: str
    until: float
    says_progress: bool


@dataclass
class Group:
    """A group of short handlers: what comes, how much gets done, and what stands in its way."""

    chance: random.Random
    name: str
    #: Events a second, by the second of the day.
    rate: Callable[[float], float]
    #: Events that its workers finish in a second.
    capacity: float
    slots: int = 4
    workers: int = 2
    #: Seconds of the day at which its workers are restarted, and for how long none lives then.
    restarts: tuple[float, ...] = ()
    downtime: float = 10.0
    #: Events a second that are given up.
    dies: float = 0.0
    #: Planted: all stands still; or its handlers hang, with as much in work as there are slots; or it is too slow.
    stops_at: float = math.inf
    hangs_at: float = math.inf
    slows_at: float = math.inf
    slow_capacity: float = 0.0
    #: Planted: so many are given up in a second from then on.
    dies_at: float = math.inf
    dies_more: float = 0.2
    dead: int = 0
    _waiting: deque[list[float]] = field(default_factory=deque)
    _hung: list[str] = field(default_factory=list)
    _number: int = 0

    def look(self, second: float) -> GroupSample:
        arrived = poisson(self.chance, self.rate(second) * INTERVAL)
        if arrived:
            self._waiting.append([second - self.chance.random() * INTERVAL, arrived])
        alive = not self._is_down(second)
        entries = self._work(second) if alive else self._left_behind()
        self.dead += poisson(self.chance, (self.dies if second < self.dies_at else self.dies_more) * INTERVAL)
        lag = int(sum(count for _, count in self._waiting))
        return GroupSample(
            stream="s",
            group=self.name,
            lag=lag,
            lag_seconds=second - self._waiting[0][0] if lag else 0.0,
            pending=len(entries),
            entries=entries,
            dead=self.dead,
            workers=self.workers if alive else 0,
        )

    def _is_down(self, second: float) -> bool:
        return second >= self.stops_at or any(at <= second < at + self.downtime for at in self.restarts)

    def _left_behind(self) -> list[EntrySample]:
        return [EntrySample(name, "lost", "dead 1 None") for name in self._hung]

    def _work(self, second: float) -> list[EntrySample]:
        if second >= self.hangs_at:
            while self._waiting and len(self._hung) < self.slots:
                self._take(1)
                self._hung.append(self._name(second))
            return [EntrySample(name, "running", "a 1 None") for name in self._hung]
        capacity = self.slow_capacity if second >= self.slows_at else self.capacity
        self._take(poisson(self.chance, capacity * INTERVAL))
        running = self.slots if self._waiting else self.chance.randrange(2)
        return [EntrySample(self._name(second), "running", "a 1 None") for _ in range(running)]

    def _take(self, count: int) -> None:
        while count > 0 and self._waiting:
            taken = min(count, self._waiting[0][1])
            self._waiting[0][1] -= taken
            count -= int(taken)
            if not self._waiting[0][1]:
                self._waiting.popleft()

    def _name(self, second: float) -> str:
        self._number += 1
        return f"{round((BEGIN + second) * 1000)}-{self._number}"


@dataclass
class LongGroup:
    """A group whose jobs take minutes to hours; those that run beside others say how far they are."""

    chance: random.Random
    name: str
    #: Jobs an hour, and seconds that one takes, about.
    jobs: float
    seconds: float
    slots: int = 2
    is_alone: bool = False
    _running: list[Running] = field(default_factory=list)
    _waiting: deque[float] = field(default_factory=deque)
    _number: int = 0

    def look(self, second: float) -> GroupSample:
        self._running = [job for job in self._running if job.until > second]
        for _ in range(poisson(self.chance, self.jobs * INTERVAL / 3600)):
            # One that runs alone is the only one: somebody starts it, and waits for it.
            if not (self.is_alone and self._running):
                self._waiting.append(second)
        while self._waiting and len(self._running) < self.slots:
            self._waiting.popleft()
            self._number += 1
            length = self.seconds * math.exp(self.chance.gauss(0, 0.7))
            name = f"{round((BEGIN + second) * 1000)}-{self._number}"
            self._running.append(Running(name, second + length, not self.is_alone))
        return GroupSample(
            stream="s",
            group=self.name,
            lag=len(self._waiting),
            lag_seconds=second - self._waiting[0] if self._waiting else 0.0,
            pending=len(self._running),
            entries=[self._entry(job, second) for job in self._running],
            workers=1,
        )

    @staticmethod
    def _entry(job: Running, second: float) -> EntrySample:
        state: EntryState = "running"
        # Says how far it is about once a minute.
        said = int((job.until - second) // 60) if job.says_progress else None
        return EntrySample(job.entry_id, state, f"a 1 {said}", has_progress=job.says_progress)


@dataclass
class Service:
    """A service that reports every ten seconds: how much it handles, how much fails, how long it takes."""

    chance: random.Random
    name: str
    #: Runs a second, share that fails, and median and spread of the logarithm of a run's seconds.
    rate: float
    fails: float = 0.01
    seconds: float = 0.2
    spread: float = 0.8
    instances: int = 1
    slows_at: float = math.inf
    slower: float = 5.0
    fails_at: float = math.inf
    fails_more: float = 0.2
    silent_at: float = math.inf
    _handled: dict[int, int] = field(default_factory=dict)
    _failed: dict[int, int] = field(default_factory=dict)
    _recent: dict[int, deque[tuple[float, list[float]]]] = field(default_factory=dict)
    _reports: dict[int, InstanceSample] = field(default_factory=dict)

    def look(self, second: float) -> list[InstanceSample]:
        for number in range(self.instances):
            due = int(second / INTERVAL) % 2 == number % 2
            if due and second < self.silent_at:
                self._reports[number] = self._report(number, second)
        return list(self._reports.values())

    def _report(self, number: int, second: float) -> InstanceSample:
        runs = poisson(self.chance, self.rate * 10 / self.instances)
        share = self.fails_more if second >= self.fails_at else self.fails
        failed = sum(self.chance.random() < share for _ in range(runs))
        self._failed[number] = self._failed.get(number, 0) + failed
        self._handled[number] = self._handled.get(number, 0) + runs - failed
        median = self.seconds * (self.slower if second >= self.slows_at else 1.0)
        recent = self._recent.setdefault(number, deque(maxlen=6))
        recent.append((second, [median * math.exp(self.chance.gauss(0, self.spread)) for _ in range(runs)]))
        lasted = sorted(seconds for _, each in recent for seconds in each)
        figures = {
            "handled_events": float(self._handled[number]),
            "failed_events": float(self._failed[number]),
            "recent_runs": float(len(lasted)),
        }
        if lasted:
            figures["handler_p95_seconds"] = lasted[len(lasted) * 19 // 20]
        return InstanceSample(instance=f"{self.name}:{number}", reported=str(second), figures=figures)


@dataclass
class World:
    """A day of some groups and services."""

    groups: dict[str, Group | LongGroup]
    services: dict[str, Service]

    def looks(self, hours: float, *, begin: float = 0.0) -> Iterator[Sample]:
        """Look after look, as a watcher makes them. `begin`: the second of the day up to which it was looked at."""
        for number in range(int(begin / INTERVAL), int(hours * 3600 / INTERVAL)):
            second = number * INTERVAL
            yield Sample(
                at=BEGIN + second,
                groups=[group.look(second) for group in self.groups.values()],
                services={name: service.look(second) for name, service in self.services.items()},
            )


def ordinary(seed: int) -> World:
    """An ordinary day, of every kind of ordinary at once; each seed is another one."""
    chance = random.Random(seed)

    def steady(rate: float) -> Callable[[float], float]:
        return lambda _: rate

    ramp = chance.uniform(1, 8)
    burst_at = [chance.uniform(0, 3600) for _ in range(4)]
    batch_at = chance.uniform(0, 900)
    batch = chance.uniform(5, 40)
    deploys = (chance.uniform(300, 1700), chance.uniform(1800, 3500))

    def ramping(second: float) -> float:
        return ramp * (1.2 + math.sin(2 * math.pi * second / 7200))

    def bursting(second: float) -> float:
        return 0.5 + sum(30.0 for at in burst_at if at <= second < at + 20)

    def batched(second: float) -> float:
        return batch if (second - batch_at) % 900 < 45 else 0.0

    fast, busy = chance.uniform(0.2, 10), chance.uniform(0.5, 4)
    groups: list[Group | LongGroup] = [
        Group(chance, "fast", steady(fast), 3 * fast, restarts=deploys),
        Group(chance, "busy", steady(busy), busy / chance.uniform(0.6, 0.9)),
        Group(chance, "rare", steady(chance.uniform(0.001, 0.05)), 10),
        Group(chance, "idle", steady(0.0), 10),
        Group(chance, "ramping", ramping, 3 * ramp, restarts=deploys[:1]),
        Group(chance, "bursting", bursting, chance.uniform(2, 6)),
        Group(chance, "batched", batched, batch * 45 / chance.uniform(60, 500)),
        Group(chance, "failing", steady(1.0), 5, dies=chance.uniform(0, 0.02)),
        LongGroup(chance, "long", chance.uniform(4, 40), chance.uniform(120, 900), slots=3),
        LongGroup(chance, "alone", 2, 3 * 3600, is_alone=True),
    ]
    services = [
        Service(chance, "steady", 2, spread=chance.uniform(0.3, 1.2)),
        Service(chance, "noisy", 1, fails=chance.uniform(0.005, 0.03), spread=1.2, instances=2),
        Service(chance, "slight", 0.05),
    ]
    return World({group.name: group for group in groups}, {service.name: service for service in services})
