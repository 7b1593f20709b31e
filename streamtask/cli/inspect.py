"""`streamtask inspect`: read-only views."""

from __future__ import annotations

import click


@click.group()
def inspect() -> None:
    """Show what is pending, who works, and where an event is. Changes nothing."""
