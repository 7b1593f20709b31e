"""`streamtask bridge`: carries the calls of a Celery queue over to streamtask's tasks."""

from __future__ import annotations

import json
import logging
import signal
from typing import Any, Literal

import click

from streamtask.bridge.bridge import DEDUP_WINDOW, Bridge
from streamtask.bridge.sources import open_source
from streamtask.cli.connection import check_shared
from streamtask.cli.options import app_option, broker_option
from streamtask.loading import load_app
from streamtask.redact import mask_url
from streamtask.telemetry import logs

log = logging.getLogger(__name__)


def _option(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, Any]:
    """`NAME=VALUE`, where the value is JSON or else text."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise click.BadParameter(f"NAME=VALUE, got {word!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


@click.command()
@click.option("--from", "url", metavar="URL", required=True, help="Celery's broker_url, amqp:// or redis://...")
@click.option("--queue", default="celery", show_default=True, help="The queue of Celery to drain.")
@app_option
@broker_option
@click.option(
    "--option",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_option,
    help="Of Celery's broker_transport_options, such as global_keyprefix; repeatable.",
)
@click.option(
    "--dedup-window",
    type=click.FloatRange(1),
    default=DEDUP_WINDOW,
    show_default=True,
    help="Seconds within which a call that comes twice is stored once.",
)
@click.option("--burst", is_flag=True, help="Stop when the queue is empty.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def bridge(
    url: str,
    queue: str,
    reference: str | None,
    broker: str | None,
    *,
    options: dict[str, Any],
    dedup_window: float,
    burst: bool,
    log_format: Literal["text", "json"],
) -> None:
    """Carry the calls in a Celery queue over to the tasks of an app, until SIGTERM or Ctrl-C.

    A call becomes a call of the task that has its name. What cannot become one is kept in QUEUE.unbridged, where Celery
    can run it.
    """
    if not reference:
        raise click.UsageError("which app? Give -A module:attribute or set STREAMTASK_APP.")
    app = load_app(reference, broker=broker)
    check_shared(app.url)
    logs.configure(log_format)
    running = Bridge(app, lambda: open_source(url, queue, options), queue, dedup_window=dedup_window)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: running.stop())
    log.info("bridge.started", extra={"source": mask_url(url), "queue": queue, "tasks": len(app.tasks)})
    running.run(burst=burst)
    log.info("bridge.stopped", extra=dict(running.counts))
    logs.let_go()
