"""What stands in stream:audio-results, by event class."""

from __future__ import annotations

from typing import TypeVar

from streamtask import App, Event
from streamtask.event import describe, load

EventT = TypeVar("EventT", bound=Event)


async def results(app: App, kind: type[EventT]) -> list[EventT]:
    """Every event of this class in the stream, in order. The app is connected."""
    found: list[EventT] = []
    position = "0"
    while page := await app.transport.read("audio-results", after=position, count=1000, wait=0.0):
        position = page[-1].entry_id
        envelopes = [app.broker.decode(delivery) for delivery in page]
        ours = [each for each in envelopes if each.event_type == describe(kind).type]
        found += [load(kind, each.payload_bytes, each.schema_version) for each in ours]
    return found
