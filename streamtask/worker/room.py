"""How much may be taken in of each stream: no more than can run, and soon. Reads nothing, and runs nothing.

Slots are shared by all streams (`flow.py`). Beside them stand what a stream has of its own: the limits of its handlers,
the starts of those that may start so often only, priorities, and batches, of which one slot takes many events.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from streamtask.catalog import Catalog
from streamtask.lanes import home
from streamtask.transport.values import Delivery, Subscription
from streamtask.worker.flow import Flow
from streamtask.worker.lanes import Lane, Lanes, Place
from streamtask.worker.limits import intake_of_stream, limit_of_stream, share_of_stream
from streamtask.worker.pacer import Pace
from streamtask.worker.slots import Slots
from streamtask.worker.stock import Stock

#: More than any worker takes in.
_NO_LIMIT = 1 << 30
#: Events that one read brings at most, of a stream whose slots take several.
_MOST_AT_ONCE = 500


class Room:
    """How much more of each stream may be taken in.

    `paces` are those of limited handlers. `short` says of which streams more is due than there was room for.
    """

    def __init__(
        self,
        catalog: Catalog,
        subscriptions: Sequence[Subscription],
        paces: Mapping[int, Pace],
        *,
        flow: Flow,
        stock: Stock,
        slots: Slots,
        short: Callable[[], Collection[Place]],
    ) -> None:
        self._flow = flow
        self._stock = stock
        self._slots = slots
        self._short = short
        places = [(_place(sub), sub) for sub in subscriptions]
        self._limits = {place: limit_of_stream(catalog, sub) for place, sub in places}
        self._shares = {place: share_of_stream(catalog, sub) for place, sub in places}
        self._paced = {
            place: found for place, sub in places if (found := intake_of_stream(catalog, sub, paces)) is not None
        }
        self._lanes = Lanes(_with_lanes(catalog, subscriptions), flow.concurrency)

    def lane(self, sub: Subscription) -> Lane | None:
        """One of several priorities of a stream; None: it has none."""
        return self._lanes.get(_place(sub))

    def is_apart(self, sub: Subscription) -> bool:
        """Whether a stream has to be read by itself."""
        place = _place(sub)
        has_limit = self._limits[place] is not None or self._shares[place] > 1
        return bool(sub.gates) or has_limit or place in self._paced or self._lanes.get(place) is not None

    def new(self, subs: Sequence[Subscription]) -> tuple[list[str], int]:
        """Which of these streams may be read now, and how much may be taken; they are of one group."""
        room = self._flow.free_for_new
        if self._lanes:
            room = max(0, room - self._lanes.owed(_place(subs[0]), self._short()))
        if len(subs) == 1:
            room = self._events_for(subs[0], room)
        if not room:
            return [], 0
        own = {sub.stream: self._own(sub, due=False) for sub in subs}
        streams = [stream for stream, most in own.items() if most]
        if len(streams) == 1:
            room = min(room, own[streams[0]])
        return streams, room if streams else 0

    def due(self, sub: Subscription) -> int:
        """How much of what is due may be taken in, the worker's slots apart."""
        return self._own(sub, due=True)

    def in_slots(self, sub: Subscription) -> int:
        """How many events of a stream there are slots for."""
        return self._events_for(sub, self._flow.free)

    def _events_for(self, sub: Subscription, slots: int) -> int:
        """How many events of a stream so many slots take. Batches fill those that are free; ahead of them waits one."""
        place = _place(sub)
        share = self._shares[place]
        if share == 1:
            return slots
        most = min(slots, max(1, self._flow.free_slots)) * share + self._slots.space(*place)
        return min(most, max(share, _MOST_AT_ONCE))

    def _own(self, sub: Subscription, *, due: bool) -> int:
        if self._slots.steps_aside(sub.stream, sub.group):
            return 0
        place = _place(sub)
        limit, paced = self._limits[place], self._paced.get(place)
        lane, together = self._lanes.get(place), self._lanes.together(place)
        room = _NO_LIMIT
        if limit is not None:
            most = limit if lane is None else lane.share(limit)
            room = max(0, most - sum(self._stock.held[each] for each in together))
        if lane is not None:
            occupied = self._flow.held - self._slots.paced
            slots = self._lanes.room(lane, occupied, due=due, unlimited=_NO_LIMIT)
            room = min(room, self._events_for(sub, slots))
        if paced is not None and room:
            waiting = self._slots.paced
            if paced.is_whole:
                waiting = sum(self._stock.held[each] - self._stock.begun[each] for each in together)
            is_short = not due and place in self._short()
            room = min(room, paced.room(waiting, due=due, due_waits=is_short, unlimited=_NO_LIMIT))
        return room

    def took(self, deliveries: Sequence[Delivery], *, due: bool) -> int:
        """These were taken in, from one read or claim; their rank among what waits for a slot."""
        # What has limits or lanes is read and claimed apart, so that the first stands for all.
        place = deliveries[0].stream, deliveries[0].group
        if self._paced and (paced := self._paced.get(place)) is not None:
            paced.took(due=due)
        return self._lanes.took(place, len(deliveries)) if self._lanes else 0


def _place(sub: Subscription) -> Place:
    return sub.stream, sub.group


def _with_lanes(catalog: Catalog, subscriptions: Sequence[Subscription]) -> list[list[tuple[Place, int]]]:
    """What is read in several lanes, the highest first; `Lanes` takes it."""
    streams: dict[Place, list[tuple[Place, int]]] = {}
    for sub in subscriptions:
        streams.setdefault((home(sub.stream), sub.group), []).append((_place(sub), catalog.rank(sub.stream)))
    return [lanes for lanes in streams.values() if len(lanes) > 1]
