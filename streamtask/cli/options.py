"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

import click

from streamtask.references import stream_name

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


def stream_option(command: CommandT) -> CommandT:
    """`--stream S`."""
    return click.option("--stream", callback=_short, help="Only this stream.")(command)


def group_option(command: CommandT) -> CommandT:
    """`--group G`."""
    return click.option("--group", help="Only this group.")(command)


def limit_option(command: CommandT) -> CommandT:
    """`--limit N`."""
    return click.option(
        "--limit", type=click.IntRange(1), default=1000, show_default=True, help="List at most so many."
    )(command)


def yes_option(command: CommandT) -> CommandT:
    """`--yes`."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


def dead_letter_options(command: CommandT) -> CommandT:
    """Which dead letters are meant."""
    return options(
        command,
        stream_option,
        group_option,
        click.option("--reason", help="Only those given up for this reason, for example max_attempts."),
        click.option("--type", "event_type", help="Only events of this type."),
    )


def server_options(command: CommandT) -> CommandT:
    """Where to look: an app, a broker URL, or neither (then $STREAMTASK_BROKER, else the embedded server)."""
    return options(command, app_option, broker_option)


def options(command: CommandT, *decorators: Callable[[CommandT], CommandT]) -> CommandT:
    """Several options, listed by the help in this order."""
    return reduce(lambda made, decorate: decorate(made), reversed(decorators), command)


def _short(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else stream_name(value)
