"""From `--broker` to a connected app, and trouble with it in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from streamtask import App, ConfigurationError, Inspector, TransportError
from streamtask_contrib.settings import blob_stores

_Answer = TypeVar("_Answer")
_Command = TypeVar("_Command", bound=Callable[..., Any])


def broker_option(command: _Command) -> _Command:
    """`--broker URL`."""
    say = "By default $STREAMTASK_BROKER, else the embedded server of this folder."
    return click.option("--broker", metavar="URL", help=say)(command)


def json_option(command: _Command) -> _Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def connected(broker: str | None, work: Callable[[App], Awaitable[_Answer]]) -> _Answer:
    """Do something with an app that is connected to this broker.

    Raises:
        StreamtaskError: it cannot be done; the message is for people.
    """
    app = App("command-line", broker=broker, blobs=blob_stores())
    if app.url.startswith("memory://"):
        raise ConfigurationError(
            "memory:// lives inside one process, and this is another: give --broker URL or set STREAMTASK_BROKER"
        )
    if app.url == "embedded://":
        click.echo("Using the embedded server of this folder (.streamtask): no broker URL was given.", err=True)

    async def answer() -> _Answer:
        async with app:
            return await work(app)

    try:
        return asyncio.run(answer())
    except TransportError as error:
        raise TransportError(f"the broker {app.url} cannot be used for this: {error}") from error


async def works(app: App, group: str) -> bool:
    """Whether a worker of this group lives."""
    return any(group in worker.groups for worker in await Inspector(app).workers())
