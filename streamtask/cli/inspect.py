"""`streamtask inspect`: read-only views."""

from __future__ import annotations

import json

import click

from streamtask.cli import output
from streamtask.cli.commands import CommandGroup
from streamtask.cli.connection import ask
from streamtask.cli.options import group_option, json_option, limit_option, server_options, stream_option
from streamtask.cli.text import escaped_json
from streamtask.references import entry_reference
from streamtask.rows import summary
from streamtask.trail import Trail, follow


@click.group(cls=CommandGroup)
def inspect() -> None:
    """Show what is pending, who works, and where an event is. Changes nothing."""


@inspect.command()
@server_options
@stream_option
@group_option
@limit_option
@json_option
def pending(  # noqa: PLR0917 - click passes them by name
    reference: str | None, broker: str | None, stream: str | None, group: str | None, limit: int, as_json: bool
) -> None:
    """Entries that are delivered and not acked, oldest first in each group.

    Of each: is it running, does it wait for its next attempt (retrying), or was it left by a dead worker and will be
    taken over within seconds (abandoned)? Due is when a retrying one comes again; one without waits for a worker that
    handles its type, or behind others of its key (ordered_by, concurrency).
    """
    found = ask(reference, broker, lambda inspector: inspector.pending(stream, group, limit=limit))
    output.print_rows(output.rows(found.rows), as_json=as_json, empty="Nothing is pending.")
    output.cut_short(found)


@inspect.command()
@server_options
@stream_option
@group_option
@json_option
def groups(reference: str | None, broker: str | None, stream: str | None, group: str | None, as_json: bool) -> None:
    """How far each group is: what it has not read (lag) and not finished (pending), and how old that is."""
    found = ask(reference, broker, lambda inspector: inspector.groups(stream, group))
    output.print_rows(output.rows(found), as_json=as_json, empty="There are no groups yet.")


@inspect.command()
@server_options
@stream_option
@json_option
def streams(reference: str | None, broker: str | None, stream: str | None, as_json: bool) -> None:
    """How long each stream is, and what stands beside it."""
    found = ask(reference, broker, lambda inspector: inspector.stream_infos(stream))
    output.print_rows(output.rows(found), as_json=as_json, empty="There are no streams yet.")


@inspect.command()
@server_options
@stream_option
@group_option
@json_option
def consumers(reference: str | None, broker: str | None, stream: str | None, group: str | None, as_json: bool) -> None:
    """Who reads what, and who of them lives."""
    found = ask(reference, broker, lambda inspector: inspector.consumers(stream, group))
    output.print_rows(output.rows(found), as_json=as_json, empty="There are no consumers yet.")


@inspect.command()
@server_options
@stream_option
@limit_option
@json_option
def scheduled(reference: str | None, broker: str | None, stream: str | None, limit: int, as_json: bool) -> None:
    """Events that are not due yet, and the next one of each rule, soonest first."""
    found = ask(reference, broker, lambda inspector: inspector.scheduled(stream, limit=limit))
    output.print_rows(output.rows(found.rows), as_json=as_json, empty="Nothing is scheduled.")
    output.cut_short(found)


@inspect.command()
@server_options
@json_option
def workers(reference: str | None, broker: str | None, as_json: bool) -> None:
    """The living workers: where they are, what for, and how many events each is handling."""
    found = ask(reference, broker, lambda inspector: inspector.workers())
    output.print_rows(output.rows(found), as_json=as_json, empty="No worker lives.")


@inspect.command()
@click.argument("id_", metavar="ID")
@server_options
@stream_option
@json_option
def workflow(id_: str, reference: str | None, broker: str | None, stream: str | None, as_json: bool) -> None:
    """A workflow, call by call: which are done, which were sent, and which wait for those before them.

    ID is that of the workflow, as its handle has it. `streamtask inspect event` shows one of the calls whole.
    """
    found = ask(reference, broker, lambda inspector: inspector.workflow(id_, stream))
    output.print_rows(output.rows(found), as_json=as_json, empty="")


@inspect.command()
@click.argument("id_", metavar="ID")
@server_options
@click.option(
    "--depth", type=click.IntRange(1), default=20_000, show_default=True, help="Look through so many of each stream."
)
@json_option
def event(id_: str, reference: str | None, broker: str | None, depth: int, as_json: bool) -> None:
    """One event whole: its envelope, where it is in every group, its attempts, and what it caused.

    ID is an event id, or stream/entry-id. An event id is looked for from the newest entry of each stream back.
    """
    wanted = entry_reference(id_) if "/" in id_ else id_
    trail = ask(reference, broker, lambda inspector: follow(inspector, wanted, depth=depth))
    if as_json:
        output.print_json(_document(trail))
    else:
        _print(trail)
    if not trail.complete:
        output.remark(f"There is more than the {depth} entries of a stream that were looked through: see --depth.")


def _document(trail: Trail) -> dict[str, object]:
    lists = ("groups", "copies", "caused")
    return (
        output.row(trail)
        | {name: output.rows(getattr(trail, name)) for name in lists}
        | {"dead": output.rows(map(summary, trail.dead))}
    )


def _print(trail: Trail) -> None:
    names = ("event_id", "event_type", "stream", "entry_id", "error", "due_in_ms")
    output.print_fields({name: getattr(trail, name) for name in names})
    if trail.envelope is not None:
        output.heading("Envelope")
        click.echo(escaped_json(json.dumps(trail.envelope, ensure_ascii=False, indent=2)))
    for title, found in (
        ("In each group", output.rows(trail.groups)),
        ("Handed to a group again", output.rows(trail.copies)),
        ("Dead letters", output.rows(map(summary, trail.dead))),
        ("What it caused", output.rows(trail.caused)),
    ):
        if found:
            output.heading(title)
            output.print_table(found)
