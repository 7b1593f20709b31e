"""Events → the transport: packed by the broker, stored in batches and counted; and what is said where they are not."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping
from datetime import datetime

import msgspec

from streamtask import envelope as envelopes
from streamtask.broker import Broker
from streamtask.errors import EventRefusedError, PublishError, TransportError
from streamtask.event import Event
from streamtask.link import Link
from streamtask.telemetry import logs
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.values import Outgoing
from streamtask.workflow import Plan

#: Events in one round trip.
_BATCH = 500
#: Seconds between the tries to send a workflow.
_PAUSES = (0.1, 0.5, 1.0, 2.0)


class Publisher:
    """What an app publishes. Each call says by which link: an app and its blocking twin have one each."""

    def __init__(self, broker: Broker, metrics: Metrics) -> None:
        self._broker = broker
        self._metrics = metrics

    def outgoing(
        self,
        event: Event,
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_key: str | None = None,
        debounce_key: str | None = None,
        event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        priority: str | None = None,
    ) -> Outgoing:
        """An event on its way, caused by what is handled here now. See `App.publish`."""
        check_due(delay, at)
        if debounce_key is not None:
            _check_debounce(debounce_key, delay, dedup_key)
        bound = logs.current()
        return self._broker.outgoing(
            event,
            event_id=event_id or envelopes.new_event_id(),
            trace_id=bound.trace_id if bound else envelopes.new_trace_id(),
            causation_id=bound.event_id if bound else None,
            headers=headers,
            delay=delay,
            at=at,
            dedup_key=dedup_key,
            debounce_key=debounce_key,
            again=bool(event_id),
            priority=priority,
        )

    async def store_one(self, link: Link, item: Outgoing) -> str:
        """Publish one; its event id, or that of the event of which it is a repeat."""
        [stored] = await self._store(link, [item])
        return item.event_id if item.dedup_key is None else stored

    async def store_all(self, link: Link, items: list[Outgoing]) -> list[str]:
        """Publish in batches, in order; what the transport says of each.

        Raises:
            PublishError: `error.unsure` says which are not known to be stored.
        """
        stored: list[str] = []
        for start in range(0, len(items), _BATCH):
            try:
                stored += await self._store(link, items[start : start + _BATCH])
            except PublishError as error:
                unsure = {start + place: event_id for place, event_id in error.unsure.items()}
                unsent = range(start + _BATCH, len(items))
                error.unsure = unsure | {place: items[place].event_id for place in unsent}
                raise
        return stored

    async def _store(self, link: Link, items: list[Outgoing]) -> list[str]:
        """Publish a batch; what the transport says of each. A PublishError says which are not known to be stored."""
        try:
            results = await link.transport.publish(items)
        except TransportError as error:
            self._count(items, failed=True)
            await link.revive()
            unknown = PublishError(
                f"it is unknown whether the event is stored ({error}); publish again with event_id=error.event_id",
                event_id=items[0].event_id,
            )
            unknown.unsure = {place: item.event_id for place, item in enumerate(items)}
            raise unknown from error
        failed = {place: result for place, result in enumerate(results) if isinstance(result, Exception)}
        if not failed:
            self._count(items, failed=False)
            return [result for result in results if isinstance(result, str)]
        for place, item in enumerate(items):
            self._count([item], failed=place in failed)
        refused = next(iter(failed.values()))
        if isinstance(refused, PublishError):
            refused.unsure = {place: items[place].event_id for place in failed}
        raise refused

    def _count(self, items: list[Outgoing], *, failed: bool) -> None:
        count = self._metrics.publish_failed if failed else self._metrics.published
        if len(items) == 1:
            count(items[0].stream, 1)
            return
        for stream, n in Counter(item.stream for item in items).items():
            count(stream, n)

    async def send(self, link: Link, plan: Plan) -> None:
        """Keep what a workflow is made of and publish its first calls.

        Raises:
            PublishError: unknown whether all of them are stored, after several tries.
        """
        bound = logs.current()
        trace_id = bound.trace_id if bound else envelopes.new_trace_id()
        items = list(self._broker.calls(plan.stream, plan.first, trace_id, bound.event_id if bound else None))
        for pause in (*_PAUSES, None):
            try:
                await link.transport.workflows.begin(plan.stream, plan.id, plan.definition, ttl=plan.ttl)
                await self.store_all(link, items)
            except EventRefusedError:
                raise
            except PublishError as error:
                if pause is None:
                    raise
                # Their ids are those of their places in the workflow: what is stored already is found.
                items = [msgspec.structs.replace(items[place], again=True) for place in error.unsure]
            except TransportError as error:
                if pause is None:
                    raise PublishError(
                        f"unknown whether all of the workflow is sent ({error}); its id is error.event_id",
                        event_id=plan.id,
                    ) from error
                await link.revive()
            else:
                return
            await asyncio.sleep(pause)


def check_due(delay: float | None, at: datetime | None) -> None:
    """Raise ValueError where these do not say when an event is due."""
    if delay is not None and at is not None:
        raise ValueError("give delay or at, not both")
    if delay is not None and not 0 <= delay < math.inf:
        raise ValueError(f"delay is in seconds, from 0, got {delay}")
    if at is not None and at.tzinfo is None:
        raise ValueError("at needs a time zone: datetime(..., tzinfo=UTC)")


def _check_debounce(key: str, delay: float | None, dedup_key: str | None) -> None:
    if not key:
        raise ValueError("debounce_key is a text that says what belongs together, got an empty one")
    if delay is None:
        raise ValueError("debounce_key needs a delay: the seconds after the last publish under the key")
    if dedup_key is not None:
        raise ValueError("give debounce_key or dedup_key, not both: one keeps the last event, the other the first")
