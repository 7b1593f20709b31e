"""`streamtask dead`: dead letters."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import click

from streamtask.cli import output
from streamtask.cli.commands import CommandGroup
from streamtask.cli.connection import ask
from streamtask.cli.options import dead_letter_options, json_option, limit_option, server_options, yes_option
from streamtask.cli.text import counted, escaped_json, printable_lines
from streamtask.errors import NotFoundError
from streamtask.inspector import Inspector
from streamtask.operations import Operations, no_such_letter
from streamtask.references import DeadLetterReference, dead_letter_reference
from streamtask.rows import DeadLetterFilter, summary
from streamtask.trail import plain
from streamtask.transport.values import DeadLetter


@click.group(cls=CommandGroup)
def dead() -> None:
    """List, replay and remove events that were given up.

    A dead letter is the whole entry with the reason, the error and the traceback.
    """


@dead.command("list")
@server_options
@dead_letter_options
@limit_option
@json_option
def list_(reference: str | None, broker: str | None, limit: int, as_json: bool, **wanted: Any) -> None:
    """Dead letters, the oldest of each stream first."""
    found = ask(reference, broker, lambda inspector: inspector.dead(DeadLetterFilter(**wanted), limit=limit))
    output.print_rows(output.rows(map(summary, found.rows)), as_json=as_json, empty="There are no dead letters.")
    output.cut_short(found)


# ── one, whole ────────────────────────────────────────────────────────────────────────────────────────────────────


@dead.command()
@click.argument("id_", metavar="ID")
@server_options
@json_option
def show(id_: str, reference: str | None, broker: str | None, as_json: bool) -> None:
    """One dead letter whole: the traceback, the worker, and the entry as it stood in its stream."""
    wanted = dead_letter_reference(id_)
    letter = ask(reference, broker, lambda inspector: _whole(inspector, wanted))
    if as_json:
        output.print_json(letter)
    else:
        _print(letter)


async def _whole(inspector: Inspector, wanted: DeadLetterReference) -> dict[str, object]:
    letter = await inspector.dead_letters.get(wanted.stream, wanted.dead_id)
    if letter is None or letter.group != wanted.group:
        raise no_such_letter(wanted)
    envelope = inspector.read(letter.stream, letter.entry_id, letter.fields)
    return output.row(summary(letter)) | {
        "entry_id": letter.entry_id,
        "deliveries": letter.deliveries,
        "worker": letter.worker,
        "traceback": letter.traceback,
        "envelope": plain(envelope) if envelope else None,
        "fields": _fields(letter),
    }


def _fields(letter: DeadLetter) -> dict[str, str]:
    """The entry's fields as text; bytes that are none are escaped."""
    words = [word.decode("utf-8", "backslashreplace") for word in letter.fields]
    return dict(zip(words[::2], words[1::2], strict=True))


def _print(letter: dict[str, object]) -> None:
    whole = ("traceback", "envelope", "fields")
    output.print_fields({name: value for name, value in letter.items() if name not in whole})
    if letter["traceback"]:
        output.heading("Traceback")
        click.echo(printable_lines(str(letter["traceback"])))
    # What could be decoded is shown decoded; what could not, as it stands.
    what = "fields" if letter["envelope"] is None else "envelope"
    output.heading(what.capitalize())
    click.echo(escaped_json(json.dumps(letter[what], ensure_ascii=False, indent=2)))


# ── replay and purge ──────────────────────────────────────────────────────────────────────────────────────────────


@dead.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that stand there now, or those that the options name.")
@server_options
@dead_letter_options
@yes_option
@json_option
def replay(  # noqa: PLR0917 - click passes them by name
    ids: tuple[str, ...],
    every: bool,
    reference: str | None,
    broker: str | None,
    yes: bool,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Hand dead letters to the group that failed, and to no other, with attempts from one."""
    _one_way(ids, wanted, every=every)
    if every:
        _replay_all(reference, broker, DeadLetterFilter(**wanted), yes=yes, as_json=as_json)
        return
    references = [dead_letter_reference(text) for text in ids]
    done, missing = ask(reference, broker, lambda inspector: _each(references, Operations(inspector).replay_dead))
    if as_json:
        output.print_json({"replayed": output.rows(done), "missing": [str(error) for error in missing]})
    else:
        for replayed in done:
            click.echo(f"Replayed {replayed.id} as entry {replayed.entry_id}.")
    _raise_all(missing)


def _replay_all(
    reference: str | None, broker: str | None, wanted: DeadLetterFilter, *, yes: bool, as_json: bool
) -> None:
    output.confirmed(f"Replay every dead letter{_described(wanted)}?", yes=yes)

    async def replay_them(inspector: Inspector) -> Any:
        with output.bar("Replaying", await inspector.count_dead(wanted.stream)) as bar:
            return await Operations(inspector).replay_all_dead(wanted, bar.advance)

    done = ask(reference, broker, replay_them)
    left = [{"stream": stream, "group": group, "count": count} for (stream, group), count in done.left.items()]
    if as_json:
        output.print_json({"replayed": done.count, "left": left})
    else:
        click.echo(f"Replayed {counted(done.count, 'dead letter')}.")
    if left:
        places = ", ".join(f"{each['count']} of group {each['group']} on stream {each['stream']}" for each in left)
        raise NotFoundError(f"left where they are: {places}: there is no such group any more, start its worker first")


@dead.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@server_options
@dead_letter_options
@yes_option
@json_option
def purge(
    ids: tuple[str, ...], reference: str | None, broker: str | None, yes: bool, as_json: bool, **wanted: Any
) -> None:
    """Remove dead letters for good: those named, or all that the options name, or all."""
    _one_way(ids, wanted, every=not ids)
    if ids:
        _purge_each(reference, broker, [dead_letter_reference(text) for text in ids], yes=yes, as_json=as_json)
        return
    meant = DeadLetterFilter(**wanted)
    output.confirmed(f"Remove every dead letter{_described(meant)} for good?", yes=yes)

    async def purge_them(inspector: Inspector) -> int:
        with output.bar("Purging", await inspector.count_dead(meant.stream)) as bar:
            return await Operations(inspector).purge_all_dead(meant, bar.advance)

    _say_purged(ask(reference, broker, purge_them), as_json=as_json)


def _purge_each(
    reference: str | None, broker: str | None, references: list[DeadLetterReference], *, yes: bool, as_json: bool
) -> None:
    output.confirmed(f"Remove {counted(len(references), 'dead letter')} for good?", yes=yes)
    done, missing = ask(reference, broker, lambda inspector: _each(references, Operations(inspector).purge_dead))
    if as_json or done:
        _say_purged(len(done), as_json=as_json)
    _raise_all(missing)


def _say_purged(count: int, *, as_json: bool) -> None:
    if as_json:
        output.print_json({"purged": count})
    else:
        click.echo(f"Purged {counted(count, 'dead letter')}.")


async def _each(
    references: list[DeadLetterReference], act: Callable[[DeadLetterReference], Awaitable[Any]]
) -> tuple[list[Any], list[NotFoundError]]:
    """Do it to each; one that is not there does not keep the others from it."""
    done, missing = [], []
    for reference in references:
        try:
            done.append(await act(reference))
        except NotFoundError as error:
            missing.append(error)
    return done, missing


def _raise_all(missing: list[NotFoundError]) -> None:
    """Tell of each, the last one as the command's own failure."""
    for error in missing[:-1]:
        output.remark(f"Error: {error}")
    if missing:
        raise missing[-1]


def _one_way(ids: tuple[str, ...], wanted: dict[str, Any], *, every: bool) -> None:
    """Either ids, or all of a kind."""
    if bool(ids) == every:
        raise click.UsageError("which ones? Give their ids, or --all.")
    if ids and any(wanted.values()):
        raise click.UsageError(
            "ids name dead letters, and --stream, --group, --reason and --type do: give one of both."
        )


def _described(wanted: DeadLetterFilter) -> str:
    named = {
        "stream": wanted.stream,
        "group": wanted.group,
        "reason": wanted.reason,
        "type": wanted.event_type,
    }
    said = ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)
    return f" of {said}" if said else ""
