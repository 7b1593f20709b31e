"""`streamtask transcribe`: the words of an audio file, for people who just want the words.

Parses, checks and prints; `transcribing` does the work. That is imported when it begins: it brings the model's
libraries with it, and help should neither wait for them nor need them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from streamtask_contrib.languages import known
from streamtask_contrib.transcript import formats


def _language(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """A language by any of its codes."""
    try:
        return None if value is None else known(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@click.option("--language", callback=_language, help="What is spoken, such as en. By default the model finds out.")
@click.option("--translate", "target", callback=_language, help="Print the translation into this language instead.")
@click.option(
    "--model",
    help="Folder or name of a faster-whisper model. By default $STREAMTASK_AUDIO_MODEL, or the small one that ships.",
)
@click.option(
    "--translation-model",
    help="Folder of a CTranslate2 model. By default $STREAMTASK_TRANSLATION_MODEL, or the small one that ships.",
)
@click.option("--speakers", is_flag=True, help="Tell speakers apart.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Write into this file; the format is that of its ending: .{', .'.join(formats.FORMATS)}.",
)
@click.option("--format", "format_", type=click.Choice(list(formats.FORMATS)), help="By default txt.")
@click.option(
    "--broker",
    metavar="URL",
    help="Work on this broker, which no other worker of speech uses. By default on a server that is gone afterwards.",
)
def transcribe(*, file: Path, output: Path | None, format_: str | None, **wanted: Any) -> None:
    """Print the words of an audio file.

    FILE is what FFmpeg reads: WAV, MP3, Ogg, FLAC, M4A, the sound of a video. The words go to standard output, and
    nothing else does; how far it is, and how fast, to standard error if that is a terminal.
    """
    write = formats.FORMATS[format_ or _format_of(output)]
    _check_writable(output)
    transcribing = import_module("streamtask_contrib.cli.transcribing")
    with _progress(file.name) as told:
        done = transcribing.run(transcribing.Job(file=file.resolve(), **wanted), told)
    for note in done.notes:
        click.echo(f"Note: {note}.", err=True)
    _put(write(done.document), output)


def _format_of(output: Path | None) -> str:
    if output is None:
        return "txt"
    ending = output.suffix.removeprefix(".").lower()
    if ending not in formats.FORMATS:
        raise click.UsageError(
            f"which format has {output.name}? Give --format, or a name that ends with .{', .'.join(formats.FORMATS)}."
        )
    return ending


def _check_writable(output: Path | None) -> None:
    """Better now than after an hour."""
    if output is None:
        return
    place = output if output.exists() else output.parent
    if not (place.exists() and os.access(place, os.W_OK)):
        raise click.BadParameter(f"{output} cannot be written.", param_hint="'--output'")


def _put(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        output.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from error


@contextmanager
def _progress(name: str) -> Iterator[Callable[[float, float], None]]:
    """Tell a terminal how far it is: call what this gives with seconds of audio done, and of all."""
    console = Console(stderr=True)
    began = time.monotonic()
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(name, total=None, speed="")
        heard = 0.0

        def told(seconds: float, total: float) -> None:
            nonlocal heard
            heard = seconds
            bar.update(task, completed=seconds, total=total, speed=_speed(seconds, time.monotonic() - began))

        yield told
    if console.is_terminal:
        console.print(f"{name}: {_speed(heard, time.monotonic() - began)}", markup=False, highlight=False)


def _speed(heard: float, seconds: float) -> str:
    """The real-time factor, with what it is made of."""
    factor = f", {seconds / heard:.2f} of real time" if heard else ""
    return f"{heard:.0f} s of audio in {seconds:.0f} s{factor}"
