"""Every test of blobs begins with an empty store in memory: fsspec has one for the whole process."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def empty_memory() -> None:
    try:
        from fsspec.implementations.memory import MemoryFileSystem  # noqa: PLC0415 - of the extra `blobs`
    except ImportError:
        return
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
