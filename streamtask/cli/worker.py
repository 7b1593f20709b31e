"""`streamtask worker`: hands over to the supervisor, which starts the worker processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

from streamtask.cli.flags import FLAGS, Flag, supervisor_settings
from streamtask.worker import supervisor
from streamtask.worker.memory import resident_mib
from streamtask.worker.variables import BROKER_VARIABLE

_SUPERVISOR = str(Path(supervisor.__file__).with_name("__main__.py"))


def _option(flag: Flag) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option as click has it."""
    kind: Any = None
    if flag.choices:
        kind = click.Choice(flag.choices)
    elif flag.kind in (int, float):
        number: Any = click.IntRange if flag.kind is int else click.FloatRange
        kind = number(flag.least, flag.most)
    return click.option(
        *([flag.short] if flag.short else []),
        flag.name,
        flag.to,
        type=kind,
        is_flag=flag.kind is bool,
        multiple=flag.many,
        default=flag.default,
        show_default=flag.shows_default,
        envvar=flag.variable,
        metavar=flag.metavar,
        help=flag.help,
    )


def _run(**options: Any) -> None:
    """Run consumers until SIGTERM or Ctrl-C."""
    if not options["reference"]:
        raise click.UsageError("which app? Give -A module:attribute or set STREAMTASK_APP.")
    if options["max_memory"] is not None and not resident_mib(os.getpid()):
        raise click.UsageError("--max-memory needs /proc/PID/statm, which this system does not have")
    broker = options["broker"]
    # The supervisor takes this process over: what was imported to parse the command line is not kept in memory.
    os.execve(  # noqa: S606 - our own interpreter and file
        sys.executable,
        [sys.executable, "-P", "-S", _SUPERVISOR, supervisor_settings(options)],
        os.environ | ({BROKER_VARIABLE: broker} if broker else {}),
    )


worker = click.command("worker")(reduce(lambda made, flag: _option(flag)(made), reversed(FLAGS), _run))
