"""What commands print: tables and bars for people, one JSON document for programs, remarks on standard error."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from streamtask.cli.text import cell, escaped_json, printable
from streamtask.rows import Listing, moment

#: Characters of a line where no terminal says how many it has: nothing is cut off in a file or a pipe.
_WIDE = 100_000

Row = Mapping[str, object]


def row(value: Any) -> dict[str, object]:
    """A dataclass or a struct as a row: its fields, moments as text."""
    names = getattr(value, "__struct_fields__", None) or [field.name for field in dataclasses.fields(value)]
    return {name: moment(found) if isinstance(found := getattr(value, name), datetime) else found for name in names}


def rows(values: Iterable[Any]) -> list[dict[str, object]]:
    """Dataclasses or structs as rows."""
    return [row(value) for value in values]


def print_rows(found: Sequence[Row], *, as_json: bool, empty: str, without: Sequence[str] = ()) -> None:
    """A table, or a JSON array of objects. `without`: columns that only the JSON has."""
    if as_json:
        print_json(found)
    elif not found:
        remark(empty)
    else:
        print_table([{name: value for name, value in row.items() if name not in without} for row in found])


def print_json(document: object) -> None:
    """One JSON document, and nothing else."""
    click.echo(escaped_json(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False)))


def print_table(found: Sequence[Row]) -> None:
    """A table; its columns are the fields of the first row. On a terminal long values are folded, never cut."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, value in found[0].items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(_title(name), justify="right" if number else "left", overflow="fold")
    for each in found:
        table.add_row(*(Text(cell(name, value)) for name, value in each.items()))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    console.print(table)


def _title(column: str) -> str:
    return column.removesuffix("_ms").replace("_", " ")


def print_fields(found: Row) -> None:
    """One thing, a field a line; what has no value is left out."""
    width = max(len(_title(name)) for name in found)
    for name, value in found.items():
        if value not in (None, "", [], {}, ()):
            click.echo(f"{_title(name):<{width}}  {cell(name, value)}")


def heading(text: str) -> None:
    """What the next lines are."""
    click.echo("\n" + click.style(text, bold=True))


def say(text: str) -> None:
    """A line of the answer, for people."""
    click.echo(printable(text))


def say_each(texts: Sequence[str]) -> None:
    """Lines of the answer, in one go."""
    if texts:
        say_lines = "\n".join(map(printable, texts))
        click.echo(say_lines)


def remark(text: str) -> None:
    """A word for people, on standard error: it is no part of the answer."""
    click.echo(printable(text), err=True)


def cut_short(found: Listing[Any]) -> None:
    """Say that not everything was listed, where it was not."""
    if found.cut:
        of = "" if found.total is None else f" of {found.total}"
        remark(f"Only {len(found.rows)}{of} are shown: --limit takes another number, and other options narrow it down.")


def confirmed(question: str, *, yes: bool) -> None:
    """Go on only with a yes: from `--yes`, or from the person at the terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this cannot be undone and nobody is there to be asked: give --yes.")
    click.confirm(printable(question), abort=True, err=True)


class Bar:
    """A progress bar; where standard error is no terminal, nothing."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._count = 0

    def advance(self, count: int, amount: int | None = None) -> None:
        """So many more are done; `amount` is their part of the total, where that is not their number."""
        self._count += count
        self._progress.update(self._task, advance=count if amount is None else amount, count=self._count)


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Bar]:
    """Show how far something is, on standard error, if that is a terminal. `total`: None where it is unknown."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    progress = Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        transient=True,
        # What is printed meanwhile goes above the bar on a terminal, and its own way where it is piped on.
        redirect_stdout=sys.stdout.isatty(),
    )
    with progress:
        yield Bar(progress, progress.add_task(what, total=total, count=0))
