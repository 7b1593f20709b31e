"""`streamtask publish`: one event from the command line, or many from standard input."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import click

from streamtask.app import App
from streamtask.cli import output
from streamtask.cli.connection import check_shared, trouble_told
from streamtask.cli.options import app_option, broker_option, json_option
from streamtask.cli.text import counted
from streamtask.errors import ConfigurationError, PayloadError, StreamtaskError
from streamtask.event import describe, load
from streamtask.feed import Feed
from streamtask.loading import event_class, load_app

#: Bytes that are read at once: of slow input, what is there.
_CHUNK = 1 << 16


@click.command()
@click.argument("type_", metavar="TYPE")
@click.argument("payload", metavar="JSON")
@app_option
@broker_option
@json_option
def publish(type_: str, payload: str, reference: str | None, broker: str | None, as_json: bool) -> None:
    """Publish an event, or one for each line of input.

    JSON is the payload of an event of TYPE; `-` reads a payload a line from standard input. Prints the event ids.
    Of lines that are no such event, each is named on standard error with its number and the reason; the others are
    published, and the exit code is 1.
    """
    if not reference:
        raise click.UsageError("which app? Give -A module:attribute or set STREAMTASK_APP.")
    app = load_app(reference, broker=broker)
    check_shared(app.url)
    cls = event_class(app, type_)
    if payload == "-":
        with _connected(app) as runner:
            _publish_lines(runner, Feed(app, cls), sys.stdin.buffer, as_json=as_json)
        return
    try:
        event = load(cls, payload.encode("utf-8", "surrogateescape"), describe(cls).version)
    except PayloadError as error:
        raise ConfigurationError(str(error)) from error
    with _connected(app) as runner:
        event_id = runner.run(app.publish(event))
    if as_json:
        output.print_json({"event_id": event_id})
    else:
        output.say(event_id)


@contextmanager
def _connected(app: App) -> Iterator[asyncio.Runner]:
    """A loop that runs while something is published and not while a line is awaited, so that Ctrl-C ends that."""
    with trouble_told(app.url), asyncio.Runner() as runner:
        runner.run(app.__aenter__())
        try:
            yield runner
        finally:
            runner.run(app.__aexit__())


def _publish_lines(runner: asyncio.Runner, feed: Feed, source: BinaryIO, *, as_json: bool) -> None:
    told = 0
    try:
        with output.bar("Publishing", _size(source)) as bar:
            for lines in _lines(source):
                ids = runner.run(feed.take(lines))
                for refused in feed.refused[told:]:
                    output.remark(f"line {refused.line}: {refused.reason}")
                told = len(feed.refused)
                if not as_json:
                    output.say_each(ids)
                bar.advance(len(ids), sum(map(len, lines)) + len(lines))
    finally:
        output.remark(f"Published {counted(feed.published, 'event')}.")
    if as_json:
        output.print_json({"published": feed.published, "refused": output.rows(feed.refused)})
    if feed.refused:
        raise StreamtaskError(f"{counted(len(feed.refused), 'line')} could not be published, as said above")


def _lines(source: BinaryIO) -> Iterator[list[bytes]]:
    """The lines of a source, as many at once as there are: none waits for the next."""
    rest = b""
    while chunk := getattr(source, "read1", source.read)(_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield lines
    if rest:
        yield [rest]


def _size(source: BinaryIO) -> int | None:
    """How many bytes there are to read, where it is a file."""
    try:
        found = os.fstat(source.fileno())
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
