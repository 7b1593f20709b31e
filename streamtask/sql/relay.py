"""The relay: publishes what stands in an outbox table, oldest first, and removes it.

A row is removed after its event is stored, never before. So a relay that dies between the two leaves rows that are
published already: each event is stored under its id as de-duplication key, and the next relay's repeat changes nothing.
It never looks into an event, and never gives one up: what cannot be published now stays where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence

from streamtask import failpoints
from streamtask.app import App
from streamtask.errors import TransportError
from streamtask.sql.rows import Row, Table
from streamtask.worker.outage import Outage

#: Seconds between two looks while nobody says that there is something.
EVERY = 1.0
#: Rows that are published in one round trip, and at most in doubt after a crash.
BATCH = 100
#: Seconds within which a row that was published and not removed is not published again.
DEDUP_WINDOW = 3600.0

#: Seconds between two tries while the broker or the database is away.
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0
#: Seconds for which the rows of a stream rest after the broker has refused one of them.
_REST = 2.0


class Relay:
    """Publishes from one table. Lives in one event loop; `wake` and `stop` may come from any thread."""

    def __init__(
        self, app: App, table: Table, *, every: float = EVERY, batch: int = BATCH, dedup_window: float = DEDUP_WINDOW
    ) -> None:
        self._app = app
        self._table = table
        self._every = every
        self._batch = batch
        self._window = dedup_window
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._stop = asyncio.Event()
        self._is_connected = False
        self._outage = Outage("sql_outbox", app.metrics)
        self._delay = _FIRST_DELAY
        #: Streams of which the broker has refused an event: their trouble, and until when their rows rest.
        self._refused: dict[str, tuple[Outage, float]] = {}
        #: Ids of events that are stored while their rows are not known to be removed.
        self._stored: set[str] = set()

    def wake(self) -> None:
        """Say that something was committed: it looks at once."""
        self._set(self._news)

    def stop(self) -> None:
        """Say that `run` is to return, after the batch that it has in hand."""
        self._set(self._stop)

    def _set(self, event: asyncio.Event) -> None:
        # A loop that is closed has no relay any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(event.set)

    async def run(self, *, burst: bool = False) -> None:
        """Publish what comes, until `stop`; with `burst`, until the table is empty."""
        try:
            while not self._stop.is_set():
                self._news.clear()
                given = await self._step()
                if given is None:
                    await _within(self._delay, self._stop)
                    self._delay = min(self._delay * 2, _LONGEST_DELAY)
                elif given < self._batch:
                    if burst and not given and not self._refused:
                        return
                    await _within(min(self._every, _REST) if self._refused else self._every, self._stop, self._news)
        finally:
            await self._table.close()
            if self._is_connected:
                await self._app.__aexit__()

    async def _step(self) -> int | None:
        """One batch: how many rows there were; None where broker or database failed."""
        try:
            if not self._is_connected:
                await self._app.__aenter__()
                self._is_connected = True
            removed: list[Row] = []

            async def publish(rows: Sequence[Row]) -> Sequence[Row]:
                removed.extend(await self._publish(rows))
                return removed

            given = await self._table.hand_over(publish, limit=self._batch, without=self._resting())
        except TransportError as error:
            self._outage.failed(error)
            return None
        self._outage.over()
        self._delay = _FIRST_DELAY
        self._stored.difference_update(row.event_id for row in removed)
        return given

    async def _publish(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Store the events of rows; those that are stored."""
        # What could not be removed last time is not published again, however long the database was away.
        new = [row for row in rows if row.event_id not in self._stored]
        results = await self._app.transport.publish([row.outgoing(self._window) for row in new]) if new else []
        if failpoints.armed:
            failpoints.reached("outbox_published")
        became = list(zip(new, results, strict=True))
        stored = [row for row, result in became if not isinstance(result, Exception)]
        refused = {row.stream: result for row, result in became if isinstance(result, Exception)}
        for stream, n in Counter(row.stream for row in stored).items():
            self._app.metrics.published(stream, n)
        self._note(refused, {row.stream for row in stored})
        self._stored.update(row.event_id for row in stored)
        return [row for row in rows if row.event_id in self._stored]

    def _note(self, refused: dict[str, Exception], stored: set[str]) -> None:
        """Let the streams rest of which an event was refused, and say of the others that they are well."""
        for stream, error in refused.items():
            outage, _ = self._refused.get(stream) or (Outage("sql_outbox", self._app.metrics, stream=stream), 0.0)
            outage.failed(TransportError(f"an event waits in its table: {error}"))
            self._refused[stream] = outage, time.monotonic() + _REST
            self._app.metrics.publish_failed(stream)
        for stream in (stored - refused.keys()) & self._refused.keys():
            self._refused.pop(stream)[0].over()

    def _resting(self) -> list[str]:
        now = time.monotonic()
        return [stream for stream, (_, until) in self._refused.items() if now < until]


async def _within(seconds: float, *events: asyncio.Event) -> None:
    """Wait for one of the events, but not longer."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
