"""Lines of JSON → published events: what `streamtask publish TYPE -` does with its input.

A line that is no such event is refused, with its number and the reason, and costs the others nothing. What is not
known to be stored is published again under its own id, which stores it once; where that fails too, the feed ends and
says which lines are concerned: to go on would hide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamtask.app import App
from streamtask.errors import EventRefusedError, PayloadError, PublishError, StreamtaskError
from streamtask.event import Event, describe, load

#: Events that are published at once.
_BATCH = 500

_Numbered = tuple[int, Event]


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that was not published."""

    line: int
    reason: str


class Feed:
    """Publishes the lines of one source, in order, as events of one class."""

    def __init__(self, app: App, cls: type[Event]) -> None:
        self._app = app
        self._cls = cls
        self._version = describe(cls).version
        self._line = 0
        #: Events that are stored.
        self.published = 0
        #: Lines that are not, so far.
        self.refused: list[Refused] = []

    async def take(self, lines: Sequence[bytes]) -> list[str]:
        """Publish the next lines; returns the event ids. Empty lines are passed over.

        Raises:
            StreamtaskError: some lines are not known to be stored; the message says which.
        """
        events: list[_Numbered] = []
        for line in lines:
            self._line += 1
            if not line.strip():
                continue
            try:
                events.append((self._line, load(self._cls, line, self._version)))
            except PayloadError as error:
                self.refused.append(Refused(self._line, str(error)))
        ids = []
        for start in range(0, len(events), _BATCH):
            ids += await self._store(events[start : start + _BATCH])
        # In the order of lines: those that could not be read were found before those that could not be published.
        self.refused.sort(key=lambda refused: refused.line)
        return ids

    async def _store(self, batch: Sequence[_Numbered]) -> list[str]:
        try:
            ids = await self._app.publish_many([event for _, event in batch])
        except EventRefusedError as error:
            if len(batch) > 1:
                # Nothing of the batch was stored: it is checked as a whole first, and goes to one stream.
                return [event_id for one in batch for event_id in await self._store([one])]
            self.refused.append(Refused(batch[0][0], str(error)))
            return []
        except PublishError as error:
            return await self._store_again(batch, error)
        self.published += len(ids)
        return ids

    async def _store_again(self, batch: Sequence[_Numbered], trouble: PublishError) -> list[str]:
        """Publish what is not known to be stored once more, each with the id that it has."""
        ids = []
        self.published += len(batch) - len(trouble.unsure)
        for place, event_id in sorted(trouble.unsure.items()):
            line, event = batch[place]
            try:
                ids.append(await self._app.publish(event, event_id=event_id))
            except PublishError as error:
                raise StreamtaskError(
                    f"{self.published} events were published; lines {line} to {batch[-1][0]} are not known to be "
                    f"stored ({error}), and nothing behind them was sent"
                ) from error
            self.published += 1
        return ids
