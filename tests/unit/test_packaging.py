"""What `setup.cfg` says is packaged is what there is."""

from __future__ import annotations

from configparser import RawConfigParser
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def _packages(folder: Path) -> set[str]:
    return {".".join(path.parent.relative_to(folder.parent).parts) for path in folder.rglob("__init__.py")}


@pytest.mark.parametrize("folder", ["streamtask", "contrib/streamtask_contrib"])
def test_every_package_is_named_in_setup_cfg(folder: str) -> None:
    setup = RawConfigParser()
    setup.read(_ROOT / "setup.cfg")
    root = folder.rpartition("/")[2]
    named = {name for name in setup["options"]["packages"].split() if name.partition(".")[0] == root}

    assert named == _packages(_ROOT / folder)
