"""`streamtask`: the command itself, and how errors are told."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

import click

from streamtask.cli.commands import CommandGroup
from streamtask.cli.text import one_line
from streamtask.errors import ConfigurationError, StreamtaskError
from streamtask.redact import mask_text


class CommandLine(CommandGroup):
    """The outermost group: what went wrong becomes one line on standard error and an exit code, never a traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line. Exit codes: 0 done, 1 failed, 2 usage."""
        # What a command has to say it prints; `streamtask worker` sets up its log in processes of its own.
        logging.getLogger("streamtask").addHandler(logging.NullHandler())
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a letter gets it escaped; an event's text must not end a command.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except click.exceptions.Abort:
            click.echo("Aborted.", err=True)
            code = 1
        except click.UsageError as error:
            message = error.format_message().rstrip(".")
            end = "" if message.endswith("?") else "."
            code = _fail(f"{message}{end} See `{_path(error)} --help`.", error.exit_code)
        except click.ClickException as error:
            code = _fail(error.format_message(), error.exit_code)
        except ConfigurationError as error:
            code = _fail(str(error), 2)
        except StreamtaskError as error:
            code = _fail(str(error), 1)
        sys.exit(code if isinstance(code, int) else 0)


def _path(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else "streamtask"


def _fail(message: str, code: int) -> int:
    click.echo(f"Error: {mask_text(one_line(message))}", err=True)
    return code


@click.group(
    cls=CommandLine,
    commands_in={
        "worker": "streamtask.cli.worker",
        "inspect": "streamtask.cli.inspect",
        "dead": "streamtask.cli.dead",
        "groups": "streamtask.cli.groups",
        "scheduled": "streamtask.cli.scheduled",
        "publish": "streamtask.cli.publish",
        "replay": "streamtask.cli.replay",
        "tasks": "streamtask.cli.tasks",
        "outbox": "streamtask.cli.outbox",
        "bridge": "streamtask.cli.bridge",
        "doctor": "streamtask.cli.doctor",
    },
    others_in="streamtask.cli.plugins",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="streamtask")
def streamtask() -> None:
    """Typed events on Redis Streams."""


def main() -> None:
    """Run the command line, as the program `streamtask`."""
    streamtask(prog_name="streamtask")
