"""Every planted bug still fits the code, and some are found each time; `python -m tests.planted` finds them all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.workers import LONG
from tests.planted.planted import PlantedBug, StalePatchError, apply, copy_tree, hunt, planted_bugs
from tests.servers import available_servers

_BUGS = planted_bugs()
#: Found in a few seconds, each by another kind of test: conformance, simulation.
_QUICK = {"ack-before-effect", "attempts-counted-in-the-worker"}


@pytest.mark.parametrize("bug", _BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_fits_the_code(bug: PlantedBug, tmp_path: Path) -> None:
    copy_tree(tmp_path)

    apply(bug, tmp_path)


def test_a_patch_that_does_not_fit_any_more_is_an_error_that_says_so(tmp_path: Path) -> None:
    stale = tmp_path / "stale.patch"
    stale.write_text(_BUGS[0].path.read_text().replace("\n-", "\n-no such line: "))
    copy_tree(tmp_path)

    with pytest.raises(StalePatchError, match="plant it anew"):
        apply(replace(_BUGS[0], path=stale), tmp_path)


@pytest.mark.skipif(not available_servers(), reason="needs a server")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", [bug for bug in _BUGS if LONG or bug.name in _QUICK], ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug: PlantedBug, tmp_path: Path) -> None:
    finding = hunt(bug, tmp_path)

    assert finding.is_found, finding.told
