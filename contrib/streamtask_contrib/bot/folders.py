"""Files that foreign input names: in a folder that the operator has allowed, and nowhere else, whatever the name."""

from __future__ import annotations

import stat
from pathlib import Path


class OutsideError(Exception):
    """The name leads out of the folder, or to no regular file in it; the message does not say which."""


def file_in(folder: Path, name: str) -> Path:
    """The file of this name in a folder, with no link on the way that leads out of it. Raises `OutsideError`."""
    try:
        home = folder.resolve(strict=True)
        found = (home / name).resolve(strict=True)
        is_file = stat.S_ISREG(found.stat().st_mode)
    except (OSError, ValueError, RuntimeError):
        # ValueError: a null byte; RuntimeError: links in a circle.
        raise OutsideError(f"there is no such file in {folder}") from None
    if not (found.is_relative_to(home) and is_file):
        raise OutsideError(f"there is no such file in {folder}")
    return found
