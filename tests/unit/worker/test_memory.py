"""How much memory a process has."""

from __future__ import annotations

import subprocess
import sys

from streamtask.worker.memory import resident_mib

# A process that does nothing else: what the tests' own holds may be given back at any moment.
_TAKES_AND_GIVES_BACK = """
ballast = None
while input():
    ballast = None if ballast else b"x" * (100 << 20)
    print("done", flush=True)
"""


def test_what_a_process_takes_is_counted_and_what_it_gives_back_is_not() -> None:
    command = [sys.executable, "-c", _TAKES_AND_GIVES_BACK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        measured = []
        for _ in range(3):
            process.stdin.write("go on\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
            measured.append(resident_mib(process.pid))
        process.stdin.write("\n")
    first, without, again = measured

    assert 100 < first < 150
    assert without < first - 90
    assert 90 < again - without < 110


def test_a_process_that_is_not_there_has_no_memory() -> None:
    # No id is as high as this.
    assert resident_mib(1 << 30) == 0
