"""`streamtask groups`: what each group is interested in, and the end of one that is gone for good."""

from __future__ import annotations

import click

from streamtask.cli import output
from streamtask.cli.commands import CommandGroup
from streamtask.cli.connection import ask
from streamtask.cli.options import group_option, json_option, server_options, stream_option
from streamtask.operations import Operations
from streamtask.references import stream_name


@click.group(cls=CommandGroup)
def groups() -> None:
    """List consumer groups; drop one that is gone for good."""


@groups.command("list")
@server_options
@stream_option
@group_option
@json_option
def list_(reference: str | None, broker: str | None, stream: str | None, group: str | None, as_json: bool) -> None:
    """What each group handles, what it has passed over, and when a worker of it was last seen."""
    found = ask(reference, broker, lambda inspector: inspector.memberships(stream, group))
    output.print_rows(output.rows(found), as_json=as_json, empty="There are no groups yet.")


@groups.command()
@click.argument("stream")
@click.argument("group")
@server_options
@json_option
def drop(stream: str, group: str, reference: str | None, broker: str | None, as_json: bool) -> None:
    """Remove GROUP from STREAM for good, with what it has not finished; its dead letters stay.

    Refused while a worker of it lives.
    """
    dropped = ask(reference, broker, lambda inspector: Operations(inspector).drop_group(stream_name(stream), group))
    if as_json:
        output.print_json(output.row(dropped))
        return
    unread = "an unknown number of" if dropped.unread is None else dropped.unread
    output.say(
        f"Dropped group {dropped.group} of stream {dropped.stream}, with {dropped.pending} pending and {unread} unread "
        "entries."
    )
