"""The command line: parse, call, print. One module a command group; no logic."""

from __future__ import annotations

import sys
from importlib import import_module

from streamtask.cli import quick

__all__ = ["main"]


def main() -> None:
    """Run the command line, as the program `streamtask`."""
    quick.run(sys.argv[1:])
    import_module("streamtask.cli.main").main()
