"""How much memory a process has."""

from __future__ import annotations

import os

from streamtask.worker.memory import resident_mib


def test_what_a_process_takes_is_counted_and_what_it_gives_back_is_not() -> None:
    before = resident_mib(os.getpid())
    ballast = b"x" * (100 << 20)
    with_ballast = resident_mib(os.getpid())
    del ballast

    assert 90 < with_ballast - before < 130
    assert resident_mib(os.getpid()) < with_ballast - 90


def test_a_process_that_is_not_there_has_no_memory() -> None:
    # No id is as high as this.
    assert resident_mib(1 << 30) == 0
