"""The soak in its shortest form; `python -m tests.soak --minutes 30` is the one that says something about growth."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.conftest import Measured
from tests.soak import Report, Sample, Soak


@pytest.mark.timeout(300)
async def test_a_mixed_load_under_all_kinds_of_faults_loses_nothing_and_leaves_nothing_behind(
    tmp_path: Path, measured: Measured, chance: random.Random
) -> None:
    report = await Soak(25.0, tmp_path, chance.randrange(1_000_000)).run()

    print("", report.table(), sep="\n")  # noqa: T201 - what it is for
    measured("events", report.published)
    measured("extra runs", report.extra_runs)
    assert report.faults == []
    assert report.published > 500
    assert len(report.done) >= 4


def test_growth_is_a_fault_and_a_size_that_is_reached_is_none() -> None:
    flat = [Sample(50e6, 20e6, 30, 40)] * 100
    late = [Sample(50e6, 20e6, 30, 40)] * 75 + [Sample(90e6, 20e6, 80, 40)] * 25
    early = [Sample(20e6, 10e6, 10, 20)] * 25 + [Sample(50e6, 20e6, 30, 40)] * 75
    reports = [Report(samples=samples) for samples in (flat, late, early)]
    for report in reports:
        report.look_for_growth()

    assert [len(report.faults) for report in reports] == [0, 2, 0]
    assert reports[1].faults == ["worker grew from 50000000 to 90000000", "files grew from 30 to 80"]
