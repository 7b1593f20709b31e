"""What commands print: tables for people, JSON for programs; remarks go to standard error.

What comes from meetings, services and logs is shown and never obeyed: a terminal gets what it would act on escaped.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: What drives a terminal, ends a line, or reorders what is shown.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: Characters of a line where no terminal says how many it has: nothing is cut off in a file or a pipe.
_WIDE = 100_000
#: Names that an error lists.
_LISTED = 10
_SPANS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))
#: Word → how it is shown on a terminal.
_STYLES = {
    "capturing": "green",
    "in_call": "green",
    "waiting_room": "yellow",
    "requested": "yellow",
    "leaving": "yellow",
    "stopped": "dim",
    "failed": "red",
    "drift": "red",
}


def printable(text: str) -> str:
    """The text on one line; what a terminal would obey is shown as Python writes it."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def styled(word: str, more: str = "") -> Text:
    """A word in its colour, and what is to be said of it."""
    return Text.assemble((printable(word), _STYLES.get(word, "")), (printable(more), "dim"))


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """A table on standard output. On a terminal long values are folded, never cut."""
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell) or "-") for cell in row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE, highlight=False).print(made)


def document(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(_escaped(json.dumps(value, ensure_ascii=False, indent=2, default=str)))


def line(value: Any) -> None:
    """One JSON document on a line of its own, for what comes one after the other."""
    click.echo(_escaped(json.dumps(value, ensure_ascii=False, default=str)))


def _escaped(text: str) -> str:
    return _OBEYED.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def say(text: str) -> None:
    """A line of the answer."""
    click.echo(printable(text))


def say_coloured(text: str, colour: str | None) -> None:
    """A line of the answer, coloured on a terminal."""
    click.echo(click.style(printable(text), fg=colour))


def heading(text: str) -> None:
    """What the next lines are."""
    click.echo("\n" + click.style(printable(text), bold=True))


def compact(value: Any) -> str:
    """A value on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def remark(text: str) -> None:
    """A word for people, on standard error: it is no part of the answer."""
    click.echo(printable(text), err=True)


def there_are(name: str, known: Sequence[str]) -> str:
    """What to say of a name that is none of those that there are."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}there are: {', '.join(known[:_LISTED]) or 'none'}{', …' if len(known) > _LISTED else ''}"


def ago(moment: datetime) -> str:
    """How long ago something was: `12s`, `4m`, `3h 5m`, `2d 1h`."""
    seconds = max(0, round((datetime.now(UTC) - moment).total_seconds()))
    parts: list[str] = []
    for size, unit in _SPANS:
        if seconds >= size or (unit == "s" and not parts):
            parts.append(f"{seconds // size}{unit}")
            seconds %= size
    return " ".join(parts[: 2 if parts[0][-1] in "dh" else 1])
