"""Libraries of ours that a program calls instead of the C library: compiled for the test, loaded by `LD_PRELOAD`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

_SOURCES = Path(__file__).parent


def compiled(name: str, folder: Path) -> Path:
    """The library of `NAME.c` beside this file, made in a folder. Skips the test where nothing can compile it."""
    compiler = shutil.which("cc")
    if compiler is None or os.uname().sysname != "Linux":
        pytest.skip("needs a C compiler, `cc`, on Linux")
    library = folder / f"{name}.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, _SOURCES / f"{name}.c", "-ldl"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return library


def preloading(library: Path, environment: Mapping[str, str] | None = None, **variables: str) -> dict[str, str]:
    """The environment of a program that calls a library first, added to another one; with more variables."""
    environment = {**(environment or {}), **variables}
    others = environment.get("LD_PRELOAD", os.environ.get("LD_PRELOAD", ""))
    return environment | {"LD_PRELOAD": f"{library} {others}".strip()}
