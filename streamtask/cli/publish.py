"""`streamtask publish`."""

from __future__ import annotations

import click
import pydantic

from streamtask.cli.options import app_option, broker_option
from streamtask.errors import ConfigurationError
from streamtask.loading import load_app


@click.command()
@click.argument("type_", metavar="TYPE")
@click.argument("payload", metavar="JSON")
@app_option
@broker_option
def publish(type_: str, payload: str, reference: str | None, broker: str | None) -> None:
    """Publish one event of TYPE with JSON as its payload; `-` reads a payload a line."""
    if not reference:
        raise click.UsageError("which app? Give -A module:attribute or set STREAMTASK_APP")
    app = load_app(reference, broker=broker)
    cls = app.broker.types.get(type_)
    if cls is None:
        raise ConfigurationError(f"the app has no event {type_!r}; it has {', '.join(sorted(app.broker.types))}")
    lines = click.get_text_stream("stdin") if payload == "-" else [payload]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = cls.model_validate_json(line)
        except pydantic.ValidationError as error:
            raise ConfigurationError(f"line {number} is no {type_}: {error}") from error
        click.echo(app.sync.publish(event))
