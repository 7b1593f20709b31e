"""`streamtask`: the command itself, and how errors are told."""

from __future__ import annotations

import sys

import click

from streamtask.cli import inspect, publish, worker
from streamtask.errors import ConfigurationError, StreamtaskError
from streamtask.redact import mask_text


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="streamtask")
def streamtask() -> None:
    """Typed events on Redis Streams."""


streamtask.add_command(worker.worker)
streamtask.add_command(inspect.inspect)
streamtask.add_command(publish.publish)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 usage."""
    try:
        streamtask(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ConfigurationError as error:
        click.echo(f"Error: {mask_text(str(error))}", err=True)
        sys.exit(2)
    except StreamtaskError as error:
        click.echo(f"Error: {mask_text(str(error))}", err=True)
        sys.exit(1)
