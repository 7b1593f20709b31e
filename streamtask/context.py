"""What a handler is given beside its event: the envelope, the attempt, and ways to emit and to log."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from streamtask.blobs import Blobs
from streamtask.envelope import Envelope
from streamtask.event import Event
from streamtask.records import Records
from streamtask.telemetry.logs import ContextLogger

_handlers_log = logging.getLogger("streamtask.handler")


class BlockingPublisher(Protocol):
    """`app.sync`: publishing for code that cannot await."""

    def publish(
        self,
        event: Event,
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_key: str | None = None,
        event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """See `App.publish`."""

    def publish_many(self, events: Sequence[Event]) -> list[str]:
        """See `App.publish_many`."""


class Application(Protocol):
    """What a handler may ask of its app."""

    @property
    def name(self) -> str:
        """The `source` of its envelopes."""

    @property
    def url(self) -> str:
        """The broker URL in use."""

    @property
    def address(self) -> str:
        """The URL by which other processes of this machine reach the broker in use."""

    @property
    def sync(self) -> BlockingPublisher:
        """The blocking twin."""

    @property
    def blobs(self) -> Blobs:
        """What is too large for an event, by its URI."""

    @property
    def records(self) -> Records:
        """Small facts, fields under a key."""

    async def publish(
        self,
        event: Event,
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_key: str | None = None,
        event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """See `App.publish`."""

    async def publish_many(self, events: Sequence[Event]) -> list[str]:
        """See `App.publish_many`."""


class Context:
    """The delivery that a handler is handling."""

    __slots__ = ("_emits", "app", "attempt", "envelope")

    def __init__(self, envelope: Envelope, attempt: int, app: Application) -> None:
        #: The envelope of the event.
        self.envelope = envelope
        #: 1 + the failures so far.
        self.attempt = attempt
        #: The app whose handler this is.
        self.app = app
        self._emits: list[tuple[Event, float | None]] = []

    def emit(self, event: Event, delay: float | None = None) -> None:
        """Publish an event in the same atomic step as the ack, `delay` seconds later if given.

        Nothing is published if the handler fails, or if another worker has taken the delivery over.
        """
        if delay is not None and not 0 <= delay < math.inf:
            raise ValueError(f"delay is in seconds, from 0, got {delay}")
        self._emits.append((event, delay))

    @property
    def emits(self) -> Sequence[tuple[Event, float | None]]:
        """What was emitted so far, with its delay."""
        return self._emits

    @property
    def sync(self) -> BlockingPublisher:
        """Blocking twins of the app's async methods, for threads and child processes."""
        return self.app.sync

    @property
    def log(self) -> ContextLogger:
        """A logger whose lines carry the event id and the trace id."""
        return ContextLogger(_handlers_log)
