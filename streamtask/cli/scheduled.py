"""`streamtask scheduled`: cancel or move an event that is not due yet. What waits is shown by `inspect scheduled`."""

from __future__ import annotations

import click

from streamtask.cli import output
from streamtask.cli.commands import CommandGroup
from streamtask.cli.connection import ask
from streamtask.cli.options import json_option, server_options
from streamtask.operations import Operations
from streamtask.references import moment, stream_name

#: Three hundred years, in seconds.
_LONGEST = 1e10


@click.group(cls=CommandGroup)
def scheduled() -> None:
    """Cancel or move an event that is not due yet. What waits: `streamtask inspect scheduled`."""


@scheduled.command()
@click.argument("stream")
@click.argument("event_id")
@server_options
@json_option
def cancel(stream: str, event_id: str, reference: str | None, broker: str | None, as_json: bool) -> None:
    """Forget event EVENT_ID, which waits beside STREAM: it does not come."""
    name = stream_name(stream)
    ask(reference, broker, lambda inspector: Operations(inspector).cancel_scheduled(name, event_id), as_durable=True)
    if as_json:
        output.print_json({"stream": name, "event_id": event_id})
    else:
        output.say(f"Cancelled event {event_id} of stream {name}.")


@scheduled.command()
@click.argument("stream")
@click.argument("event_id")
@click.option("--delay", type=click.FloatRange(0, _LONGEST), metavar="S", help="So many seconds from now.")
@click.option("--at", "text", metavar="ISO", help="At a moment, like 2026-10-19T12:00:00+02:00; UTC without a zone.")
@server_options
@json_option
def move(  # noqa: PLR0917 - click passes them by name
    stream: str,
    event_id: str,
    delay: float | None,
    text: str | None,
    reference: str | None,
    broker: str | None,
    as_json: bool,
) -> None:
    """Have event EVENT_ID, which waits beside STREAM, come at another time."""
    if (delay is None) == (text is None):
        raise click.UsageError("when? Give --delay or --at.")
    name, at = stream_name(stream), None if text is None else moment(text)
    ask(
        reference,
        broker,
        lambda inspector: Operations(inspector).reschedule(name, event_id, delay=delay, at=at),
        as_durable=True,
    )
    if as_json:
        output.print_json({"stream": name, "event_id": event_id})
    else:
        when = f"in {delay:g} s" if at is None else f"at {at.isoformat()}"
        output.say(f"Moved event {event_id} of stream {name}: it comes {when}.")
