"""Lines of JSON → published events: what `streamtask publish TYPE -` does with its input.

A line that is no such event is refused, with its number and the reason, and costs the others nothing. Where it is
unknown what was stored, the feed ends and says which lines that concerns: to go on would hide it.
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
            StreamtaskError: it is unknown which of some lines are stored; the message says which lines.
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
            raise StreamtaskError(
                f"{self.published} events were published; of lines {batch[0][0]} to {batch[-1][0]} it is unknown which "
                f"are stored ({error}); nothing behind them was sent"
            ) from error
        self.published += len(ids)
        return ids
