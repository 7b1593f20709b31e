"""The benchmark runs: offline, quickly, with streamtask and the bare loop."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamtask.transport.embedded import find_server
from tests.processes import children_of, lives

ROOT = Path(__file__).parents[2]
#: Seconds for the whole run.
BOUND = 40.0

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the benchmark reads Linux' /proc"),
    pytest.mark.skipif(find_server() is None, reason="no Redis server"),
    pytest.mark.skipif(
        importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed (the extra `speed`)"
    ),
]


def test_a_quick_run_measures_streamtask_and_the_bare_loop(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--systems", "streamtask,bare-loop", "--quick", "--rounds", "1"]
    command += ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    # What pip would ask, it would ask here.
    environment = os.environ | {"PIP_INDEX_URL": "http://127.0.0.1:9/"}

    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=BOUND, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "### Not measured" not in done.stdout, done.stdout
    assert "**streamtask**" in done.stdout
    assert not (tmp_path / "cache" / "venvs").exists()
    systems = json.loads((tmp_path / "out" / "results.json").read_text())["systems"]
    for name in ("streamtask", "bare-loop"):
        values = {figure: value for figure, [value] in systems[name]["values"].items()}
        assert 1_000 < values["noop"] < 1_000_000
        assert 500 < values["io"] <= 10_000
        assert 200 < values["publish-one"] < 100_000
        # How they compare is for the benchmark to say: a machine that others use may change its speed between the two.
        assert 200 < values["publish-many"] < 1_000_000
        assert 0 < values["latency-p50"] <= values["latency-p99"]
        assert 0 < values["start"] < 15
        assert 10 < values["memory-idle"] < values["memory-peak"] * 2
        assert 0 <= values["cpu-idle"] < 50
    assert 500 < systems["streamtask"]["values"]["emit"][0] < 500_000


def test_a_run_that_is_terminated_leaves_no_server_and_no_worker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--systems", "bare-loop", "--quick", "--rounds", "9"]
    command += ["--figures", "start", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + BOUND
        # A server, a publisher and a worker.
        while len(below := children_of(process.pid)) < 3:
            assert time.monotonic() < deadline, "it has started what it needs"
            time.sleep(0.01)

        process.send_signal(signal.SIGTERM)

        assert process.wait(BOUND) == 128 + signal.SIGTERM
        assert [pid for pid in below if lives(pid)] == []


def test_the_costs_of_one_event_are_printed() -> None:
    short = "costs._EVENTS, costs._ROUNDS, costs._REPEATS = 300, 1, 1"
    command = [sys.executable, "-c", f"from benchmarks import costs; {short}; costs.main()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=BOUND, check=False)
    assert done.returncode == 0, done.stderr
    *costs, noop, emits = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert [name for _, name in costs][:2] == ["µs  drain, no-op", "µs  drain, each emits one event"]
    assert [name for _, name in (noop, emits)] == [
        "calls of our functions, no-op",
        "calls of our functions, each emits one event",
    ]
    assert all(float(number) > 0 for number, _ in (*costs, noop, emits))
