"""What is no part of the standard library: looked for when it is needed."""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType

_looking_for_packages = threading.Lock()


def installed(name: str) -> ModuleType:
    """Import what is no part of the standard library. Raises `ImportError`."""
    with _looking_for_packages:
        if "site" not in sys.modules:
            # What Python does at its start, but with -S.
            importlib.import_module("site").main()
    return importlib.import_module(name)
