"""`streamtask outbox`: the relay of an outbox table as a process of its own."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import click

from streamtask.app import App
from streamtask.cli.connection import check_shared
from streamtask.cli.options import app_option, broker_option
from streamtask.errors import ConfigurationError
from streamtask.loading import load
from streamtask.sql.outbox import TransactionalOutbox
from streamtask.sql.relay import BATCH, DEDUP_WINDOW, EVERY
from streamtask.telemetry import logs


@click.group()
def outbox() -> None:
    """Events that wait in a table of your database."""


@outbox.command()
@app_option
@broker_option
@click.option("--every", type=click.FloatRange(0.01), default=EVERY, show_default=True, help="Seconds between looks.")
@click.option("--batch", type=click.IntRange(1), default=BATCH, show_default=True, help="Rows in one round trip.")
@click.option(
    "--dedup-window",
    type=click.FloatRange(1),
    default=DEDUP_WINDOW,
    show_default=True,
    help="Seconds for which the broker knows what it has.",
)
@click.option("--burst", is_flag=True, help="Stop when the table is empty.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def run(reference: str | None, broker: str | None, log_format: Literal["text", "json"], **options: Any) -> None:
    """Publish what is committed to the table, until SIGTERM or Ctrl-C.

    The reference names the outbox, or the app of an outbox that stands in the same module.
    """
    if not reference:
        raise click.UsageError("which outbox? Give -A module:attribute or set STREAMTASK_APP.")
    found = _find(reference)
    if broker:
        found.app.use_broker(broker)
    check_shared(found.app.url)
    logs.configure(log_format)
    asyncio.run(found.serve(**options))
    logs.let_go()


def _find(reference: str) -> TransactionalOutbox:
    """The outbox that a reference names, itself or by its app. Raises ConfigurationError."""
    module, named = load(reference)
    if isinstance(named, TransactionalOutbox):
        return named
    outboxes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, TransactionalOutbox) and (value.app is named or not isinstance(named, App))
    }
    if isinstance(named, App) and len(outboxes) == 1:
        return next(iter(outboxes.values()))
    name = module.__name__
    there = f"it has {', '.join(f'{name}:{key}' for key in outboxes)}" if outboxes else "there is none in that module"
    raise ConfigurationError(f"-A {reference} names no outbox: {there}; give -A module:outbox")
