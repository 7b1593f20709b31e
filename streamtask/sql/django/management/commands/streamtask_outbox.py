"""`python manage.py streamtask_outbox`: the relay as a process of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from streamtask.errors import ConfigurationError
from streamtask.sql.django import outbox
from streamtask.sql.relay import BATCH, DEDUP_WINDOW, EVERY


class Command(BaseCommand):
    """See the module."""

    help = "Publish what transactions have left in the outbox table, until SIGTERM or Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        """As `streamtask outbox run` has them."""
        parser.add_argument("--database", help="Alias of the database; by default what the routers say.")
        parser.add_argument("--every", type=float, default=EVERY, help="Seconds between looks.")
        parser.add_argument("--batch", type=int, default=BATCH, help="Rows in one round trip.")
        parser.add_argument(
            "--dedup-window", type=float, default=DEDUP_WINDOW, help="Seconds for which the broker knows what it has."
        )
        parser.add_argument("--burst", action="store_true", help="Stop when the table is empty.")

    def handle(self, *_: object, **options: Any) -> None:
        """Run the relay."""
        try:
            asyncio.run(
                outbox()
                .at(options["database"])
                .serve(
                    every=options["every"],
                    batch=options["batch"],
                    dedup_window=options["dedup_window"],
                    burst=options["burst"],
                )
            )
        except ConfigurationError as error:
            raise CommandError(str(error)) from error
