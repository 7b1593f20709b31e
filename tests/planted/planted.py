"""Planted bugs: patches that each break one rule of delivery, and the narrow set of tests that has to notice.

Tests that find nothing wrong say something only if they would have found it. Each patch begins with the lesson that it
stands for, and with the tests, as pytest takes them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_HEADER = re.compile(r"Lesson: (?P<lesson>.+)\nFound by: (?P<tests>.+)\n\n--- ")
#: Seconds after which tests that are still running have not found the bug.
_PATIENCE = 240.0
#: What pytest says when tests failed; anything else is trouble of another kind.
_TESTS_FAILED = 1


class StalePatchError(Exception):
    """A patch does not apply any more: it has to be planted anew in the code as it is now."""


@dataclass(frozen=True, slots=True)
class PlantedBug:
    """One patch."""

    path: Path
    lesson: str
    #: What runs the tests that find it, as arguments of pytest.
    tests: str

    @property
    def name(self) -> str:
        """What is broken."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one planted bug."""

    bug: PlantedBug
    is_found: bool
    #: The test that failed, or why none did.
    told: str
    seconds: float


def planted_bugs() -> list[PlantedBug]:
    """All of them, by name."""
    bugs = []
    for path in sorted(Path(__file__).parent.glob("*.patch")):
        header = _HEADER.match(path.read_text())
        if header is None:
            raise StalePatchError(f"{path.name} does not begin with `Lesson:` and `Found by:`")
        bugs.append(PlantedBug(path, header["lesson"], header["tests"]))
    return bugs


def copy_tree(to: Path) -> None:
    """The product and its tests, as they are now."""
    for folder in ("streamtask", "tests"):
        shutil.copytree(_ROOT / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_ROOT / "pyproject.toml", to)


def apply(bug: PlantedBug, tree: Path) -> None:
    """Plant a bug in a copy of the tree.

    Raises:
        StalePatchError: the code has changed where the patch belongs.
    """
    command = ["git", "apply", "-p1", "-C1", str(bug.path)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StalePatchError(f"{bug.path.name} does not apply any more; plant it anew:\n{done.stderr}")


def run_tests(tree: Path, tests: str, *, hunting: bool = True) -> tuple[int, str]:
    """Run tests in a copy of the tree: pytest's exit code, and the first test that failed or the last line.

    `hunting`: with as many examples as it takes; otherwise with as many as the tests have by themselves.
    """
    # Unshrunk: that a bug is found is all that is asked.
    options = ["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile", "unshrunk", "--show-capture", "no"]
    command = [sys.executable, "-m", "pytest", *options, *shlex.split(tests)]
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=_environment(tree, hunting=hunting),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"still running after {_PATIENCE:g} s"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return done.returncode, failed[1] if failed else (done.stdout + done.stderr).strip().rpartition("\n")[2]


def hunt(bug: PlantedBug, folder: Path) -> Finding:
    """Plant a bug in a copy of its own, and see whether its tests notice."""
    tree = folder / bug.name
    copy_tree(tree)
    apply(bug, tree)
    began = time.monotonic()
    code, told = run_tests(tree, bug.tests)
    seconds = time.monotonic() - began
    shutil.rmtree(tree)
    return Finding(bug, code == _TESTS_FAILED, told, seconds)


def _environment(tree: Path, *, hunting: bool) -> dict[str, str]:
    # Whether a few examples show a bug is chance; a hunt goes on until one does, or until its patience ends.
    examples = {"STREAMTASK_EXAMPLES": "5000"} if hunting else {}
    return os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"} | examples
