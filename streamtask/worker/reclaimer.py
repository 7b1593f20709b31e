"""Due retries, hand-backs, and what dead owners left: back to work. It never takes from an owner that lives."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from streamtask import failpoints
from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Transport
from streamtask.transport.values import Delivery, Subscription
from streamtask.worker.arrivals import still_ours
from streamtask.worker.flow import Flow
from streamtask.worker.keeper import Keeper
from streamtask.worker.leases import Leases
from streamtask.worker.outage import Outage
from streamtask.worker.rounds import ROUND, Rounds

log = logging.getLogger(__name__)

_LOOK = 1.0
#: Seconds after which a reply that has not come will not come: longer than any command waits.
_UNSEEN = 6.0


class Reclaimer:
    """Takes up parked entries that are due, and parks what dead owners hold.

    `room` says how much of a subscription may be taken in, the slots of the worker apart, and `takes` how much of it
    the free slots take.
    """

    def __init__(
        self,
        transport: Transport,
        owner: str,
        subscriptions: Sequence[Subscription],
        *,
        flow: Flow,
        leases: Leases,
        keeper: Keeper,
        lease: float,
        metrics: Metrics,
        take: Callable[[list[Delivery]], None],
        expire: Callable[[list[Delivery]], None],
        room: Callable[[Subscription], int],
        takes: Callable[[Subscription], int],
        rounds: Rounds,
    ) -> None:
        self._transport = transport
        self._owner = owner
        self._subscriptions = subscriptions
        self._gated = {(sub.stream, sub.group): sub for sub in subscriptions if sub.gates}
        self._flow = flow
        self._leases = leases
        self._keeper = keeper
        self._lease = lease
        self._metrics = metrics
        self._outage = Outage("reclaim", metrics)
        self._take = take
        self._expire = expire
        self._room = room
        self._takes = takes
        self._rounds = rounds
        #: Of these more is due than there was room for, the slots of the worker apart.
        self._short: list[Subscription] = []
        self._due_waits = False
        #: When a claim failed whose reply may have been lost, with what it brought.
        self._trouble_at: float | None = None

    async def run(self) -> None:
        """Poll until cancelled."""
        looked = 0.0
        while True:
            wait = ROUND
            try:
                wait = await self._claim()
                if time.monotonic() - looked >= _LOOK:
                    looked = time.monotonic()
                    await self._look_for_the_dead()
                    await self._look_for_the_unseen()
                self._outage.over()
            except TransportError as error:
                self._failed(error)
                wait = 1.0
            await self._pause(wait)
            if self._due_waits:
                await self._flow.wait(lambda: self._flow.free, within=ROUND)

    @property
    def short(self) -> list[tuple[str, str]]:
        """Streams and groups of which more is due than there was room for when they were last looked at."""
        return [(sub.stream, sub.group) for sub in self._short]

    def _room_for_the_short(self) -> int:
        return self._flow.free and max((self._room(sub) for sub in self._short), default=0)

    def _failed(self, error: TransportError) -> None:
        self._trouble_at = time.monotonic()
        self._outage.failed(error)
        # What is due is not known any more and holds no new event up: it is the fetcher that finds a group gone, and
        # has it made again.
        self._tell(due_waits=False)
        self._short = []

    async def _pause(self, seconds: float) -> None:
        """Wait until it is worth looking again, and take up meanwhile what gates let through."""
        if self._short:
            await self._flow.wait(self._room_for_the_short, within=seconds)
            return
        if not self._gated:
            # Not by the flow, which has news with every event. A whole round: nothing is due sooner.
            await (self._rounds.next() if seconds == ROUND else asyncio.sleep(seconds))
            return
        until = time.monotonic() + seconds
        try:
            while (left := until - time.monotonic()) > 0:
                opened = await self._transport.gates.news(within=left)
                for place in opened & self._gated.keys():
                    if await self._claim_from(self._gated[place]) < 0:
                        # More than there is room for: it is told to the flow by the next look.
                        return
        except TransportError as error:
            self._failed(error)
            await asyncio.sleep(until - time.monotonic())

    async def _claim(self) -> float:
        """Take what is due and has room; the seconds until it is worth looking again.

        What goes wrong with one stream holds up no other: of the servers of a cluster one may be away.
        """
        waits, trouble = [ROUND], None
        for sub in self._subscriptions:
            try:
                waits.append(await self._claim_from(sub))
            except TransportError as error:
                trouble = error
        self._tell(due_waits=min(waits) < 0)
        if trouble is not None:
            raise trouble
        return max(0.0, min(waits))

    async def _claim_from(self, sub: Subscription) -> float:
        """Take what is due in one stream; the seconds until it is worth looking again, -1: more waits for a slot."""
        own_room = self._room(sub)
        async with self._leases.arriving:
            count = min(self._takes(sub), own_room)
            asked_at = time.monotonic()
            claimed = await self._transport.recovery.claim(sub, self._owner, count=count)
            if failpoints.armed and claimed.deliveries:
                failpoints.reached("after_claim")
            taken = await still_ours(self._transport, claimed.deliveries, asked_at=asked_at, lease=self._lease)
            if taken:
                self._metrics.reclaimed(sub.stream, sub.group, len(taken), "due")
                self._take(taken)
            if claimed.expired:
                self._expire(list(claimed.expired))
        for entry_id in claimed.gone:
            self._metrics.gone(sub.stream, sub.group)
            log.error("entry.gone", extra={"stream": sub.stream, "group": sub.group, "entry_id": entry_id})
        is_short = claimed.next_due == 0 and own_room <= len(claimed.deliveries)
        if is_short != (sub in self._short):
            self._short = [*self._short, sub] if is_short else [each for each in self._short if each is not sub]
            self._flow.changed()
        if claimed.next_due == 0:
            # More is due: it waits for a slot, unless it waits for others of its own kind.
            return ROUND if is_short else -1.0
        return ROUND if claimed.next_due is None else claimed.next_due

    def _tell(self, *, due_waits: bool) -> None:
        self._due_waits = due_waits
        self._flow.due_waits(waits=due_waits)

    async def _look_for_the_dead(self) -> None:
        if not self._keeper.sees_the_dead(time.monotonic()):
            return
        for sub in self._subscriptions:
            lost = await self._transport.recovery.lost_owners(sub.stream, sub.group, lease=self._lease)
            for owner, state in lost.items():
                await self._park(sub, owner, state)

    async def _look_for_the_unseen(self) -> None:
        """Some time after a claim failed: give back what it may have brought us without our knowing."""
        if self._trouble_at is not None and time.monotonic() - self._trouble_at > _UNSEEN + _LOOK:
            self._trouble_at = None
            for sub in self._subscriptions:
                await self._give_back_unseen(sub, idle=_UNSEEN)

    async def _give_back_unseen(self, sub: Subscription, *, idle: float) -> int:
        """Give back what is ours on the server, for `idle` seconds, and not here."""
        keep = self._leases.ids(sub.stream, sub.group)
        return await self._transport.recovery.hand_back(
            sub.stream, sub.group, self._owner, started=(), keep=keep, idle=idle
        )

    async def _park(self, sub: Subscription, owner: str, state: str) -> None:
        if owner == self._owner:
            # Handed to us in a reply that never came.
            n = await self._give_back_unseen(sub, idle=self._lease)
        else:
            idle = self._lease if state == "stale" else 0.0
            n = await self._transport.recovery.hand_back(sub.stream, sub.group, owner, idle=idle)
        if n:
            self._metrics.reclaimed(sub.stream, sub.group, n, state)
            log.warning(
                "entries.reclaimed",
                extra={"stream": sub.stream, "group": sub.group, "owner": owner, "cause": state, "entries": n},
            )
