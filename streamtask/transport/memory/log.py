"""A stream as Redis understands it: entries with growing ids, groups that read them, lists of what is pending.

It knows no streamtask: neither outcomes nor retries, and no clock but the moments it is given. Not thread-safe.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

#: Milliseconds and a sequence number, as in "1700000000000-0".
EntryId = tuple[int, int]

#: Below every entry.
ZERO: EntryId = (0, 0)
_LAST_SEQUENCE = 2**64 - 1


def parse_id(text: str) -> EntryId:
    """An id from "1700-3" or "1700"."""
    ms, _, sequence = text.partition("-")
    return int(ms), int(sequence or 0)


def id_text(entry_id: EntryId) -> str:
    """The id as Redis writes it."""
    return f"{entry_id[0]}-{entry_id[1]}"


def id_before(entry_id: EntryId) -> EntryId:
    """The greatest id below: reading after it begins with `entry_id` itself."""
    ms, sequence = entry_id
    if sequence:
        return ms, sequence - 1
    return (ms - 1, _LAST_SEQUENCE) if ms else ZERO


def id_at(moment: float | datetime) -> EntryId:
    """The lowest id of a moment (seconds since the epoch, or a datetime)."""
    seconds = moment.timestamp() if isinstance(moment, datetime) else moment
    return max(0, int(seconds * 1000)), 0


class Entry(NamedTuple):
    """One entry; the event id is known beside it, because the body may be compressed."""

    id: EntryId
    fields: tuple[bytes, ...]
    event_id: str = ""

    def field(self, name: bytes) -> bytes | None:
        """The first value of this name."""
        for index in range(0, len(self.fields) - 1, 2):
            if self.fields[index] == name:
                return self.fields[index + 1]
        return None

    @property
    def is_copy(self) -> bool:
        """A replay for one group: no part of the stream's own history."""
        return self.field(b"only") is not None


@dataclass(slots=True)
class Pending:
    """One entry that is delivered and not acked."""

    owner: str
    deliveries: int
    #: When it was delivered, claimed or renewed last.
    renewed_at: float


@dataclass(slots=True)
class Group:
    """One group's reading of one stream."""

    last_delivered: EntryId
    #: In the order of ids: entries join it as they are read, and a claim leaves them where they stand.
    pending: dict[EntryId, Pending] = field(default_factory=dict)
    #: Consumer -> when it last asked for something.
    consumers: dict[str, float] = field(default_factory=dict)

    def give(self, entry_id: EntryId, owner: str, now: float) -> None:
        """Change the owner; the delivery count stays (XCLAIM ... JUSTID)."""
        pending = self.pending[entry_id]
        pending.owner, pending.renewed_at = owner, now

    def claim(self, entry_id: EntryId, owner: str, now: float) -> int:
        """Change the owner and count a delivery (XCLAIM); returns the new count."""
        self.give(entry_id, owner, now)
        self.consumers[owner] = now
        self.pending[entry_id].deliveries += 1
        return self.pending[entry_id].deliveries

    def held_by(self, owner: str) -> list[EntryId]:
        """What a consumer holds, in the order of ids."""
        return [entry_id for entry_id, pending in self.pending.items() if pending.owner == owner]

    def has_finished(self, entry_id: EntryId) -> bool:
        """Delivered once and acked since: this group needs the entry no more."""
        return entry_id <= self.last_delivered and entry_id not in self.pending

    @property
    def floor(self) -> EntryId:
        """The id before everything that the group has not finished."""
        lowest = next(iter(self.pending), None)
        return self.last_delivered if lowest is None else id_before(lowest)


class Log:
    """The entries of one stream and its groups."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        #: Of the newest entry ever added, also when it is deleted.
        self.last_id = ZERO
        self._entries: dict[EntryId, Entry] = {}
        #: The keys of `_entries`, ascending.
        self._ids: list[EntryId] = []

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> Sequence[EntryId]:
        """All ids, ascending."""
        return self._ids

    def add(self, fields: Sequence[bytes], event_id: str, now: float) -> EntryId:
        """Append an entry (XADD *). Ids grow even when the clock goes back."""
        entry_id = max(id_at(now), (self.last_id[0], self.last_id[1] + 1))
        self._entries[entry_id] = Entry(entry_id, tuple(fields), event_id)
        self._ids.append(entry_id)
        self.last_id = entry_id
        return entry_id

    def get(self, entry_id: EntryId) -> Entry | None:
        """One entry, if it is (still) there."""
        return self._entries.get(entry_id)

    def after(self, entry_id: EntryId, count: int | None = None) -> list[Entry]:
        """Entries above an id, ascending."""
        start = bisect_right(self._ids, entry_id)
        stop = len(self._ids) if count is None else start + count
        return [self._entries[found] for found in self._ids[start:stop]]

    def count_below(self, entry_id: EntryId) -> int:
        """How many entries have a lower id."""
        return bisect_left(self._ids, entry_id)

    def find_event(self, event_id: str) -> EntryId | None:
        """The newest entry that was published under this event id; copies for one group do not count."""
        for entry_id in reversed(self._ids):
            entry = self._entries[entry_id]
            if entry.event_id == event_id and not entry.is_copy:
                return entry_id
        return None

    def delete(self, entry_ids: Collection[EntryId]) -> int:
        """Remove entries (XDEL); pending lists keep their ids. Returns how many were there."""
        removed = sum(self._entries.pop(entry_id, None) is not None for entry_id in entry_ids)
        if removed:
            self._ids = [entry_id for entry_id in self._ids if entry_id in self._entries]
        return removed

    def read(self, group_name: str, owner: str, count: int, now: float) -> list[Entry]:
        """Hand new entries to a consumer (XREADGROUP ... >). Raises KeyError where the group is missing."""
        group = self.groups[group_name]
        group.consumers[owner] = now
        entries = self.after(group.last_delivered, count)
        for entry in entries:
            group.pending[entry.id] = Pending(owner, 1, now)
            group.last_delivered = entry.id
        return entries
