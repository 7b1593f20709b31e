"""Parts of the reference that are made from the code, so that they cannot say anything else than it does.

In a page: ```` ```{from-code} metrics ```` and so on; the words are the keys of `PARTS`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Iterator

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from streamtask import blobs, errors, settings
from streamtask.cli.main import streamtask as command_line
from streamtask.telemetry.metrics import TABLE
from streamtask.transport.connect import SCHEMES
from streamtask.transport.redis import keys


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    cells = list(head)
    yield f"| {' | '.join(cells)} |"
    yield f"|{' --- |' * len(cells)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def metrics() -> Iterator[str]:
    """Every metric, from the table that the collector is made from."""
    rows = ((f"`{row.name}`", row.kind, ", ".join(f"`{label}`" for label in row.labels), row.meaning) for row in TABLE)
    yield from _table(("Metric", "Kind", "Labels", "Meaning"), rows)


def schemes() -> Iterator[str]:
    """The schemes of broker URLs."""
    yield ", ".join(f"`{scheme}://`" for scheme in SCHEMES)


def redis_keys() -> Iterator[str]:
    """Every key in Redis, from the map at the head of the module that spells them."""
    yield from _literal(keys.__doc__ or "", after="share its slot.")


def error_tree() -> Iterator[str]:
    """The tree at the head of the errors' module."""
    yield from _literal(errors.__doc__ or "", after="in one tree.")


def _literal(text: str, *, after: str) -> Iterator[str]:
    yield "```text"
    yield inspect.cleandoc("\n" + text.partition(after)[2])
    yield "```"


def worker_settings() -> Iterator[str]:
    """The fields of `WorkerSettings`, with the comments above them."""
    yield from _fields(settings.WorkerSettings)


def retention() -> Iterator[str]:
    """The fields of `Retention`, with the comments above them."""
    yield from _fields(settings.Retention)


def blob_stores() -> Iterator[str]:
    """The fields of `BlobStores`, with the comments above them."""
    yield from _fields(blobs.BlobStores)


def _fields(cls: type) -> Iterator[str]:
    comments = dict(re.findall(r"((?:^ {4}#: .*\n)+)^ {4}(\w+): ", inspect.getsource(cls), re.MULTILINE))
    said = {name: " ".join(line.strip()[3:] for line in text.splitlines()) for text, name in comments.items()}
    rows = (
        (f"`{field.name}`", f"`{field.type}`", f"`{field.default!r}`", said.get(field.name, ""))
        for field in dataclasses.fields(cls)
    )
    yield from _table(("Field", "Type", "Default", "Meaning"), rows)


def commands() -> Iterator[str]:
    """Every command of the command line, with its arguments and options."""
    yield from _command(command_line, ("streamtask",))


def _command(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
    context = click.Context(command, info_name=path[-1], max_content_width=110)
    if len(path) > 1:
        yield f"### `{' '.join(path)}`" if len(path) == 2 else f"#### `{' '.join(path)}`"  # noqa: PLR2004 - a level each
        yield ""
        yield inspect.cleandoc(command.help or "")
        yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _command(child, (*path, name))
        return
    yield "```text"
    yield " ".join(("streamtask", *path[1:], *command.collect_usage_pieces(context)))
    yield "```"
    yield ""
    options = [each.get_help_record(context) for each in command.params if isinstance(each, click.Option)]
    rows = ((f"`{words}`", meaning) for words, meaning in filter(None, options))
    yield from _table(("Option", "Meaning"), rows)
    yield ""


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "blob-stores": blob_stores,
    "commands": commands,
    "errors": error_tree,
    "metrics": metrics,
    "redis-keys": redis_keys,
    "retention": retention,
    "schemes": schemes,
    "worker-settings": worker_settings,
}


class FromCode(SphinxDirective):
    """`{from-code} NAME`: the part of that name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx for each place of use."""
        return self.parse_text_to_nodes("\n".join(PARTS[self.arguments[0]]()), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("from-code", FromCode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
