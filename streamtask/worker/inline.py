"""Handlers inline: from deliveries to their outcomes in one loop, where nothing stands in between.

Most handlers are coroutine functions with nothing around them: no timeout, limit, mark, dependency or middleware. Most
of their calls end without waiting for anything. Such a call needs no slot, no task and no coroutine of ours, which are
most of what we call for an event. One that comes to wait for something goes on in a slot, the way of all others
(`Handling`, `Executor`), with what it has begun. Whoever looks on sees no difference.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Mapping

from streamtask import failpoints
from streamtask.broker import Broker, Run
from streamtask.context import Application, Context
from streamtask.event import EventType, load
from streamtask.handler import Handler
from streamtask.telemetry import logs
from streamtask.transport.values import Delivery, Outcome, TypeVersion
from streamtask.worker.begun import Begun, rest
from streamtask.worker.checkpoints import Checkpoints
from streamtask.worker.endings import Endings
from streamtask.worker.lanes import Place
from streamtask.worker.leases import Leases
from streamtask.worker.settler import Settlement
from streamtask.worker.started import StartedTable


class Inline:
    """Calls the handlers that are `is_inline`."""

    def __init__(
        self,
        app: Application,
        broker: Broker,
        endings: Endings,
        checkpoints: Checkpoints,
        *,
        leases: Leases,
        started: StartedTable | None,
        places: Mapping[Place, int],
    ) -> None:
        """`started` and `places`: as `Handling` has them."""
        self._app = app
        self._broker = broker
        self._endings = endings
        self._checkpoints = checkpoints
        self._leases = leases
        self._started = started
        self._places = places
        #: What may be called here, by stream and group: not what has waited the last time.
        self._ways: dict[Place, dict[TypeVersion, tuple[Handler, EventType]]] = {
            place: {
                (described.type, described.version): (handler, described)
                for handler, described in broker.catalog.readings[place].handlers.values()
                if handler.is_inline
            }
            for place in places
        }
        #: What is handled at this very moment, for other threads.
        self.running: Run | None = None

    def handle(self, deliveries: deque[Delivery], row: int, until: float) -> Begun | None:
        """Take one delivery after the other and handle it, until the first cannot be handled here or the time is over.

        `row`: a free one of the table of started entries. A call that has to go on is returned, and keeps it.
        """
        plan, ways = self._broker.plan_inline, self._ways
        # Where some lease is lost, it is perhaps that of one of these.
        run = None if self._leases.lost else plan(deliveries[0], ways)
        if run is None:
            return None
        started, task = self._started, asyncio.current_task()
        ended: list[Settlement] = []
        try:
            while run is not None:
                delivery = deliveries.popleft()
                if started is not None:
                    started.mark(row, self._places[delivery.stream, delivery.group], delivery.entry_id)
                self.running = run
                began = time.monotonic()
                outcome = self._outcome(run, began)
                if isinstance(outcome, Begun):
                    # It will most likely do so again, and has a slot from its beginning then.
                    del ways[delivery.stream, delivery.group][run.event_type.type, run.event_type.version]
                    return outcome
                if failpoints.armed:
                    failpoints.reached("after_effect")
                now = time.monotonic()
                ended.append(Settlement(delivery, outcome, run, now - began))
                if started is not None:
                    started.clear(row)
                is_over = now > until or task is None or task.cancelling()
                run = plan(deliveries[0], ways) if deliveries and not is_over else None
        finally:
            self.running = None
            logs.bind(None)
            self._endings.put_all(ended)
        return None

    def ran_through(self, run: Run) -> None:
        """A handler that is `is_inline` has ended in its slot without waiting."""
        way = run.event_type.type, run.event_type.version
        self._ways[run.delivery.stream, run.delivery.group][way] = run.handler, run.event_type

    def _outcome(self, run: Run, began: float) -> Outcome | Begun:
        """What a handler comes to, or what is left of it where it has come to wait for something."""
        delivery, envelope, handler, context = run.delivery, run.envelope, run.handler, None
        logs.bind((envelope, delivery))
        variables = contextvars.copy_context()
        try:
            event = variables.run(load, run.event_type.cls, bytes(envelope.payload_json), envelope.schema_version)
            if handler.wants_context:
                context = Context(envelope, delivery.attempt, self._app, delivery, self._checkpoints)
                call = handler.call(event, context)
            else:
                call = handler.function(event)
            try:
                waits_for = variables.run(call.send, None)
            except StopIteration as end:
                returned = end.value
            else:
                return Begun(run, rest(call, waits_for), context, variables, began)
            return self._broker.succeed(run, context, returned, None)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its failure, SystemExit included
            return self._broker.fail(run, error)
