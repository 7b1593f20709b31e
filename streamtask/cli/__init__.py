"""The command line: parse, call, print. One module a command group; no logic."""

from streamtask.cli.main import main

__all__ = ["main"]
