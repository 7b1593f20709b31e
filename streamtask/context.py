"""What a handler is given beside its event: the envelope, the attempt, and ways to emit, to log and to go on later."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypedDict, Unpack

from streamtask.blobs import Blobs
from streamtask.envelope import Envelope
from streamtask.errors import ConfigurationError
from streamtask.event import Event, describe
from streamtask.records import Records
from streamtask.telemetry.logs import ContextLogger
from streamtask.transport.values import Delivery, Progress

#: The largest state that a handler may checkpoint, in bytes of JSON.
MAX_STATE = 256 << 10
#: Characters of a progress message that are kept.
_MESSAGE_LENGTH = 200

#: What a handler emits: the event, its delay in seconds, its priority.
Emit = tuple[Event, float | None, str | None]

_handlers_log = logging.getLogger("streamtask.handler")


class PublishOptions(TypedDict, total=False):
    """What `App.publish` may be given beside the event."""

    delay: float | None
    at: datetime | None
    dedup_key: str | None
    debounce_key: str | None
    event_id: str | None
    headers: Mapping[str, str] | None
    priority: str | None


class BlockingPublisher(Protocol):
    """`app.sync`: publishing for code that cannot await."""

    def publish(self, event: Event, **options: Unpack[PublishOptions]) -> str:
        """See `App.publish`."""

    def publish_many(self, events: Sequence[Event], *, priority: str | None = None) -> list[str]:
        """See `App.publish_many`."""


class Application(Protocol):
    """What a handler may ask of its app."""

    @property
    def name(self) -> str:
        """The `source` of its envelopes."""

    @property
    def url(self) -> str:
        """The broker URL in use."""

    @property
    def address(self) -> str:
        """The URL by which other processes of this machine reach the broker in use."""

    @property
    def sync(self) -> BlockingPublisher:
        """The blocking twin."""

    @property
    def blobs(self) -> Blobs:
        """What is too large for an event, by its URI."""

    @property
    def records(self) -> Records:
        """Small facts, fields under a key."""

    async def publish(self, event: Event, **options: Unpack[PublishOptions]) -> str:
        """See `App.publish`."""

    async def publish_many(self, events: Sequence[Event], *, priority: str | None = None) -> list[str]:
        """See `App.publish_many`."""


class Notes(Protocol):
    """Keeps what handlers have come to: a worker's, or what a child process has in its place."""

    async def save(self, delivery: Delivery, state: bytes) -> None:
        """Keep a state, however long the server is away. Raises LeaseLostError."""

    def save_blocking(self, delivery: Delivery, state: bytes) -> None:
        """The same, for a thread without an event loop."""

    def report(self, delivery: Delivery, event_id: str, progress: Progress) -> None:
        """Keep how far the handler of an event is, soon; from any thread."""


class _Emitter:
    """Takes what a handler emits."""

    __slots__ = ("_emits",)

    def __init__(self) -> None:
        self._emits: list[Emit] = []

    def emit(self, event: Event, delay: float | None = None, *, priority: str | None = None) -> None:
        """Publish an event in the same atomic step as the ack, `delay` seconds later if given.

        Nothing is published if the handler fails, or if another worker has taken the delivery over.
        """
        _check_delay(delay)
        if priority is not None:
            describe(type(event)).stream_of(priority)
        self._emits.append((event, delay, priority))

    @property
    def emits(self) -> Sequence[tuple[Event, float | None]]:
        """What was emitted so far, with its delay."""
        return [(event, delay) for event, delay, _ in self._emits]

    @property
    def emitted(self) -> Sequence[Emit]:
        """The same with the priority of each."""
        return self._emits


class Context(_Emitter):
    """The delivery that a handler is handling."""

    __slots__ = ("_delivery", "_notes", "app", "attempt", "envelope", "state")

    def __init__(
        self,
        envelope: Envelope,
        attempt: int,
        app: Application,
        delivery: Delivery | None = None,
        notes: Notes | None = None,
    ) -> None:
        super().__init__()
        #: The envelope of the event.
        self.envelope = envelope
        #: 1 + the failures so far.
        self.attempt = attempt
        #: The app whose handler this is.
        self.app = app
        #: What was checkpointed last when this attempt began, by an earlier one; or None.
        self.state: Any = None
        self._delivery = delivery
        self._notes = notes

    async def checkpoint(self, state: Any) -> None:
        """Keep how far this is: the attempt after a crash, a failure or a hand-back finds it as `ctx.state`.

        `state`: plain JSON of at most 256 KiB; it takes the place of the last one, and is kept until the event is done
        or a dead letter. Waits for as long as the server is away.

        Raises:
            LeaseLostError: another worker has the event by now, and nothing was kept: end, the outcome will be refused.
            ValueError: it is no plain JSON, or too large.
        """
        delivery, notes = _held(self._delivery, self._notes)
        await notes.save(delivery, _encoded(state))

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far this is, from 0 to 1, for `streamtask inspect` and `Handle.progress`.

        From any thread, and as often as you like: it is written twice a second at most, of a message 200 characters.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"a fraction is from 0 to 1, got {fraction}")
        delivery, notes = _held(self._delivery, self._notes)
        # Lone surrogates, as in a file's name, cannot be stored.
        text = message[:_MESSAGE_LENGTH].encode("utf-8", "backslashreplace").decode()
        notes.report(delivery, self.envelope.event_id, Progress(float(fraction), text))

    @property
    def sync(self) -> BlockingContext:
        """Blocking twins of the async methods of the app and of this context, for threads and child processes."""
        return BlockingContext(self.app, self._delivery, self._notes)

    @property
    def log(self) -> ContextLogger:
        """A logger whose lines carry the event id and the trace id."""
        return ContextLogger(_handlers_log)


class BatchContext(_Emitter):
    """The deliveries that a batch handler is handling, in the order of its list."""

    __slots__ = ("app", "attempts", "envelopes")

    def __init__(self, envelopes: Sequence[Envelope], attempts: Sequence[int], app: Application) -> None:
        super().__init__()
        #: The envelope of each event.
        self.envelopes = envelopes
        #: 1 + the failures so far of each event.
        self.attempts = attempts
        #: The app whose handler this is.
        self.app = app

    def emit(self, event: Event, delay: float | None = None, *, priority: str | None = None) -> None:
        """Publish an event in the same atomic step as the acks of all events of the list that did not fail.

        Nothing is published if the handler fails as a whole, or if another worker has taken one of them over.
        """
        super().emit(event, delay, priority=priority)

    @property
    def sync(self) -> BlockingPublisher:
        """The blocking twin of the app, for threads and child processes."""
        return self.app.sync

    @property
    def log(self) -> ContextLogger:
        """A logger whose lines carry the event id and the trace id of the first event."""
        return ContextLogger(_handlers_log)


class BlockingContext:
    """`ctx.sync`: for handlers in threads and child processes, which cannot await."""

    __slots__ = ("_app", "_delivery", "_notes")

    def __init__(self, app: Application, delivery: Delivery | None, notes: Notes | None) -> None:
        self._app = app
        self._delivery = delivery
        self._notes = notes

    def publish(self, event: Event, **options: Unpack[PublishOptions]) -> str:
        """See `App.publish`."""
        return self._app.sync.publish(event, **options)

    def publish_many(self, events: Sequence[Event], *, priority: str | None = None) -> list[str]:
        """See `App.publish_many`."""
        return self._app.sync.publish_many(events, priority=priority)

    def checkpoint(self, state: Any) -> None:
        """See `Context.checkpoint`."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            delivery, notes = _held(self._delivery, self._notes)
            notes.save_blocking(delivery, _encoded(state))
        else:
            raise ConfigurationError("ctx.sync would block the running event loop; write `await ctx.checkpoint(...)`")


def _check_delay(delay: float | None) -> None:
    if delay is not None and not 0 <= delay < math.inf:
        raise ValueError(f"delay is in seconds, from 0, got {delay}")


def decode_state(state: bytes | None) -> Any:
    """A state that was kept, as the handler gets it."""
    return None if state is None else json.loads(state)


def _held(delivery: Delivery | None, notes: Notes | None) -> tuple[Delivery, Notes]:
    if delivery is None or notes is None:
        raise ConfigurationError("this context was not made by a worker: there is no delivery to keep anything of")
    return delivery, notes


def _encoded(state: Any) -> bytes:
    """A state as JSON. Raises ValueError where it is none, or too large."""
    try:
        encoded = json.dumps(state, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a checkpoint is plain JSON, and this is not: {error}") from error
    if len(encoded) > MAX_STATE:
        raise ValueError(
            f"a checkpoint has at most {MAX_STATE} bytes of JSON, and this has {len(encoded)}; keep what is large "
            "elsewhere, and here where it is"
        )
    return encoded
