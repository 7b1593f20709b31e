"""A venv for each peer, made once and kept: what one installs never touches another, nor us."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Seconds for one installation.
_PATIENCE = 600.0
_VERSIONS = """
import importlib.metadata, json
print(json.dumps({each.name.lower(): each.version for each in importlib.metadata.distributions()}))
"""


class InstallError(Exception):
    """Packages could not be installed; the message is what pip said last."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python and what is installed beside it."""

    python: Path
    versions: dict[str, str]

    @property
    def scripts(self) -> Path:
        """Where its commands are."""
        return self.python.parent


def environment(cache: Path, name: str, packages: Sequence[str]) -> Environment:
    """The venv with these packages, made if it is not there; without packages, the Python that runs us.

    Raises:
        InstallError: they could not be installed.
    """
    if not packages:
        return _described(Path(sys.executable))
    mark = hashlib.sha256(repr((sys.version, sorted(packages))).encode()).hexdigest()[:8]
    folder = cache / "venvs" / f"{name}-{mark}"
    ready = folder / "ready"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _call([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _call([*pip, *packages])
        ready.touch()
    return _described((folder / "bin" / "python").absolute())


def is_ready(cache: Path, name: str, packages: Sequence[str]) -> bool:
    """Whether `environment` would install nothing."""
    mark = hashlib.sha256(repr((sys.version, sorted(packages))).encode()).hexdigest()[:8]
    return not packages or (cache / "venvs" / f"{name}-{mark}" / "ready").exists()


def _described(python: Path) -> Environment:
    return Environment(python, json.loads(_call([str(python), "-c", _VERSIONS])))


def _call(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(str(error)) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise InstallError(lines[-1] if lines else f"{command[0]} ended with {done.returncode}")
    return done.stdout
