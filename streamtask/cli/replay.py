"""`streamtask replay`: history once more."""

from __future__ import annotations

import click

from streamtask.cli import output
from streamtask.cli.connection import ask
from streamtask.cli.options import json_option, server_options
from streamtask.cli.text import counted
from streamtask.inspector import Inspector
from streamtask.operations import History, Operations
from streamtask.references import since as parsed
from streamtask.references import stream_name


@click.command()
@click.option("--stream", required=True, help="The stream whose history it is.")
@click.option("--group", required=True, help="The group that is to see it; made, where there is none.")
@click.option("--since", required=True, help="From when on: 30m, 1h, 2d; an entry id, 0 for all; or a moment.")
@server_options
@json_option
def replay(  # noqa: PLR0917 - click passes them by name
    stream: str, group: str, since: str, reference: str | None, broker: str | None, as_json: bool
) -> None:
    """Hand history to a group again, or fill a new group.

    A group that exists gets copies that it alone handles, of what it has finished; a new one begins at that place.
    """
    if not group:
        raise click.UsageError("--group is empty.")

    async def hand(inspector: Inspector) -> History:
        start = parsed(since, await inspector.now())
        return await Operations(inspector).replay_history(stream_name(stream), group, start)

    done = ask(reference, broker, hand)
    if as_json:
        output.print_json(output.row(done))
    elif done.created:
        output.say(
            f"Made group {group} on stream {done.stream}: it will see {counted(done.events, 'event')}. "
            f"If its name was mistyped: streamtask groups drop {done.stream} {group}"
        )
    else:
        output.say(f"Group {group} on stream {done.stream} will see {counted(done.events, 'event')} again.")
