"""Lanes: which of the streams of several priorities may take slots now. Reads nothing, and runs nothing.

A higher lane goes first: a lower one is read only while those above it are known to be empty, and never ahead of free
slots, of which it leaves some to each of those above, for an event that comes now. That nothing starves, a lane that
has something to do gets one event for ten others that this worker takes in, whatever these are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

#: A stream and a group.
Place = tuple[str, str]
#: Of so many slots one is left to each lane above, and of so many events one is a lower lane's.
_SHARE = 10
#: Comes before every other rank.
NEXT = -1_000


class Lane:
    """One of the streams of several priorities, as one worker reads it for one group."""

    def __init__(self, above: Sequence[Lane], rank: int) -> None:
        self.above = above
        self.rank = rank
        #: Whether the last read has shown that nothing is left.
        self.is_empty = False
        #: How many others were taken in since it had one; at `_SHARE` it is its turn.
        self.others = 0

    @property
    def waits_for_its_turn(self) -> bool:
        """Whether others have to leave it a slot, if it has something to do."""
        return bool(self.above) and self.others >= _SHARE

    def share(self, limit: int) -> int:
        """How many of so many places this lane may fill."""
        reserved = max(1, limit // _SHARE) if limit > 1 else 0
        return max(1, limit - reserved * len(self.above))

    def was_read(self, found: int, count: int) -> bool:
        """A read of `count` has found so many; whether it is known anew that nothing is left, or that something is."""
        was_empty, self.is_empty = self.is_empty, found < count
        return was_empty != self.is_empty


class Lanes:
    """All lanes of one worker. `concurrency`: its slots."""

    def __init__(self, streams: Iterable[Sequence[tuple[Place, int]]], concurrency: int) -> None:
        """`streams`: of each with several priorities, its places and their ranks, the highest first."""
        self._concurrency = concurrency
        self._lanes: dict[Place, Lane] = {}
        self._together: dict[Place, list[Place]] = {}
        for places in streams:
            above: list[Lane] = []
            for place, rank in places:
                lane = Lane(tuple(above), rank)
                above.append(lane)
                self._lanes[place] = lane
                self._together[place] = [each for each, _ in places]

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def get(self, place: Place) -> Lane | None:
        """The lane at a place; None: it is a stream without priorities."""
        return self._lanes.get(place)

    def together(self, place: Place) -> Sequence[Place]:
        """The lanes of one stream and group; of a stream without priorities, itself."""
        return self._together.get(place, (place,))

    def room(self, lane: Lane, occupied: int, *, due: bool, unlimited: int) -> int:
        """How much one may take in, of due events or new ones, while so many slots are occupied or spoken for."""
        if not lane.above:
            return unlimited
        free = max(0, lane.share(self._concurrency) - occupied)
        if not due and not all(other.is_empty for other in lane.above):
            free = 0
        return max(free, 1) if lane.waits_for_its_turn else free

    def owed(self, place: Place, is_short: Iterable[Place]) -> int:
        """How many slots have to be left to others whose turn it is. `is_short`: where something due is waiting."""
        short = set(is_short)
        return sum(
            other != place and lane.waits_for_its_turn and (not lane.is_empty or other in short)
            for other, lane in self._lanes.items()
        )

    def took(self, place: Place, n: int) -> int:
        """So many were taken in from a place; their rank among what waits here for a slot."""
        lane = self._lanes.get(place)
        is_its_turn = lane is not None and lane.waits_for_its_turn and n == 1
        for other in self._lanes.values():
            other.others = 0 if other is lane else min(_SHARE, other.others + n)
        if lane is None:
            return 0
        return NEXT if is_its_turn else lane.rank
