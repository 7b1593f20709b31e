"""What the outboxes of SQLAlchemy and Django have in common: their app, and the relays that run in this process."""

from __future__ import annotations

import asyncio
import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streamtask.app import App
from streamtask.redact import mask_url
from streamtask.sql.relay import BATCH, DEDUP_WINDOW, EVERY, Relay
from streamtask.sql.rows import Table

log = logging.getLogger(__name__)

#: Seconds that a relay gets for the batch that it has in hand when it is to stop.
_GRACE = 5.0


class TransactionalOutbox(ABC):
    """A table of the user's database whose rows are published once their transaction is committed."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._relays: set[Relay] = set()

    @abstractmethod
    def _table_for_relay(self) -> Table:
        """A way to the table for one relay. Raises ConfigurationError where there is none."""

    def make_relay(self, *, every: float = EVERY, batch: int = BATCH, dedup_window: float = DEDUP_WINDOW) -> Relay:
        """A relay that does not run yet. Called in the event loop that is to run it.

        Raises:
            ConfigurationError: the app's broker URL cannot be right, or there is no way to the database.
        """
        self.app.connector()
        return Relay(self.app, self._table_for_relay(), every=every, batch=batch, dedup_window=dedup_window)

    @asynccontextmanager
    async def relay(
        self, *, every: float = EVERY, batch: int = BATCH, dedup_window: float = DEDUP_WINDOW
    ) -> AsyncIterator[Relay]:
        """A relay inside this process, as long as the `async with` lasts; a commit of this process wakes it at once.

        `every`: seconds between two looks at what other processes have committed. `batch`: rows in one round trip.
        `dedup_window`: seconds for which the broker knows that it has an event: a relay that dies between publishing
        and removing a batch doubles it only where none runs again for so long.

        Neither broker nor database need be there at the start.
        """
        relay = self.make_relay(every=every, batch=batch, dedup_window=dedup_window)
        self._relays.add(relay)
        running = asyncio.create_task(_run(relay), name="streamtask-sql-outbox")
        try:
            yield relay
        finally:
            self._relays.discard(relay)
            relay.stop()
            await asyncio.wait([running], timeout=_GRACE)
            # Broker or database hang: what is in the table stays there.
            running.cancel()
            await asyncio.wait([running])

    async def serve(
        self, *, every: float = EVERY, batch: int = BATCH, dedup_window: float = DEDUP_WINDOW, burst: bool = False
    ) -> None:
        """A relay that is a process of its own: until SIGTERM or SIGINT or, with `burst`, until the table is empty."""
        relay = self.make_relay(every=every, batch=batch, dedup_window=dedup_window)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, relay.stop)
        log.info("sql_outbox.started", extra={"broker": mask_url(self.app.url)})
        await relay.run(burst=burst)
        log.info("sql_outbox.stopped")

    def wake(self) -> None:
        """Say to the relays of this process that something was committed; from any thread."""
        for relay in tuple(self._relays):
            relay.wake()


async def _run(relay: Relay) -> None:
    try:
        await relay.run()
    except Exception:
        log.exception("sql_outbox.ended")
