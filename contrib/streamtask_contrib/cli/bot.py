"""`streamtask bot`: bots in meetings."""

from __future__ import annotations

import click


@click.group()
def bot() -> None:
    """Send bots to meetings, and call them back."""
