"""`python -m tests.planted`: plant each bug, and have the tests find it. Exit code 1 where one is not found."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.planted.planted import Finding, PlantedBug, copy_tree, hunt, planted_bugs, run_tests


def main() -> int:
    """Print a row for each bug as it is found, or is not."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these, by the names of their patches")
    names = parser.parse_args().names
    bugs = [bug for bug in planted_bugs() if not names or bug.name in names]
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        if not _passes_as_it_is(bugs, Path(folder)):
            return 1
        print("| planted bug | found by | seconds |\n| --- | --- | --- |")  # noqa: T201
        findings = [_shown(hunt(bug, Path(folder))) for bug in bugs]
    found = sum(finding.is_found for finding in findings)
    seconds = sum(finding.seconds for finding in findings)
    print(f"MEASURED {found} of {len(findings)} planted bugs found in {seconds:.0f} s")  # noqa: T201
    return int(found < len(findings))


def _passes_as_it_is(bugs: list[PlantedBug], folder: Path) -> bool:
    """Whether the same tests pass where nothing is planted: they would find anything otherwise."""
    tree = folder / "as-it-is"
    copy_tree(tree)
    for tests in dict.fromkeys(bug.tests for bug in bugs):
        code, told = run_tests(tree, tests, hunting=False)
        if code:
            print(f"without a planted bug, {tests} fails: {told}")  # noqa: T201
            return False
    return True


def _shown(finding: Finding) -> Finding:
    where = finding.told if finding.is_found else f"**not found**: {finding.told}"
    print(f"| {finding.bug.name} | {where} | {finding.seconds:.1f} |", flush=True)  # noqa: T201
    return finding


if __name__ == "__main__":
    sys.exit(main())
