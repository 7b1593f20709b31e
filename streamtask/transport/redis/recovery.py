"""Who lives, and what the dead left behind: beats, claims of what is due, hand-backs.

Never touches a live owner's work on its own: it reports and parks, the reclaimer decides when.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from typing import Any

from streamtask.transport.redis import commands, keys
from streamtask.transport.redis.capabilities import parse_info
from streamtask.transport.redis.client import Caller, Script
from streamtask.transport.redis.line import Argument
from streamtask.transport.redis.serverclock import ServerClock
from streamtask.transport.values import Claimed, Delivery, Subscription

log = logging.getLogger(__name__)

#: Seconds after which the living have beaten again since the server's clock was set; as after an outage.
_ALL_HAVE_BEATEN = 10.0


class RedisRecovery:
    """`Recovery` on Redis."""

    def __init__(self, wire: Caller) -> None:
        self._wire = wire
        self._beat = Script("beat")
        self._claim = Script("claim", gated=True)
        self._hand_back = Script("hand_back")
        self._delete_consumer = Script("delete_consumer")
        self._mend = Script("mend")
        self._mend_gates = Script("mend_gates", gated=True)
        self._run_id = ""
        self._run_id_of = -1
        #: The clock that beats go by, and by stream that of its entries: on a cluster it may be another node's.
        self._clock = ServerClock()
        self._clocks: dict[str, ServerClock] = {}

    async def beat(self, owner: str, info: bytes, *, ttl: float) -> str:
        """See `Recovery.beat`."""
        asked_at = time.monotonic()
        now_ms = await self._wire.run(self._beat, [keys.beat(owner), keys.WORKERS], [owner, round(ttl * 1000), info])
        moved = self._clock.saw(now_ms / 1000, asked_at=asked_at, now=time.monotonic())
        if moved:
            log.warning("server.clock_set", extra={"owner": owner, "seconds": round(moved, 1)})
        if self._run_id_of != self._wire.generation:
            # A restart breaks the connection: the run id can only change with it.
            generation = self._wire.generation
            # Asked together with the beat: of the nodes of a cluster, the one that keeps it is to answer.
            _, info = await self._wire.every([["EXISTS", keys.beat(owner)], ["INFO", "server"]])
            self._run_id = parse_info(info)["run_id"]
            self._run_id_of = generation
        return f"{self._run_id}+{self._clock.times_set}" if self._clock.times_set else self._run_id

    async def retire(self, owner: str, subscriptions: Sequence[Subscription]) -> None:
        """See `Recovery.retire`."""
        await self._wire.every([["DEL", keys.beat(owner)], ["ZREM", keys.WORKERS, owner]])
        await self._wire.run_many(
            [(self._delete_consumer, [keys.stream(sub.stream)], [sub.group, owner]) for sub in subscriptions]
        )

    async def claim(self, subscription: Subscription, owner: str, *, count: int) -> Claimed:
        """See `Recovery.claim`."""
        stream, group = subscription.stream, subscription.group
        names = [
            keys.stream(stream),
            keys.retry(stream, group),
            keys.history(stream, group),
            keys.waits(stream, group),
        ]
        handled = [keys.pair(*pair) for pair in subscription.handles]
        args: list[Argument] = [group, owner, count, keys.wait_prefix(stream, group), len(handled), *handled]
        taken, expired, gone, due = await self._wire.run(
            self._claim, names, [*args, *commands.gates(subscription.gates)]
        )
        return Claimed(
            deliveries=[_delivery(stream, group, owner, found) for found in taken],
            expired=[_delivery(stream, group, owner, found) for found in expired],
            gone=[entry_id.decode() for entry_id in gone],
            next_due=None if due < 0 else due / 1000,
        )

    async def lost_owners(self, stream: str, group: str, *, lease: float) -> dict[str, str]:
        """See `Recovery.lost_owners`."""
        key = keys.stream(stream)
        clock = self._clocks.setdefault(stream, ServerClock())
        [summary], _ = await self._and_time([["XPENDING", key, group]], clock)
        owners = [keys.text(name) for name, _ in summary[3] or () if keys.text(name) not in keys.RESERVED]
        if not owners:
            return {}
        living = await self._living(owners)
        ages: list[list[Argument]] = [
            ["XPENDING", key, group, "IDLE", round(lease * 1000), "-", "+", 1, owner] for owner in owners
        ]
        stale, _ = await self._and_time(ages, clock)
        # A clock that goes an hour ahead makes every beat run out and every entry old, in one moment.
        believed = time.monotonic() - max(self._clock.set_at, clock.set_at)
        lost: dict[str, str] = {}
        for owner, is_stale in zip(owners, stale, strict=True):
            if owner not in living:
                if believed >= _ALL_HAVE_BEATEN:
                    lost[owner] = "dead"
            elif is_stale and believed >= max(_ALL_HAVE_BEATEN, lease):
                lost[owner] = "stale"
        return lost

    async def _living(self, owners: Sequence[str]) -> set[str]:
        """Those of the owners that have a beat, not one from after now, which lasts as long as a clock was set back."""
        beats: list[list[Argument]] = [["EXISTS", keys.beat(owner)] for owner in owners]
        beaten: list[list[Argument]] = [["ZSCORE", keys.WORKERS, owner] for owner in owners]
        replies, now = await self._and_time([*beats, *beaten], self._clock)
        found = zip(owners, replies[: len(owners)], replies[len(owners) :], strict=True)
        latest = (now + _ALL_HAVE_BEATEN) * 1000
        return {owner for owner, beats, beaten_at in found if beats and float(beaten_at or 0) < latest}

    async def _and_time(self, commands: Sequence[Sequence[Argument]], clock: ServerClock) -> tuple[list[Any], float]:
        """The replies, and the time in seconds of the server that has the first key, of which its clock is told.

        It is asked for last: whatever was found after the clock was set is known to have been.
        """
        asked_at = time.monotonic()
        *replies, told = await self._wire.every([*commands, ["TIME"]])
        seconds = int(told[0]) + int(told[1]) / 1e6
        clock.saw(seconds, asked_at=asked_at, now=time.monotonic())
        return replies, seconds

    async def hand_back(
        self,
        stream: str,
        group: str,
        owner: str,
        *,
        started: Collection[str] | None = None,
        keep: Collection[str] = (),
        idle: float = 0.0,
    ) -> int:
        """See `Recovery.hand_back`."""
        names = [keys.stream(stream), keys.retry(stream, group), keys.history(stream, group)]
        total, first = 0, "-"
        while True:
            args: list[Argument] = [group, owner, first, round(idle * 1000), int(started is None)]
            parked, last = await self._wire.run(self._hand_back, names, [*args, len(keep), *keep, *(started or ())])
            total += int(parked)
            if not last:
                return total
            first = f"({last.decode()}"

    async def mend(self, stream: str, group: str) -> int:
        """See `Recovery.mend`."""
        names = [keys.stream(stream), keys.retry(stream, group), keys.waits(stream, group)]
        total = 0
        for owner in (keys.PARKED, keys.WAITING):
            first = "-"
            while first:
                args = [group, keys.wait_prefix(stream, group), owner, first]
                mended, last = await self._wire.run(self._mend, names, args)
                total += mended
                first = f"({last.decode()}" if last else ""
        names = [keys.stream(stream), keys.retry(stream, group), keys.history(stream, group)]
        # What is through first: where it is gone, there is room for who queues.
        for what in ("through", "queued", "pending"):
            first = "-"
            while first:
                mended, on = await self._wire.run(self._mend_gates, names, [group, what, first])
                total += mended
                first = on.decode()
        return total


def _delivery(stream: str, group: str, owner: str, found: Sequence[Any]) -> Delivery:
    entry_id, fields, deliveries, failures, uncharged, gated = found
    return Delivery(
        stream,
        group,
        entry_id.decode(),
        owner,
        fields,
        deliveries=deliveries,
        failures=failures,
        uncharged=uncharged,
        kept=bool(gated),
    )
