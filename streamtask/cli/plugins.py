"""Commands that other packages add to `streamtask`: entry points of the group `streamtask.commands`, click commands.

Looked up only where a word is none of our own, or all are listed: reading what is installed takes longer than most
commands do. A built-in name stays ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

import click

from streamtask.errors import ConfigurationError

_GROUP = "streamtask.commands"


def names() -> Sequence[str]:
    """The words that there are."""
    return sorted({found.name for found in metadata.entry_points(group=_GROUP)})


def load(name: str) -> click.Command | None:
    """The command of a word; None where nobody has one. One that cannot be loaded says so when it is run."""
    found = next(iter(metadata.entry_points(group=_GROUP, name=name)), None)
    if found is None:
        return None
    try:
        command = found.load()
    except (ImportError, AttributeError, ConfigurationError) as error:
        return _Unusable(name, f"the command {name!r} of {_package(found)} cannot be used: {error}")
    if not isinstance(command, click.Command):
        return _Unusable(
            name, f"{found.value}, which {_package(found)} names as the command {name!r}, is none of click"
        )
    return command


def _package(found: metadata.EntryPoint) -> str:
    return found.dist.name if found.dist is not None else "another package"


class _Unusable(click.Command):
    """Stands in the list of commands for one that cannot be loaded, and says why where it is used."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, short_help="(cannot be used here; run it to see why)", add_help_option=False)
        self._reason = reason

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:  # noqa: ARG002 - whatever they are
        """Whatever is asked of it."""
        raise ConfigurationError(self._reason)
