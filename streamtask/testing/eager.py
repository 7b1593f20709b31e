"""One handler on one event, here and now: the worker's executor without a stream; and contexts for plain calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from streamtask import envelope as envelopes
from streamtask.app import App
from streamtask.broker import Broker, Run
from streamtask.context import Context
from streamtask.envelope import Envelope
from streamtask.errors import ConfigurationError
from streamtask.event import Event, describe
from streamtask.handler import Handler
from streamtask.task import Task
from streamtask.telemetry.metrics import Metrics
from streamtask.testing.executing import cancellations_of, executors_of
from streamtask.testing.views import BrokerView
from streamtask.transport.memory import MemoryStore, MemoryTransport
from streamtask.transport.memory.store import fields_of
from streamtask.transport.values import Delivery, Mark, Outcome, Progress
from streamtask.worker.checkpoints import Checkpoints
from streamtask.worker.outage import Outage

EventT = TypeVar("EventT", bound=Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What a handler has done with an event."""

    #: What it returned.
    returned: Any
    #: What would be published in one step with the ack, and the seconds by which it is delayed, or None.
    emits: Sequence[tuple[Event, float | None]]
    #: Its checkpoints, the last one last.
    checkpoints: Sequence[Any]
    #: How far it said to be.
    progress: Sequence[Progress]

    @property
    def emitted(self) -> list[Event]:
        """What would be published: what it returned first, then what it emitted."""
        return [event for event, _ in self.emits]

    def emitted_of(self, cls: type[EventT]) -> list[EventT]:
        """The same of one class."""
        return [event for event in self.emitted if isinstance(event, cls)]


class _Kept:
    """`Notes` that keeps what it is told."""

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.progress: list[Progress] = []

    async def save(self, _: Delivery, state: bytes) -> None:
        self.save_blocking(_, state)

    def save_blocking(self, _: Delivery, state: bytes) -> None:
        self.states.append(json.loads(state))

    def report(self, _: Delivery, __: str, progress: Progress) -> None:
        self.progress.append(progress)


class RecordedContext(Context):
    """A context without a delivery, for handlers and tasks that are called as functions."""

    __slots__ = ("_kept",)

    def __init__(self, envelope: Envelope, attempt: int, app: App, state: Any) -> None:
        self._kept = _Kept()
        super().__init__(envelope, attempt, app, Delivery("", "", "0-0", "", ()), self._kept)
        self.state = state

    @property
    def checkpoints(self) -> Sequence[Any]:
        """What was checkpointed, the last one last."""
        return self._kept.states

    @property
    def reports(self) -> Sequence[Progress]:
        """How far it was said to be."""
        return self._kept.progress


def make_context(
    event: Event | None = None, *, app: App | None = None, attempt: int = 1, state: Any = None
) -> RecordedContext:
    """Make a context to call a function with, and to see afterwards what it has emitted and checkpointed.

    `app`: what it has as `ctx.app`, by default one in memory that is not connected.
    """
    app = app or App("test", broker="memory://")
    if event is not None:
        return RecordedContext(_enveloped(app, event)[0], attempt, app, state)
    envelope = Envelope(
        schema_version="v1",
        event_id=envelopes.new_event_id(),
        event_type="test",
        source=app.name,
        timestamp=datetime.fromtimestamp(app.broker.clock.now(), UTC),
        trace_id=envelopes.new_trace_id(),
        payload_json=msgspec.Raw(b"{}"),
    )
    return RecordedContext(envelope, attempt, app, state)


async def handle(app: App, function: Callable[..., Any], event: Event, *, attempt: int, state: Any) -> Handled:
    """Run a handler of the app on an event, as the executor of a worker does, within the worker lifespans.

    Raises:
        ConfigurationError: it is no handler of this event in this app.
        Exception: what the handler raised.
    """
    handler = _handler_of(app, function, event)
    # Nothing is in it: no mark stands, and no task is cancelled.
    transport = MemoryTransport(MemoryStore())
    broker, recorder = _Eager(app.broker), _Recorder(transport, state)
    cancellations = cancellations_of(transport, list)
    async with executors_of(app, broker, transport, cancellations=cancellations, checkpoints=recorder) as executors:
        await executors.single.execute(_run(app, handler, event, attempt, has_state=state is not None))
    returned = [] if broker.returned is None else broker.returned
    events = returned if isinstance(returned, list | tuple) else [returned]
    emits: list[tuple[Event, float | None]] = [(each, None) for each in events if isinstance(each, Event)]
    emits += broker.context.emits if broker.context is not None else ()
    return Handled(
        returned=broker.returned, emits=emits, checkpoints=recorder.kept.states, progress=recorder.kept.progress
    )


class _Eager(BrokerView):
    """A broker's view that keeps what a handler returns, and lets through what it raises."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self.context: Context | None = None
        self.returned: Any = None

    def succeed(self, run: Run, context: Context | None, returned: Any, mark: Mark | None) -> Outcome:
        self.context, self.returned = context, returned
        return super().succeed(run, context, returned, mark)

    def fail(self, _: Run, error: BaseException) -> Outcome:
        raise error


class _Recorder(Checkpoints):
    """Checkpoints that are kept here, and a state that an earlier attempt has left."""

    def __init__(self, transport: MemoryTransport, state: Any) -> None:
        super().__init__(transport, Outage("checkpoint", Metrics()))
        self.kept = _Kept()
        self._state = state

    async def load(self, _: Delivery) -> bytes | None:
        return None if self._state is None else json.dumps(self._state).encode()

    async def save(self, delivery: Delivery, state: bytes) -> None:
        await self.kept.save(delivery, state)

    def save_blocking(self, delivery: Delivery, state: bytes) -> None:
        self.kept.save_blocking(delivery, state)

    def report(self, delivery: Delivery, event_id: str, progress: Progress) -> None:
        self.kept.report(delivery, event_id, progress)


def _handler_of(app: App, function: Callable[..., Any], event: Event) -> Handler:
    if isinstance(function, Task):
        raise ConfigurationError(
            f"the task {function.name} is a function already: call it; one that takes a context: "
            f"{function.__name__}(make_context(), ...)"
        )
    found = [handler for handler in app.handlers if handler.function is function and type(event) in handler.events]
    if not found:
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigurationError(f"{name} is no handler of {type(event).__name__} in the app {app.name!r}")
    if found[0].batch is not None:
        raise ConfigurationError(f"{found[0].name} takes a list of events: call it, or publish them and drain")
    return found[0]


def _enveloped(app: App, event: Event) -> tuple[Envelope, Sequence[bytes]]:
    item = app.broker.outgoing(event, envelopes.new_event_id(), envelopes.new_trace_id())
    fields = fields_of(item)
    return app.broker.decode(Delivery(item.stream, "", "0-0", "", fields)), fields


def _run(app: App, handler: Handler, event: Event, attempt: int, *, has_state: bool) -> Run:
    envelope, fields = _enveloped(app, event)
    # A state at the first attempt: an earlier delivery was handed back.
    handed_back = int(has_state and attempt == 1)
    described = describe(type(event))
    delivery = Delivery(
        described.stream,
        handler.group or app.name,
        "0-0",
        "eager",
        fields,
        deliveries=attempt + handed_back,
        failures=attempt - 1,
        uncharged=handed_back,
    )
    return Run(delivery, handler, described, envelope)
