"""One reader of a stream in each API process, and the mailboxes of those who wait for what it reads.

No socket reads a stream itself: however many clients there are, the broker has one reader of each process.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pydantic import ValidationError

from streamtask import App, EnvelopeError, Event, StoredEnvelope, TransportError
from streamtask_contrib.api.delivery import Mailbox

log = logging.getLogger(__name__)

_E = TypeVar("_E", bound=Event)

#: Seconds after which a stream that could not be read is tried again.
_AGAIN = 1.0
#: Seconds without trouble after which the stream can be read.
_AWAY = 3 * _AGAIN


class Reader(ABC):
    """Reads a stream and hands what is in it to mailboxes, each of which waits for one session, or one bot."""

    def __init__(self, app: App, stream: str, *, since: float) -> None:
        """`since`: seconds before now from which on it reads."""
        self._app = app
        self._since = since
        self._position: str | datetime = "$"
        self._mailboxes: dict[str, set[Mailbox]] = {}
        self._failed_at = -_AWAY
        self.stream = stream

    @abstractmethod
    def take(self, stored: StoredEnvelope) -> None:
        """Hand one entry of the stream to those who wait for it."""

    @property
    def is_reading(self) -> bool:
        """Whether the stream can be read, as far as is known: there was no trouble in the last seconds."""
        return time.monotonic() - self._failed_at >= _AWAY

    async def run(self) -> None:
        """Read until cancelled; after trouble, go on where it was."""
        try:
            await self._read()
        finally:
            # Whatever ended it: nothing is read from here on.
            self._failed_at = math.inf

    async def _read(self) -> None:
        self._position = datetime.now(UTC) - timedelta(seconds=self._since)
        while True:
            try:
                async for stored in self._app.read(self.stream, after=self._position):
                    self._position = stored.entry_id
                    self.take(stored)
            except TransportError as error:
                self._failed_at = time.monotonic()
                log.warning("hub.interrupted", extra={"stream": self.stream, "error": str(error), "again_in": _AGAIN})
            await asyncio.sleep(_AGAIN)

    @contextmanager
    def waiting(self, name: str, mailbox: Mailbox) -> Iterator[Mailbox]:
        """Have a mailbox filled with what concerns this session or bot."""
        self._mailboxes.setdefault(name, set()).add(mailbox)
        try:
            yield mailbox
        finally:
            waiting = self._mailboxes[name]
            waiting.remove(mailbox)
            if not waiting:
                del self._mailboxes[name]

    def mailboxes(self, name: str) -> Collection[Mailbox]:
        """Those who wait for this session or bot."""
        return self._mailboxes.get(name, ())


def decoded(stored: StoredEnvelope, classes: Mapping[str, type[_E]]) -> _E | None:
    """The event of an entry, by its type; None for one of no such type, or that cannot be read."""
    cls = classes.get(stored.event_type)
    if cls is None:
        return None
    try:
        return cls.model_validate(stored.payload)
    except (ValidationError, EnvelopeError) as error:
        log.warning("hub.undecodable", extra={"entry_id": stored.entry_id, "error": str(error)})
        return None
