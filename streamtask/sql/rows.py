"""A row of the outbox table: an event as its transaction leaves it, and what a relay asks of the table.

The envelope is made when the event is published, not when it is relayed: its time, its trace and what is refused of it
are those of the transaction. Does no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from streamtask import envelope as envelopes
from streamtask.app import App
from streamtask.event import Event
from streamtask.telemetry import logs
from streamtask.transport.values import Outgoing

#: Names of the columns beside `position`, the order in which rows were written.
COLUMNS = ("event_id", "stream", "body", "content_type", "content_encoding", "due_ms")


class Row(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event that waits for its relay."""

    #: Where it stands in the table; 0: nowhere yet.
    position: int = 0
    event_id: str
    stream: str
    body: bytes
    content_type: str | None = None
    content_encoding: str | None = None
    #: Milliseconds since 1970 at which it is due; None: at once.
    due_ms: int | None = None

    def outgoing(self, window: float) -> Outgoing:
        """The event as the transport takes it: stored once for its id within `window` seconds."""
        return Outgoing(
            stream=self.stream,
            body=self.body,
            event_id=self.event_id,
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            at=None if self.due_ms is None else datetime.fromtimestamp(self.due_ms / 1000, UTC),
            dedup_key=self.event_id,
            dedup_window=window,
        )


def make_row(
    app: App,
    event: Event,
    *,
    delay: float | None,
    at: datetime | None,
    headers: Mapping[str, str] | None,
    priority: str | None,
) -> Row:
    """An event as a row.

    Raises:
        ConfigurationError: its class does not declare the priority.
        EventRefusedError: a consumer could not read it back.
        ValueError: a delay or a moment that is none.
    """
    if delay is not None and at is not None:
        raise ValueError("give delay or at, not both")
    if delay is not None and not 0 <= delay < math.inf:
        raise ValueError(f"delay is in seconds, from 0, got {delay}")
    if at is not None and at.tzinfo is None:
        raise ValueError("at needs a time zone: datetime(..., tzinfo=UTC)")
    # From here on, however long the relay takes.
    due = at.timestamp() if at is not None else None if delay is None else app.broker.clock.now() + delay
    bound = logs.current()
    outgoing = app.broker.outgoing(
        event,
        event_id=envelopes.new_event_id(),
        trace_id=bound.trace_id if bound else envelopes.new_trace_id(),
        causation_id=bound.event_id if bound else None,
        headers=headers,
        priority=priority,
    )
    return Row(
        event_id=outgoing.event_id,
        stream=outgoing.stream,
        body=outgoing.body,
        content_type=outgoing.content_type,
        content_encoding=outgoing.content_encoding,
        due_ms=None if due is None else round(due * 1000),
    )


#: Is given rows, publishes them, and returns those that are stored for certain.
Publish = Callable[[Sequence[Row]], Awaitable[Sequence[Row]]]


class Table(Protocol):
    """The table as a relay sees it: a database library's way to it. One relay asks one thing at a time."""

    async def hand_over(self, publish: Publish, *, limit: int, without: Collection[str]) -> int:
        """Give the oldest committed rows to `publish`, and remove those that it returns. How many were given.

        `limit`: at most so many. `without`: streams whose rows are left alone. Where the database can, the rows are
        locked meanwhile, and where another relay has older ones none is given: the order stays that of the table.

        Raises:
            TransportError: the database failed; what was published may still stand in the table.
        """

    async def close(self) -> None:
        """Let go of what it has opened."""
