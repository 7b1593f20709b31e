"""`streamtask config`: what services are configured with."""

from __future__ import annotations

import click


@click.group()
def config() -> None:
    """See what services are configured with, and go back."""
