"""Failpoints: what is asked for happens at its place and nowhere else, as often as is granted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streamtask import failpoints
from streamtask.errors import ConfigurationError
from streamtask.failpoints import Failpoint, FailpointError, parse


def test_nothing_is_armed_unless_the_environment_says_so() -> None:
    assert parse("") is None
    assert failpoints.armed is None
    failpoints.reached("after_fetch")


def test_place_action_and_file_are_read() -> None:
    assert parse("after_fetch:kill") == Failpoint("after_fetch", "kill")
    assert parse("after_renew:raise:/tmp/a:b") == Failpoint("after_renew", "raise", Path("/tmp/a:b"))


@pytest.mark.parametrize(
    "text", ["after_fetch", "after_fetch:", "after_fetch:explode", "nowhere:kill", ":kill", "kill"]
)
def test_an_unknown_place_or_action_is_refused_with_all_that_are_known(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"after_fetch, .*before_hand_back, .*kill, stop, raise"):
        parse(text)


def test_only_its_own_place_is_hit() -> None:
    failpoint = Failpoint("after_settle", "raise")
    failpoint.reached("before_settle")
    with pytest.raises(FailpointError, match="after_settle"):
        failpoint.reached("after_settle")


def test_each_hit_takes_a_byte_and_without_any_nothing_happens(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.write_bytes(b"..")
    failpoint = Failpoint("after_settle", "raise", left)

    for remaining in (1, 0):
        with pytest.raises(FailpointError):
            failpoint.reached("after_settle")
        assert left.stat().st_size == remaining
    failpoint.reached("after_settle")
    failpoint.reached("before_settle")


@pytest.mark.parametrize(("action", "told"), [("kill", signal.SIGKILL), ("stop", signal.SIGSTOP)])
def test_of_several_processes_that_pass_as_many_are_hit_as_is_granted(tmp_path: Path, action: str, told: int) -> None:
    left = tmp_path / "left"
    left.write_bytes(b"...")
    code = 'from streamtask import failpoints; failpoints.reached("after_renew")'
    environment = os.environ | {failpoints.VARIABLE: f"after_renew:{action}:{left}"}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(5)]
    try:
        ends = [os.waitpid(process.pid, os.WUNTRACED)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()

    hits = [end for end in ends if (os.WIFSTOPPED(end) and os.WSTOPSIG(end) == told) or end == told]
    assert len(hits) == 3
    assert [end for end in ends if end not in hits] == [0, 0]
