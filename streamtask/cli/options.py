"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def app_option(command: CommandT) -> CommandT:
    """`-A module:attribute`."""
    return click.option("-A", "--app", "reference", envvar="STREAMTASK_APP", help="The app, as module:attribute.")(
        command
    )


def broker_option(command: CommandT) -> CommandT:
    """`--broker URL`."""
    return click.option("--broker", metavar="URL", help="Overrides the app's broker URL.")(command)


def json_option(command: CommandT) -> CommandT:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)
