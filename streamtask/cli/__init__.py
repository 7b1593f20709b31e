"""The command line: parse, call, print. One module a command group; no logic."""

from __future__ import annotations

import sys

from streamtask.cli import quick

__all__ = ["main"]


def main() -> None:
    """Run the command line, as the program `streamtask`."""
    quick.run(sys.argv[1:])
    # Most workers start without it, and without click.
    from streamtask.cli.main import main as run_with_click  # noqa: PLC0415

    run_with_click()
