"""Questions about what is in memory, and two commands of operators: drop a group, replay history."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from streamtask.transport.memory.log import ZERO, EntryId, Group, Pending, id_at, id_before, id_text, parse_id
from streamtask.transport.memory.settlement import copy_for
from streamtask.transport.memory.store import PARKED, RESERVED, Counts, Ledger, MemoryStore, StreamState
from streamtask.transport.values import ConsumerInfo, Delivery, PendingEntry, StreamInfo


class MemoryInspection:
    """See `port.Inspection`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def streams(self) -> list[str]:
        """Every stream that was named, sorted."""
        with self._store.lock:
            return sorted(self._store.streams)

    async def stream(self, stream: str) -> StreamInfo:
        """One stream in numbers."""
        with self._store.lock:
            state = self._store.find(stream)
            ids = state.log.ids
            return StreamInfo(
                stream=stream,
                length=len(ids),
                groups=len(state.log.groups),
                dead=len(state.dead),
                scheduled=len(state.delayed),
                first_id=id_text(ids[0]) if ids else "",
                last_id=id_text(ids[-1]) if ids else "",
                bytes=None,
            )

    async def pending(self, stream: str, group: str, *, limit: int, after: str = "") -> list[PendingEntry]:
        """What is delivered and not acked, in the order of ids."""
        with self._store.lock:
            position = parse_id(after) if after else ZERO
            found = self._store.group(stream, group).pending.items()
            page = [(entry_id, held) for entry_id, held in found if entry_id > position][:limit]
            ledger = self._store.find(stream).ledger(group)
            now = self._clock()
            nothing = Counts()
            return [
                PendingEntry(
                    stream=stream,
                    group=group,
                    entry_id=id_text(entry_id),
                    consumer=held.owner,
                    idle_ms=_milliseconds(now - held.renewed_at),
                    deliveries=held.deliveries,
                    due_in_ms=_due_in_ms(ledger, entry_id, held, now),
                    alive=held.owner in RESERVED or self._store.alive(held.owner, now),
                    progress=ledger.counts.get(entry_id, nothing).progress,
                )
                for entry_id, held in page
            ]

    async def consumers(self, stream: str, group: str) -> list[ConsumerInfo]:
        """The consumers of a group, without the reserved ones."""
        with self._store.lock:
            found = self._store.group(stream, group)
            now = self._clock()
            return [
                ConsumerInfo(
                    stream=stream,
                    group=group,
                    consumer=owner,
                    pending=len(found.held_by(owner)),
                    idle_ms=_milliseconds(now - seen_at),
                    alive=self._store.alive(owner, now),
                )
                for owner, seen_at in sorted(found.consumers.items())
                if owner not in RESERVED
            ]

    async def workers(self) -> list[Mapping[str, object]]:
        """What every living owner says about itself."""
        with self._store.lock:
            now = self._clock()
            return [
                {**json.loads(info), "worker": owner, "last_beat_ms": _milliseconds(now - beaten_at)}
                for owner, (info, beaten_at) in sorted(self._store.beats.items(now))
            ]

    async def groups(self, stream: str) -> list[Mapping[str, object]]:
        """The groups and what they are interested in."""
        with self._store.lock:
            state = self._store.find(stream)
            return [self._group(stream, name, state.ledger(name)) for name in sorted(state.log.groups)]

    def _group(self, stream: str, name: str, ledger: Ledger) -> Mapping[str, object]:
        skipped = {
            type_: {"first_id": id_text(seen.first_id), "count": seen.count} for type_, seen in ledger.skipped.items()
        }
        return {
            "stream": stream,
            "group": name,
            "interest": sorted(f"{type_}:{version}" for type_, version in ledger.interest),
            "skipped": skipped,
            "last_seen_ms": None if ledger.seen_at is None else _milliseconds(self._clock() - ledger.seen_at),
        }

    async def drop_group(self, stream: str, group: str) -> bool:
        """Remove a group and all that stands beside it; its dead letters stay."""
        with self._store.lock:
            state = self._store.find(stream)
            state.ledgers.pop(group, None)
            dropped = state.log.groups.pop(group, None) is not None
            self._store.wake(stream)
            return dropped

    async def entry(self, stream: str, entry_id: str) -> Sequence[bytes] | None:
        """One entry's fields."""
        with self._store.lock:
            found = self._store.find(stream).log.get(parse_id(entry_id))
            return None if found is None else found.fields

    async def entries(self, stream: str, entry_ids: Sequence[str]) -> list[Sequence[bytes] | None]:
        """The fields of some entries."""
        return [await self.entry(stream, entry_id) for entry_id in entry_ids]

    async def newest(self, stream: str, *, before: str, limit: int) -> list[Delivery]:
        """Entries below an id, newest first."""
        with self._store.lock:
            log = self._store.find(stream).log
            stop = log.count_below(parse_id(before)) if before else len(log)
            page = [log.get(entry_id) for entry_id in reversed(log.ids[max(0, stop - limit) : stop])]
            return [Delivery(stream, "", id_text(entry.id), "", entry.fields) for entry in page if entry is not None]

    async def state(self, stream: str, group: str, entry_id: str) -> Mapping[str, object]:
        """Where a group stands with one entry."""
        with self._store.lock:
            state = self._store.find(stream)
            found = self._store.group(stream, group)
            key = parse_id(entry_id)
            held = found.pending.get(key)
            if held is None:
                return {"state": "done" if found.has_finished(key) else "unread"}
            return self._held_state(state.ledger(group), key, held)

    def _held_state(self, ledger: Ledger, entry_id: EntryId, held: Pending) -> Mapping[str, object]:
        now = self._clock()
        counts = ledger.counts.get(entry_id) or Counts()
        answer: dict[str, object] = {
            "state": "running" if self._store.alive(held.owner, now) else "abandoned",
            "consumer": held.owner,
            "deliveries": held.deliveries,
            "failures": counts.failures,
            "error": counts.error,
            "progress": counts.progress,
        }
        if held.owner in RESERVED:
            answer["state"] = "retrying" if held.owner == PARKED else "waiting"
            answer["due_in_ms"] = _due_in_ms(ledger, entry_id, held, now)
        return answer

    async def replay_history(self, stream: str, group: str, *, since: str | datetime, generation: str) -> int:
        """Hand history to a group again, from an id (itself included) or a moment on."""
        with self._store.lock:
            state = self._store.stream(stream)
            begin = id_at(since) if isinstance(since, datetime) else parse_id(since)
            history = [entry for entry in state.log.after(id_before(begin)) if not entry.is_copy]
            found = state.log.groups.get(group)
            if found is None:
                self._make_group(state, group, id_before(begin))
                return len(history)
            # What the group has not finished it will see anyway.
            again = [entry for entry in history if found.has_finished(entry.id)]
            for entry in again:
                copy = copy_for(group, entry.fields, generation)
                self._store.append_fields(stream, copy, entry.event_id, self._clock())
            return len(again)

    @staticmethod
    def _make_group(state: StreamState, group: str, position: EntryId) -> None:
        state.log.groups[group] = Group(position)
        state.ledger(group).checkpoint = position

    async def settings(self) -> Mapping[str, str]:
        """There is no server to be configured."""
        return {}


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _due_in_ms(ledger: Ledger, entry_id: EntryId, held: Pending, now: float) -> int | None:
    """For a parked entry: milliseconds until due; one that the index has lost is due when it is mended."""
    if held.owner != PARKED:
        return None
    return _milliseconds(ledger.parked.get(entry_id, now) - now)
