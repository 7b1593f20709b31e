"""What is ordinary raises no alert, and what is planted among it is found: on a simulated clock, by many seeds."""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import pytest
from streamtask_contrib.monitoring.detection import Detector, Opened

from tests.chaos.conftest import Measured
from tests.chaos.workers import LONG
from tests.contrib.monitoring.worlds import BEGIN, Group, World, ordinary

#: Ordinary hours that are looked at, and worlds into which each fault is planted.
SEEDS = 5_000 if LONG else 40
PLANTED = 100 if LONG else 8
#: The second of the day at which a fault begins: a good while has been ordinary.
AT = 3600.0


@pytest.mark.timeout(7200 if LONG else 900)
def test_an_hour_of_ordinary_noise_raises_no_alert(measured: Measured) -> None:
    false: Counter[tuple[int, str, str, str]] = Counter()
    looks = 0
    began = time.process_time()
    for seed in range(SEEDS):
        detector = Detector()
        for sample in ordinary(seed).looks(1.0):
            looks += 1
            for change in detector.look(sample):
                assert isinstance(change, Opened)
                finding = change.finding
                false[seed, finding.kind, finding.subject, finding.evidence] += 1
    measured("ordinary hours, 10 groups and 3 services each", SEEDS)
    measured("looks", looks)
    measured("false alerts", sum(false.values()))
    measured("processor seconds", time.process_time() - began)
    assert not false, list(false)[:5]


@pytest.fixture(scope="module")
def mornings() -> list[tuple[World, Detector]]:
    """Worlds in the moment of a fault, and who has watched each until then: they are the same for every fault."""
    made = []
    for seed in range(PLANTED):
        world, detector = ordinary(seed), Detector()
        for sample in world.looks(AT / 3600):
            assert detector.look(sample) == []
        made.append((world, detector))
    return made


#: A fault that is planted: into which group or service of an ordinary world, and what has to be told of it.
def _stops(world: World) -> tuple[str, str]:
    world.groups["fast"].stops_at = AT
    return "stalled", "s/fast"


def _hangs(world: World) -> tuple[str, str]:
    world.groups["ramping"].hangs_at = AT
    return "stalled", "s/ramping"


def _leaks(world: World) -> tuple[str, str]:
    busy = world.groups["busy"]
    assert isinstance(busy, Group)
    busy.slows_at, busy.slow_capacity = AT, 0.6 * busy.rate(AT)
    return "lag", "s/busy"


def _slows(world: World) -> tuple[str, str]:
    world.services["steady"].slows_at = AT
    return "latency", "steady"


def _fails(world: World) -> tuple[str, str]:
    world.services["steady"].fails_at = AT
    return "error_rate", "steady"


def _dies(world: World) -> tuple[str, str]:
    failing = world.groups["failing"]
    assert isinstance(failing, Group)
    failing.dies_at = AT
    return "dead_letters", "s/failing"


def _goes_silent(world: World) -> tuple[str, str]:
    world.services["noisy"].silent_at = AT
    return "silent", "noisy"


#: Seconds within which each is to be found, in every world: what is promised of stalls, and generous bounds.
FAULTS: dict[str, tuple[Callable[[World], tuple[str, str]], float]] = {
    "all workers stop": (_stops, 30.0),
    "all handlers hang": (_hangs, 30.0),
    "a backlog grows by 40 % of what comes": (_leaks, 1500.0),
    "handlers take five times as long": (_slows, 400.0),
    "20 % of runs fail instead of 1 %": (_fails, 200.0),
    "events are given up, 12 a minute": (_dies, 400.0),
    "a service says nothing any more": (_goes_silent, 70.0),
}


@pytest.mark.timeout(7200 if LONG else 900)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_planted_among_the_noise_is_found_and_nothing_else(
    fault: str, mornings: list[tuple[World, Detector]], measured: Measured
) -> None:
    plant, within = FAULTS[fault]
    times: list[float] = []
    for morning in mornings:
        # Of its own: each fault changes the world, and what is learned of it.
        world, detector = copy.deepcopy(morning)
        name = plant(world)
        times.append(_found(world, detector, name, within))
    found = sorted(seconds for seconds in times if seconds < math.inf)
    measured(f"{fault}: found of {PLANTED}", len(found))
    measured(f"{fault}: seconds until it is told, median", median(found))
    measured(f"{fault}: seconds until it is told, longest", found[-1])
    assert len(found) == PLANTED
    assert found[-1] <= within


def _found(world: World, detector: Detector, name: tuple[str, str], within: float) -> float:
    """Seconds from the fault until it is told; infinity where it is not."""
    for sample in world.looks((AT + within + 60) / 3600, begin=AT):
        for change in detector.look(sample):
            assert isinstance(change, Opened)
            assert (change.finding.kind, change.finding.subject) == name, change
            return sample.at - BEGIN - AT
    return math.inf
