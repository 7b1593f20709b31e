"""What is kept in Redis beside the flow: events and rules that are not due yet, history within bounds, dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from streamtask.transport.redis import commands, keys
from streamtask.transport.redis.client import Caller, Script
from streamtask.transport.redis.line import Argument, ServerError
from streamtask.transport.values import DeadLetter, KnownRule, RuleText, Slot, Standing

#: Events that one call moves from the schedule into a stream.
_PROMOTED = 500
#: MessagePack: the first byte of a text that has its length in it, and the length of the headers of other texts.
_SHORT = range(0xA0, 0xC0)
_HEADERS = {0xC4: 2, 0xC5: 3, 0xC6: 5, 0xD9: 2, 0xDA: 3, 0xDB: 5}
#: Entries that one call of the trim script may read: about a millisecond of the server's time.
_TRIMMED = 1000
#: The end of the year 9999, in ms: a foreign entry's id may say more.
_LAST_MOMENT = 253_402_300_799_000


class RedisSchedule:
    """`Schedule` on Redis: a ZSET of due times, a HASH of events and one of rules beside each stream."""

    def __init__(self, wire: Caller, publisher: Caller) -> None:
        """`publisher` is what events are published through: what cancels one is to be as durable."""
        self._wire = wire
        self._publisher = publisher
        self._promote = Script("promote")
        self._unschedule = Script("unschedule")
        self._reschedule = Script("reschedule")
        self._stand = Script("stand")
        self._tick = Script("tick")

    async def promote(self, streams: Sequence[str]) -> float | None:
        """See `Schedule.promote`."""
        calls = [
            (
                self._promote,
                [keys.stream(name), keys.delayed(name), keys.delayed_bodies(name), keys.debounced(name)],
                [_PROMOTED],
            )
            for name in streams
        ]
        waits = [reply / 1000 for reply in await self._all(calls) if reply >= 0]
        return min(waits, default=None)

    async def _all(self, calls: Sequence[tuple[Script, Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """What each script says. Raises what one of them was refused with, once all have run."""
        replies = await self._wire.run_many(calls)
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply
        return replies

    async def scheduled(self, stream: str, *, limit: int) -> list[Mapping[str, object]]:
        """See `Schedule.scheduled`."""
        now, due = await self._wire.every([["TIME"], ["ZRANGE", keys.delayed(stream), 0, limit - 1, "WITHSCORES"]])
        ids = due[::2]
        if not ids:
            return []
        bodies = await self._wire.call("HMGET", keys.delayed_bodies(stream), *ids)
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        return [
            {
                "event_id": event_id.decode(),
                "event_type": _event_type(fields),
                "due_in_ms": max(0, round(float(score)) - now_ms),
                "fields": fields,
            }
            for event_id, score, fields in zip(ids, due[1::2], map(_unpacked, bodies), strict=True)
        ]

    async def cancel(self, stream: str, event_id: str) -> bool:
        """See `Schedule.cancel`."""
        names = [keys.delayed(stream), keys.delayed_bodies(stream), keys.debounced(stream)]
        return bool(await self._publisher.run(self._unschedule, names, [event_id]))

    async def reschedule(
        self, stream: str, event_id: str, *, delay: float | None = None, at: datetime | None = None
    ) -> bool:
        """See `Schedule.reschedule`."""
        names = [keys.delayed(stream), keys.delayed_bodies(stream)]
        return bool(await self._publisher.run(self._reschedule, names, [event_id, commands.due(delay, at)]))

    # ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def stand(self, rules: Sequence[RuleText], *, new: bool) -> list[Standing]:
        """See `Schedule.stand`."""
        said: list[list[Argument]] = [[each.rule, each.text, int(new)] for each in rules]
        calls = [(self._stand, [keys.cron(each.stream)], words) for each, words in zip(rules, said, strict=True)]
        return [Standing(*reply) for reply in await self._all(calls)]

    async def tick(self, slots: Sequence[Slot]) -> list[bool]:
        """See `Schedule.tick`."""
        return [reply == 1 for reply in await self._all([self._tick_call(slot) for slot in slots])]

    def _tick_call(self, slot: Slot) -> tuple[Script, list[str], list[Argument]]:
        entry = [] if slot.item is None else commands.entry(slot.item)
        names = [keys.stream(slot.stream), keys.cron(slot.stream)]
        return self._tick, names, [slot.rule, slot.at_ms, slot.known_ms, *entry]

    async def rules(self, stream: str) -> list[KnownRule]:
        """See `Schedule.rules`."""
        now, flat = await self._wire.every([["TIME"], ["HGETALL", keys.cron(stream)]])
        found = commands.mapping(flat)
        return [
            KnownRule(
                rule=name,
                text=keys.text(text),
                now_ms=int(now[0]) * 1000 + int(now[1]) // 1000,
                last_ms=int(found.get(name, 0)),
                begun_ms=int(found.get(f"{name}\tbegun", 0)),
                seen_ms=int(found.get(f"{name}\tseen", 0)),
            )
            for field, text in sorted(found.items())
            for name, tab, what in [field.rpartition("\t")]
            if tab and what == "text"
        ]


def _unpacked(packed: bytes | None) -> list[bytes]:
    """The fields and values of a packed entry; none where it has just been appended, or is no packed entry."""
    try:
        return [_text(bytes(each)) for each in msgspec.msgpack.decode(packed or b"\x90", type=list[msgspec.Raw])]
    except msgspec.DecodeError:
        return []


def _text(packed: bytes) -> bytes:
    """One packed text, without its header. Lua packs any bytes as text, which a decoder of text would not take."""
    return packed[1 if packed[0] in _SHORT else _HEADERS.get(packed[0], len(packed)) :]


def _event_type(fields: Sequence[bytes]) -> str:
    """The event type in an entry; empty where it is encoded or gone."""
    try:
        envelope = msgspec.json.decode(fields[fields.index(b"envelope") + 1])
        return str(envelope["event_type"])
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, KeyError, TypeError, IndexError):
        return ""


class RedisRetention:
    """`Retention` on Redis."""

    def __init__(self, wire: Caller) -> None:
        self._wire = wire
        self._trim = Script("trim")
        self._delete_consumer = Script("delete_consumer")

    async def trim(self, stream: str, *, max_age: float, max_entries: int) -> int:
        """See `Retention.trim`. Works through what is too much in bites, so that no call blocks the server for long."""
        removed = 0
        for _ in range(100):
            bite, more = await self._wire.run(
                self._trim,
                [keys.stream(stream), keys.floors(stream)],
                [round(max_age * 1000), max_entries, _TRIMMED],
            )
            removed += bite
            if not more:
                break
        return removed

    async def sweep_consumers(self, stream: str, group: str, *, idle: float) -> int:
        """See `Retention.sweep_consumers`."""
        key = keys.stream(stream)
        reply = await self._wire.call("XINFO", "CONSUMERS", key, group)
        found = [commands.mapping(flat) for flat in reply]
        names = [
            keys.text(info["name"])
            for info in found
            if info["pending"] == 0 and info["idle"] > idle * 1000 and keys.text(info["name"]) not in keys.RESERVED
        ]
        if not names:
            return 0
        beats = await self._wire.every([["EXISTS", keys.beat(name)] for name in names])
        dead = [name for name, alive in zip(names, beats, strict=True) if not alive]
        replies = await self._wire.run_many([(self._delete_consumer, [key], [group, name]) for name in dead])
        return sum(1 for reply in replies if reply == 1)


class RedisDeadLetters:
    """`DeadLetters` on Redis: one stream of them beside each stream."""

    def __init__(self, wire: Caller) -> None:
        self._wire = wire
        self._replay = Script("replay_dead")
        self._purge = Script("purge_dead")

    async def count(self, stream: str) -> int:
        """How many there are, of all groups."""
        return int(await self._wire.call("XLEN", keys.dead(stream)))

    async def page(self, stream: str, *, after: str, limit: int) -> list[DeadLetter]:
        """See `DeadLetters.page`."""
        reply = await self._wire.call("XRANGE", keys.dead(stream), f"({after}" if after else "-", "+", "COUNT", limit)
        return [_letter(stream, dead_id.decode(), words) for dead_id, words in reply]

    async def last(self, stream: str) -> str:
        """See `DeadLetters.last`."""
        reply = await self._wire.call("XREVRANGE", keys.dead(stream), "+", "-", "COUNT", 1)
        return str(reply[0][0].decode()) if reply else ""

    async def get(self, stream: str, dead_id: str) -> DeadLetter | None:
        """One dead letter, or None."""
        reply = await self._wire.call("XRANGE", keys.dead(stream), dead_id, dead_id)
        return _letter(stream, dead_id, reply[0][1]) if reply else None

    async def replay(self, stream: str, dead_id: str) -> str | None:
        """See `DeadLetters.replay`."""
        names = [keys.dead(stream), keys.stream(stream), keys.dead_counts(stream)]
        entry_id = await self._wire.run(self._replay, names, [dead_id])
        return None if entry_id is None else entry_id.decode()

    async def purge(self, stream: str, dead_ids: Sequence[str]) -> int:
        """Remove dead letters for good; returns how many were there."""
        removed = 0
        for start in range(0, len(dead_ids), 500):
            removed += await self._wire.run(
                self._purge, [keys.dead(stream), keys.dead_counts(stream)], list(dead_ids[start : start + 500])
            )
        return removed


def _letter(stream: str, dead_id: str, words: Sequence[bytes]) -> DeadLetter:
    evidence: dict[str, Any] = {}
    fields: list[bytes] = []
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name.startswith(b"field:"):
            fields += [name[6:], value]
        elif name == b"fields":
            # More than a script can write one by one.
            fields = msgspec.msgpack.decode(value)
        else:
            evidence[keys.text(name)] = value.decode("utf-8", "replace")
    # Whoever else writes into this stream leaves out what they like; that is shown, too.
    told = evidence.get
    entry_id = told("entry_id", "")
    return DeadLetter(
        dead_id=dead_id,
        stream=stream,
        group=told("group", ""),
        entry_id=entry_id,
        event_id=told("event_id", ""),
        event_type=told("event_type", ""),
        reason=told("reason", "unknown"),
        error=told("error", ""),
        traceback=told("traceback", ""),
        attempts=_number(told("attempts", "")),
        deliveries=_number(told("deliveries", "")),
        worker=told("worker", ""),
        first_seen=_moment(_number((entry_id or dead_id).partition("-")[0])),
        dead_at=_moment(_number(told("dead_at", dead_id.partition("-")[0]))),
        fields=fields,
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and text.isascii() else 0


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(min(ms, _LAST_MOMENT) / 1000, UTC)
