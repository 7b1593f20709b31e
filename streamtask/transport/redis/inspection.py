"""Read-only questions about streams, groups, consumers and workers.

Only `drop_group` and `replay_history` change anything, and only because an operator asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from streamtask.transport.redis import commands, keys
from streamtask.transport.redis.capabilities import parse_info
from streamtask.transport.redis.checkpoints import progress_field, progress_of
from streamtask.transport.redis.client import Caller, Script
from streamtask.transport.redis.line import Argument, ServerError
from streamtask.transport.values import ConsumerInfo, Delivery, PendingEntry, StreamInfo

_COPIED = 500
#: Settings that are secrets: told is whether there is one.
_PASSWORDS = ("requirepass", "masterauth", "primaryauth", "tls-key-file-pass", "tls-client-key-file-pass")


class RedisInspection:
    """`Inspection` on Redis."""

    def __init__(self, wire: Caller) -> None:
        self._wire = wire
        self._register = Script("register")

    async def streams(self) -> list[str]:
        """See `Inspection.streams`."""
        return sorted(keys.text(name) for name in await self._wire.call("SMEMBERS", keys.STREAMS))

    async def stream(self, stream: str) -> StreamInfo:
        """See `Inspection.stream`."""
        key = keys.stream(stream)
        dead, scheduled, outbox = await self._wire.every(
            [["XLEN", keys.dead(stream)], ["ZCARD", keys.delayed(stream)], ["XLEN", keys.outbox(stream)]]
        )
        info, size = await self._wire.many([["XINFO", "STREAM", key], ["MEMORY", "USAGE", key]])
        found = commands.mapping(commands.unless_missing(info))
        first = found.get("first-entry")
        return StreamInfo(
            stream=stream,
            length=found.get("length", 0),
            groups=found.get("groups", 0),
            dead=dead,
            scheduled=scheduled,
            outbox=outbox,
            first_id=first[0].decode() if first else "",
            last_id=found.get("last-generated-id", b"0-0").decode(),
            bytes=None if isinstance(size, ServerError) else size,
        )

    async def pending(self, stream: str, group: str, *, limit: int, after: str = "") -> list[PendingEntry]:
        """See `Inspection.pending`."""
        page = await self._wire.call("XPENDING", keys.stream(stream), group, f"({after}" if after else "-", "+", limit)
        if not page:
            return []
        ids = [entry_id for entry_id, *_ in page]
        owners = sorted({keys.text(owner) for _, owner, *_ in page} - keys.RESERVED)
        now, due, said, *beats = await self._wire.every(
            [
                ["TIME"],
                ["ZMSCORE", keys.retry(stream, group), *ids],
                ["HMGET", keys.history(stream, group), *map(progress_field, ids)],
            ]
            + [["EXISTS", keys.beat(owner)] for owner in owners]
        )
        alive = dict(zip(owners, beats, strict=True))
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        found = []
        for (entry_id, owner, idle, deliveries), score, progress in zip(page, due, said, strict=True):
            name = keys.text(owner)
            parked = name == keys.PARKED
            due_ms = max(0, round(float(score)) - now_ms) if score is not None else 0
            found.append(
                PendingEntry(
                    stream=stream,
                    group=group,
                    entry_id=entry_id.decode(),
                    consumer=name,
                    idle_ms=idle,
                    deliveries=deliveries,
                    due_in_ms=due_ms if parked else None,
                    alive=name in keys.RESERVED or bool(alive[name]),
                    progress=progress_of(progress),
                )
            )
        return found

    async def consumers(self, stream: str, group: str) -> list[ConsumerInfo]:
        """See `Inspection.consumers`."""
        reply = await self._wire.call("XINFO", "CONSUMERS", keys.stream(stream), group)
        found = [commands.mapping(flat) for flat in reply]
        found = [info for info in found if keys.text(info["name"]) not in keys.RESERVED]
        beats = await self._wire.every([["EXISTS", keys.beat(keys.text(info["name"]))] for info in found])
        return [
            ConsumerInfo(
                stream=stream,
                group=group,
                consumer=keys.text(info["name"]),
                pending=info["pending"],
                idle_ms=info["idle"],
                alive=bool(alive),
            )
            for info, alive in zip(found, beats, strict=True)
        ]

    async def workers(self) -> list[Mapping[str, object]]:
        """See `Inspection.workers`."""
        now, listed = await self._wire.every([["TIME"], ["ZRANGE", keys.WORKERS, 0, -1, "WITHSCORES"]])
        owners = [keys.text(owner) for owner in listed[::2]]
        if not owners:
            return []
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        infos = await self._wire.call("MGET", *map(keys.beat, owners))
        return [
            {"worker": owner, **_said(info), "last_beat_ms": max(0, now_ms - round(float(last)))}
            for owner, last, info in zip(owners, listed[1::2], infos, strict=True)
            if info is not None
        ]

    async def groups(self, stream: str) -> list[Mapping[str, object]]:
        """See `Inspection.groups`."""
        seen, now = await self._wire.every([["HGETALL", keys.seen(stream)], ["TIME"]])
        [reply] = await self._wire.many([["XINFO", "GROUPS", keys.stream(stream)]])
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        last = {name: int(moment) for name, moment in commands.mapping(seen).items()}
        found: list[Mapping[str, object]] = []
        for flat in commands.unless_missing(reply):
            name = keys.text(flat[flat.index(b"name") + 1])
            types, skipped = await self._wire.every(
                [["SMEMBERS", keys.types(stream, name)], ["HGETALL", keys.skipped(stream, name)]]
            )
            found.append(
                {
                    "stream": stream,
                    "group": name,
                    "interest": sorted(":".join(keys.unpair(keys.text(member))) for member in types),
                    "skipped": _skipped(skipped),
                    "last_seen_ms": now_ms - last[name] if name in last else None,
                }
            )
        return found

    async def drop_group(self, stream: str, group: str) -> bool:
        """See `Inspection.drop_group`. Its dead letters are kept."""
        waits = [keys.unpair(keys.text(pair)) for pair in await self._wire.call("SMEMBERS", keys.waits(stream, group))]
        dropped, *others = await self._wire.many(
            [
                ["XGROUP", "DESTROY", keys.stream(stream), group],
                ["DEL", keys.retry(stream, group), keys.history(stream, group), keys.waits(stream, group),
                 keys.gates(stream, group), keys.queued(stream, group),
                 keys.types(stream, group), keys.skipped(stream, group),
                 *(keys.wait(stream, group, *pair) for pair in waits)],
                ["HDEL", keys.floors(stream), group],
                ["HDEL", keys.seen(stream), group],
            ]
        )  # fmt: skip
        for reply in others:
            if isinstance(reply, ServerError):
                raise reply
        return bool(commands.unless_missing(dropped) == 1)

    async def entry(self, stream: str, entry_id: str) -> Sequence[bytes] | None:
        """See `Inspection.entry`."""
        reply = await self._wire.call("XRANGE", keys.stream(stream), entry_id, entry_id)
        return reply[0][1] if reply else None

    async def entries(self, stream: str, entry_ids: Sequence[str]) -> list[Sequence[bytes] | None]:
        """See `Inspection.entries`."""
        key = keys.stream(stream)
        replies = await self._wire.every([["XRANGE", key, entry_id, entry_id] for entry_id in entry_ids])
        return [reply[0][1] if reply else None for reply in replies]

    async def newest(self, stream: str, *, before: str, limit: int) -> list[Delivery]:
        """See `Inspection.newest`."""
        high = f"({before}" if before else "+"
        reply = await self._wire.call("XREVRANGE", keys.stream(stream), high, "-", "COUNT", limit)
        return [Delivery(stream, "", entry_id.decode(), "", fields) for entry_id, fields in reply]

    async def state(self, stream: str, group: str, entry_id: str) -> Mapping[str, object]:
        """See `Inspection.state`."""
        pending = await self._wire.call("XPENDING", keys.stream(stream), group, entry_id, entry_id, 1)
        if not pending:
            reply = await self._wire.call("XINFO", "GROUPS", keys.stream(stream))
            for flat in reply:
                info = commands.mapping(flat)
                if keys.text(info["name"]) == group:
                    passed = _order(entry_id) <= _order(info["last-delivered-id"].decode())
                    return {"state": "done" if passed else "unread"}
            return {"state": "unknown"}
        _, owner, _, deliveries = pending[0]
        name = keys.text(owner)
        failures, error, progress, score, now, beats = await self._wire.every(
            [
                ["HGET", keys.history(stream, group), f"{entry_id}:f"],
                ["HGET", keys.history(stream, group), f"{entry_id}:e"],
                ["HGET", keys.history(stream, group), progress_field(entry_id.encode())],
                ["ZSCORE", keys.retry(stream, group), entry_id],
                ["TIME"],
                ["EXISTS", keys.beat(name)],
            ]
        )
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        states = {keys.PARKED: "retrying", keys.WAITING: "waiting", keys.QUEUED: "waiting"}
        return {
            "state": states.get(name, "running" if beats else "abandoned"),
            "consumer": name,
            "deliveries": deliveries,
            "failures": int(failures or 0),
            "error": (error or b"").decode("utf-8", "replace"),
            "due_in_ms": max(0, round(float(score)) - now_ms) if score is not None else None,
            "progress": progress_of(progress),
        }

    async def replay_history(self, stream: str, group: str, *, since: str | datetime, generation: str) -> int:
        """See `Inspection.replay_history`."""
        key = keys.stream(stream)
        start = _before(since) if isinstance(since, str) else commands.before_moment(since)
        reply = await self._wire.call("XINFO", "GROUPS", key)
        known = {keys.text(flat[flat.index(b"name") + 1]) for flat in reply}
        if group not in known:
            await self._wire.run(
                self._register, keys.registration(stream, group), [group, start, keys.wait_prefix(stream, group)]
            )
            return await self._originals(stream, start, copy=None)
        return await self._originals(stream, start, copy=[b"only", group, b"replay", generation])

    async def _originals(self, stream: str, start: str, *, copy: list[Argument] | None) -> int:
        """Go through the originals behind `start` up to now; append a copy of each with the extra fields, if given."""
        key, count = keys.stream(stream), 0
        last = (await self.stream(stream)).last_id
        if copy is not None:
            # What the group has not read yet it will see anyway.
            reply = await self._wire.call("XINFO", "GROUPS", key)
            infos = [commands.mapping(flat) for flat in reply]
            last = next(i["last-delivered-id"].decode() for i in infos if keys.text(i["name"]) == copy[1])
        low = f"({start}"
        while True:
            page = await self._wire.call("XRANGE", key, low, last, "COUNT", _COPIED)
            held = await self._held(key, copy, page)
            originals = [words for entry_id, words in page if b"only" not in words[::2] and entry_id not in held]
            count += len(originals)
            if copy is not None:
                await self._wire.every([["XADD", key, "*", *copy, *words] for words in originals])
            if len(page) < _COPIED:
                return count
            low = f"({page[-1][0].decode()}"

    async def _held(self, key: str, copy: list[Argument] | None, page: Sequence[Any]) -> set[bytes]:
        """The ids of a page that the group of the copies has still pending."""
        if copy is None or not page:
            return set()
        reply = await self._wire.call("XPENDING", key, copy[1], page[0][0], page[-1][0], len(page))
        return {found[0] for found in reply}

    async def settings(self) -> Mapping[str, str]:
        """See `Inspection.settings`: INFO, and CONFIG where the server lets us ask."""
        info, config, default = await self._wire.many([["INFO"], ["CONFIG", "GET", "*"], ["ACL", "GETUSER", "default"]])
        found = parse_info(info)
        if not isinstance(config, ServerError):
            found |= {name: value.decode("utf-8", "replace") for name, value in commands.mapping(config).items()}
            found |= {name: "set" for name in _PASSWORDS if found.get(name)}
        if not isinstance(default, ServerError) and default:
            flags = commands.mapping(default)["flags"]
            found["default-user"] = "nopass" if {b"on", b"nopass"} <= set(flags) else "closed"
        return found


def _said(info: bytes) -> dict[str, object]:
    """What an owner says of itself; nothing where that is no JSON object."""
    try:
        return msgspec.json.decode(info, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _skipped(flat: Sequence[bytes]) -> dict[str, dict[str, object]]:
    values = {name: value.decode() for name, value in commands.mapping(flat).items()}
    return {
        type_: {"first_id": first, "count": int(values.get(f"{type_}\tn", "0"))}
        for type_, first in values.items()
        if not type_.endswith("\tn")
    }


def _before(entry_id: str) -> str:
    """The id before an id, so that reading after it gives the id itself."""
    ms, sequence = _order(entry_id)
    if sequence:
        return f"{ms}-{sequence - 1}"
    return f"{ms - 1}-18446744073709551615" if ms else "0-0"


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)
