"""The Redis transport: the five batch verbs on streams and consumer groups, each one script or one pipeline.

It commits what the broker decided and decides nothing itself. What the dead left behind is `recovery.py`, dead
letters, schedule and retention are `keeping.py`, blobs and records `storage.py`, read-only questions `inspection.py`;
key names are in `keys.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any

from streamtask import failpoints
from streamtask.errors import TransportError
from streamtask.transport.port import (
    Cancellations,
    Checkpoints,
    DeadLetters,
    Gates,
    Inspection,
    Outbox,
    Rates,
    Recovery,
    Results,
    Retention,
    Schedule,
    Storage,
    Workflows,
)
from streamtask.transport.redis import commands, keys
from streamtask.transport.redis.addresses import dial_of
from streamtask.transport.redis.cancellations import RedisCancellations
from streamtask.transport.redis.capabilities import probe
from streamtask.transport.redis.checkpoints import RedisCheckpoints
from streamtask.transport.redis.client import Caller, Script, Wire
from streamtask.transport.redis.confirmed import Confirmed
from streamtask.transport.redis.disk import OnDisk, refuse_unfit
from streamtask.transport.redis.gates import RedisGates
from streamtask.transport.redis.inspection import RedisInspection
from streamtask.transport.redis.keeping import RedisDeadLetters, RedisRetention, RedisSchedule
from streamtask.transport.redis.line import Argument, ServerError
from streamtask.transport.redis.permissions import lacking
from streamtask.transport.redis.rates import RedisRates
from streamtask.transport.redis.recovery import RedisRecovery
from streamtask.transport.redis.replicas import AllReplicas, Fixed, OnReplicas
from streamtask.transport.redis.results import RedisResults
from streamtask.transport.redis.storage import RedisStorage
from streamtask.transport.redis.workflows import RedisWorkflows
from streamtask.transport.values import (
    Capabilities,
    Delivery,
    Durability,
    GroupStats,
    Outcome,
    Outgoing,
    Registered,
    Subscription,
    Together,
    TypeVersion,
    Verdict,
)

log = logging.getLogger(__name__)

#: Seconds that a reply to a blocking read may come late.
_BLOCK_MARGIN = 2.0
#: Counting a backlog by hand stops here; beyond it the lag is None.
_COUNTED = 10_000
#: What the register script answers where the group had been there before.
_VANISHED = 2
#: Stream, group, owner.
_Place = tuple[str, str, str]
_place: Callable[[Delivery], _Place] = attrgetter("stream", "group", "owner")
_VERDICTS = {
    b"ok": Verdict.SETTLED,
    b"lost": Verdict.LOST,
    b"duplicate": Verdict.DUPLICATE,
    b"torn": Verdict.TORN,
}


class RedisTransport:
    """streamtask on Redis 6.2 or newer, or Valkey. One instance belongs to one event loop."""

    def __init__(self, url: str, *, durability: Durability = "none") -> None:
        """`durability`: who has what was published when `publish` returns."""
        self._new_wire, new_publisher = self._wires(url)
        #: Settling, and everything short. Publishing has its own, so that neither waits for the other.
        self._wire = self._new_wire()
        self._publisher = _confirmed(new_publisher(), durability)
        #: Blobs, which are long: nothing else waits behind them.
        self._carrier = self._new_wire()
        self._keeper = _confirmed(new_publisher(), durability)
        #: Blocking reads: a connection for each that is under way, kept for the next.
        self._readers: list[Caller] = []
        self._idle_readers: list[Caller] = []
        self._known: set[str] = set()
        self._ack = Script("ack")
        self._emit = Script("emit")
        self._settle = Script("settle")
        self._settle_gated = Script("settle", gated=True)
        self._renew = Script("renew")
        self._register = Script("register")
        self._publish = Script("publish")
        self._lag = Script("lag")
        self.capabilities = Capabilities(engine="redis")
        self._durability = durability
        self.recovery: Recovery = RedisRecovery(self._wire)
        self._gates = RedisGates(self._wire, self._blocking)
        self.gates: Gates = self._gates
        self.checkpoints: Checkpoints = RedisCheckpoints(self._wire)
        self.results: Results = RedisResults(self._wire, self._blocking)
        self.cancellations: Cancellations = RedisCancellations(self._wire)
        self.rates: Rates = RedisRates(self._wire)
        self.workflows: Workflows = RedisWorkflows(self._wire, self._publisher)
        self.schedule: Schedule | None = RedisSchedule(self._wire, self._publisher)
        self.retention: Retention | None = RedisRetention(self._wire)
        self.dead_letters: DeadLetters | None = RedisDeadLetters(self._wire)
        self.inspection: Inspection | None = RedisInspection(self._wire)
        self.outbox: Outbox | None = None
        self.storage: Storage | None = RedisStorage(self._carrier, self._keeper)

    def _wires(self, url: str) -> tuple[Callable[[], Caller], Callable[[], Caller]]:
        """What makes connections, and those that publish."""
        dial = dial_of(url)
        return partial(Wire, dial), partial(Wire, dial)

    def together(self, streams: Sequence[str]) -> list[list[str]]:
        """See `Transport.together`."""
        return [list(streams)]

    async def connect(self) -> None:
        """Connect and find out what the server can do."""
        self.capabilities = await probe(self._wire, clustered=self.outbox is not None)
        if self._durability == "disk":
            await refuse_unfit(self._wire, self.capabilities)

    async def close(self) -> None:
        """Drop every connection."""
        for wire in (self._wire, self._publisher, self._carrier, self._keeper, *self._readers):
            await wire.close()
        # The sockets close in callbacks; let them run, so that nothing is left behind for the garbage collector.
        await asyncio.sleep(0)

    # ── groups ────────────────────────────────────────────────────────────────────────────────────────────────

    async def register(self, subscription: Subscription) -> Registered:
        """See `Transport.register`."""
        stream, group = subscription.stream, subscription.group
        pairs = [keys.pair(*handled) for handled in sorted(subscription.handles)]
        created, interest, skipped = await self._wire.run(
            self._register,
            keys.registration(stream, group),
            [group, commands.start_id(subscription.start), keys.wait_prefix(stream, group), *pairs],
        )
        # Anew each time: a server that came back empty has lost the note.
        self._known.discard(stream)
        await self._name_streams({stream})
        if created == _VANISHED:
            log.error("group.vanished", extra={"stream": stream, "group": group, "made_again_at": "its checkpoint"})
        return Registered(
            interest=frozenset(keys.unpair(keys.text(member)) for member in interest),
            skipped_before={name: first.decode() for name, first in commands.mapping(skipped).items()},
            created=created > 0,
        )

    async def interest(self, stream: str, group: str) -> frozenset[TypeVersion]:
        """See `Transport.interest`."""
        members = await self._wire.call("SMEMBERS", keys.types(stream, group))
        return frozenset(keys.unpair(keys.text(member)) for member in members)

    # ── publish ───────────────────────────────────────────────────────────────────────────────────────────────

    async def publish(self, items: Sequence[Outgoing]) -> list[str | Exception]:
        """See `Transport.publish`. One pipeline; a plain event is a plain XADD."""
        packed = [self._publish_command(item) for item in items]
        new = sorted({item.stream for item in items} - self._known)
        replies = await self._publisher.many([*packed, *([["SADD", keys.STREAMS, *new]] if new else [])])
        if new:
            self._named(new, replies.pop())
        for index, reply in enumerate(replies):
            if isinstance(reply, ServerError) and reply.code == "NOSCRIPT":
                try:
                    replies[index] = await self._publisher.run(self._publish, *self._publish_call(items[index]))
                except ServerError as error:
                    replies[index] = error
        return [commands.published(item, reply) for item, reply in zip(items, replies, strict=True)]

    def _publish_command(self, item: Outgoing) -> Sequence[Argument]:
        if item.delay is None and item.at is None and item.dedup_key is None and not item.again:
            return ["XADD", keys.stream(item.stream), "*", *commands.entry(item)]
        return self._publish.command(*self._publish_call(item))

    def _publish_call(self, item: Outgoing) -> tuple[list[str], list[Argument]]:
        window = round(item.dedup_window * 1000) if item.dedup_key is not None else 0
        names = [
            keys.stream(item.stream),
            keys.published(item.stream, item.dedup_key or ""),
            keys.delayed(item.stream),
            keys.delayed_bodies(item.stream),
        ]
        if item.debounce_key is not None:
            names.append(keys.debounced(item.stream))
        due, key = commands.due(item.delay, item.at), item.debounce_key or ""
        return names, [item.event_id, due, window, int(item.again), key, *commands.entry(item)]

    # ── fetch ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def fetch(self, group: str, owner: str, streams: Sequence[str], *, count: int, wait: float) -> list[Delivery]:
        """See `Transport.fetch`. One XREADGROUP for all streams of the group."""
        block: list[Argument] = ["BLOCK", max(1, round(wait * 1000))] if wait > 0 else []
        reply = await self._blocking(
            "XREADGROUP", "GROUP", group, owner, "COUNT", count, *block,
            "STREAMS", *(keys.stream(name) for name in streams), *(">" for _ in streams),
            wait=wait,
        )  # fmt: skip
        if not reply:
            return []
        return [
            Delivery(stream, group, entry_id.decode(), owner, fields)
            for key, entries in reply
            for stream in [keys.name_of(key)]
            for entry_id, fields in entries
            if fields is not None
        ]

    async def _blocking(self, *command: Argument, wait: float) -> Any:
        """A command that may block for so long, on a connection that nobody else waits on meanwhile."""
        if self._idle_readers:
            wire = self._idle_readers.pop()
        else:
            wire = self._new_wire()
            self._readers.append(wire)
        try:
            return await wire.call(*command, timeout=wait + _BLOCK_MARGIN)
        except asyncio.CancelledError:
            # The server would go on waiting for us, and hand over what comes.
            await wire.close()
            raise
        finally:
            self._idle_readers.append(wire)

    async def read(self, stream: str, *, after: str | datetime, count: int, wait: float) -> list[Delivery]:
        """See `Transport.read`."""
        position = after if isinstance(after, str) else f"{round(after.timestamp() * 1000) - 1}-18446744073709551615"
        while True:
            block: list[Argument] = ["BLOCK", max(1, round(wait * 1000))] if wait > 0 else []
            reply = await self._blocking(
                "XREAD", "COUNT", count, *block, "STREAMS", keys.stream(stream), position, wait=wait
            )
            if not reply:
                return []
            entries = reply[0][1]
            found = [Delivery(stream, "", entry_id.decode(), "", fields) for entry_id, fields in entries]
            # Copies for one group are no events of their own.
            originals = [delivery for delivery in found if delivery.only is None]
            if originals:
                return originals
            position = found[-1].entry_id

    # ── settle ────────────────────────────────────────────────────────────────────────────────────────────────

    async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> list[Verdict | TransportError]:
        """See `Transport.settle`. One script for each (stream, group, owner) among them."""
        verdicts: list[Verdict | TransportError] = [Verdict.SETTLED] * len(settlements)
        places = _places([delivery for delivery, _ in settlements])
        batches = [settlements if len(places) == 1 else [settlements[i] for i in each] for each in places.values()]
        targets = [self._targets(stream) for stream, _, _ in places]
        calls = [self._settle_call(batch, written) for batch, written in zip(batches, targets, strict=True)]
        if failpoints.armed:
            # The loop comes to it after it has sent the calls, and before it reads a reply.
            asyncio.get_running_loop().call_soon(failpoints.reached, "settle_sent")
        replies = await self._wire.run_many(calls)
        await self._name_streams({stream for written in targets for stream in written.streams})
        for (place, indexes), (script, _, _), reply in zip(places.items(), calls, replies, strict=True):
            if isinstance(reply, ServerError):
                # The group is gone, and with it all that was held.
                verdict = Verdict.LOST if reply.code == "NOGROUP" or "NOGROUP" in str(reply) else reply
                for index in indexes:
                    verdicts[index] = verdict
            elif script is self._ack or script is self._emit:
                # They tell of the others only.
                for nth, word in zip(reply[::2], reply[1::2], strict=True):
                    verdicts[indexes[nth]] = self._verdict(word, script)
            else:
                words = self._told(place[0], place[1], reply) if script is self._settle_gated else reply
                for index, word in zip(indexes, words, strict=True):
                    verdicts[index] = self._verdict(word, script)
        return verdicts

    def _told(self, stream: str, group: str, reply: Sequence[Any]) -> Sequence[bytes]:
        """The verdicts in a reply whose last word is for the gates."""
        *words, let_in = reply
        self._gates.settled(stream, group, let_in=bool(let_in))
        return words

    @staticmethod
    def _verdict(word: bytes, script: Script) -> Verdict | TransportError:
        if (verdict := _VERDICTS.get(word)) is not None:
            return verdict
        error = ServerError(word.decode("utf-8", "replace"))
        return ServerError(lacking(str(error), (), script.text)) if error.code == "NOPERM" else error

    async def _name_streams(self, streams: set[str]) -> None:
        """Note streams that are used, so that they can be inspected; a server that is full takes the note later."""
        new = sorted(streams - self._known)
        if new:
            [reply] = await self._wire.many([["SADD", keys.STREAMS, *new]])
            self._named(new, reply)

    def _named(self, new: Collection[str], reply: Any) -> None:
        if isinstance(reply, ServerError) and reply.code != "NOPERM":
            return
        # Once for each stream: an ACL that does not allow it will not allow the next one either.
        self._known.update(new)
        if isinstance(reply, ServerError):
            log.error("stream.not_listed", extra={"streams": list(new), "error": str(reply)})

    def _settle_call(
        self, batch: Sequence[tuple[Delivery, Outcome]], targets: commands.Targets
    ) -> tuple[Script, list[str], list[Argument]]:
        """The fastest of the three scripts that can commit it."""
        stream, group, owner = batch[0][0].stream, batch[0][0].group, batch[0][0].owner
        if (words := commands.acks(batch)) is not None:
            return self._ack, [keys.stream(stream)], [group, owner, *words]
        if (words := commands.plain_emits(batch, targets)) is not None:
            names = [keys.stream(stream), keys.history(stream, group), *targets.keys()]
            return self._emit, names, [group, owner, *words]
        return self._full_settle_call(batch, targets)

    def _full_settle_call(
        self, batch: Sequence[tuple[Delivery, Outcome]], targets: commands.Targets
    ) -> tuple[Script, list[str], list[Argument]]:
        stream, group, owner = batch[0][0].stream, batch[0][0].group, batch[0][0].owner
        names = [
            keys.stream(stream),
            keys.retry(stream, group),
            keys.history(stream, group),
            keys.dead(stream),
            keys.dead_counts(stream),
            keys.skipped(stream, group),
            keys.waits(stream, group),
            keys.types(stream, group),
        ]
        kept, words = 0, list[Argument]()
        for delivery, outcome in batch:
            if delivery.kept or (isinstance(outcome, Together) and any(each.kept for each, _ in outcome.others)):
                kept = 1
            words += commands.outcome(delivery, outcome, targets)
        head: list[Argument] = [group, owner, keys.done(stream, group, ""), keys.wait_prefix(stream, group)]
        script = self._settle_gated if kept else self._settle
        return script, [*names, *targets.keys()], [*head, kept, len(batch), *words]

    def _targets(self, cause: str) -> commands.Targets:  # noqa: ARG002 - on a cluster it matters
        """Where the emits of a settlement go; `cause` is the stream of what is settled."""
        return commands.Targets()

    # ── leases and marks ──────────────────────────────────────────────────────────────────────────────────────

    async def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """See `Transport.renew`."""
        places = _places(held)
        calls = []
        for (stream, group, owner), indexes in places.items():
            args: list[Argument] = [group, owner]
            for index in indexes:
                args += (held[index].entry_id, held[index].deliveries)
            calls.append((self._renew, [keys.stream(stream)], args))
        lost: list[Delivery] = []
        for indexes, reply in zip(places.values(), await self._wire.run_many(calls), strict=True):
            if isinstance(reply, ServerError):
                if "NOGROUP" not in str(reply):
                    raise reply
                lost += [held[index] for index in indexes]
            else:
                lost += [held[indexes[nth]] for nth in reply]
        return lost

    async def marked(self, group: str, names: Sequence[tuple[str, str]]) -> list[bool]:
        """See `Transport.marked`."""
        marks = [keys.done(stream, group, name) for stream, name in names]
        return [value is not None for value in await self._wire.call("MGET", *marks)]

    # ── stats ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def stats(self, stream: str, group: str | None = None) -> list[GroupStats]:
        """See `Transport.stats`."""
        key = keys.stream(stream)
        groups, counts, now = await self._wire.many(
            [["XINFO", "GROUPS", key], ["HGETALL", keys.dead_counts(stream)], ["TIME"]]
        )
        groups, counts = commands.unless_missing(groups), commands.unless_missing(counts)
        dead = {name: int(count) for name, count in commands.mapping(counts).items()}
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        found = []
        for flat in groups:
            info = commands.mapping(flat)
            name = keys.text(info["name"])
            if group in (None, name):
                found.append(await self._group_stats(stream, name, info, dead.get(name, 0), now_ms))
        return found

    async def _group_stats(self, stream: str, group: str, info: dict[str, Any], dead: int, now_ms: int) -> GroupStats:
        key = keys.stream(stream)
        # The server's own lag where it knows it; else it is counted, and None beyond what we are ready to count.
        lag = info.get("lag")
        most = _COUNTED if lag is None else 1
        counted, first = await self._wire.run(self._lag, [key], [info["last-delivered-id"], most])
        if lag is None and counted >= 0:
            lag = counted
        summary, consumers = await self._wire.every([["XPENDING", key, group], ["XINFO", "CONSUMERS", key, group]])
        names = {keys.text(flat[flat.index(b"name") + 1]) for flat in consumers}
        return GroupStats(
            stream=stream,
            group=group,
            consumers=len(names - keys.RESERVED),
            pending=summary[0],
            lag=lag,
            lag_seconds=commands.age(first, now_ms) if first else 0.0,
            oldest_pending=commands.age(summary[1], now_ms) if summary[0] else None,
            dead=dead,
        )


def _places(deliveries: Sequence[Delivery]) -> dict[_Place, Sequence[int]]:
    """Which of these stand in the same stream, group and hands."""
    each = list(map(_place, deliveries))
    if len(set(each)) == 1:
        # As nearly always.
        return {each[0]: range(len(each))}
    places: defaultdict[_Place, list[int]] = defaultdict(list)
    for index, place in enumerate(each):
        places[place].append(index)
    return dict(places)


def _confirmed(caller: Caller, durability: Durability) -> Caller:
    """What writes through this caller, and returns when that is as durable as it has to be."""
    if durability in ("none", 0):
        return caller
    if durability == "disk":
        return Confirmed(caller, OnDisk())
    return Confirmed(caller, OnReplicas(AllReplicas(caller) if durability == "replica" else Fixed(int(durability))))
