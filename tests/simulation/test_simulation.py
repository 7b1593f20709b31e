"""Workers as they are, on a loop with its own time, against a server that fails: every promise holds for every seed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.chaos.workers import LONG
from tests.simulation.campaign import Campaign
from tests.simulation.options import RANGES, Faults, Options, expand
from tests.simulation.world import simulate

#: Seeds that are run each time; the long form runs more.
_SEEDS = 10_000 if LONG else 60
_SEEDS_OF_ONE_FAULT = 500 if LONG else 3
#: What has broken a promise once: 306, a checkpoint that came late, after it was given up and asked again.
_BROKE_ONE = [306]


@pytest.mark.timeout(7200 if LONG else 300)
def test_every_promise_holds_for_every_seed() -> None:
    campaign = Campaign()
    for seed in range(_SEEDS):
        campaign.add(simulate(expand(seed)))
        if campaign.failed:
            break
    print(campaign.report())  # noqa: T201
    assert not campaign.failed, campaign.report()


@pytest.mark.parametrize("seed", _BROKE_ONE)
def test_a_seed_that_broke_a_promise_breaks_it_no_more(seed: int) -> None:
    assert not simulate(expand(seed)).wrong


@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("fault", RANGES)
def test_every_promise_holds_under_a_fault_alone(fault: str) -> None:
    campaign = Campaign()
    for seed in range(_SEEDS_OF_ONE_FAULT):
        campaign.add(simulate(expand(seed).only(fault)))
    print(campaign.report())  # noqa: T201
    assert not campaign.failed, campaign.report()


def test_without_faults_each_event_runs_once_and_is_settled_at_once() -> None:
    options = Options(seed=1, heals=True, workers=3, concurrency=8, lease=6.0, events=60, lasts=10.0, faults=Faults())

    result = simulate(options)

    assert not result.wrong
    assert result.figures["outcomes refused"] == 0


@pytest.mark.parametrize("seed", [3, 20, 27])
def test_a_seed_runs_the_same_way_each_time_also_in_another_process(seed: int) -> None:
    here = simulate(expand(seed)).digest

    command = [sys.executable, "-m", "tests.simulation", "--replay", str(seed)]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert simulate(expand(seed)).digest == here
    assert there.rstrip().endswith(f"digest {here}")
