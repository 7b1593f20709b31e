"""What becomes of a delivery, and how an event gets on its way: the only place that decides. Does no I/O."""

from __future__ import annotations

import logging
import random
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

import msgspec

from streamtask import envelope as envelopes
from streamtask import steps
from streamtask.catalog import Catalog
from streamtask.clock import Clock, SystemClock
from streamtask.codec import Codec
from streamtask.context import Context, Emit
from streamtask.envelope import Envelope, Writer
from streamtask.errors import (
    EnvelopeError,
    EventRefusedError,
    PayloadError,
    Reject,
    RetryLater,
    WorkerLostError,
)
from streamtask.event import Event, EventType, describe, dump, key_of, load
from streamtask.handler import DeadEvent, Handler, OnDead
from streamtask.lanes import home
from streamtask.outcomes import Keeping
from streamtask.redact import mask_text
from streamtask.retry import Retry as RetryPolicy
from streamtask.steps import Flow, Ready
from streamtask.transport.values import (
    DONE,
    PLAIN,
    Cancelled,
    Dead,
    Delivery,
    Done,
    Mark,
    Member,
    Outcome,
    Outgoing,
    Result,
    Retry,
    Skip,
    Start,
    Step,
    TypeVersion,
    Wait,
)

log = logging.getLogger(__name__)

#: Seconds that an entry waits for a worker that handles its type or version.
WAIT_TIMEOUT = 600.0
#: Crashes after which an entry runs alone in a process of its own.
CRASHES_BEFORE_ISOLATION = 2
#: Errors after which an event never runs again by itself, and the reason that its dead letter gives.
_FINAL = ((Reject, "rejected"), (PayloadError, "validation_error"), (EventRefusedError, "emit_refused"))
_TRACEBACK_BYTES = 8192
_DEFAULT_RETRY = RetryPolicy()
_ERROR_LENGTH = 2000
#: Characters of a foreign name that an error shows.
_SHOWN = 80

#: (stream, group) -> the durable set of types and versions that the group handles, by this worker or another.
Interest = Mapping[tuple[str, str], Collection[TypeVersion]]
#: (stream, group) -> handlers by the types and versions that they take.
Ways = Mapping[tuple[str, str], Mapping[TypeVersion, tuple[Handler, EventType]]]


class Run(msgspec.Struct, frozen=True, gc=False):
    """A delivery that is to be handled."""

    delivery: Delivery
    handler: Handler
    event_type: EventType
    envelope: Envelope
    #: A suspect: its process died while it may have been running it, twice; it runs in a process of its own.
    alone: bool = False
    #: Its place in a workflow, if it has one.
    flow: Flow | None = None


class Broker:
    """The rules of delivery. Which handler takes what is in its `catalog`."""

    def __init__(self, name: str, *, codec: Codec | None = None, limit: int = envelopes.MAX_BYTES) -> None:
        self.name = name
        self.catalog = Catalog(name)
        self.codec = codec or Codec(limit=limit)
        #: Tells the moment that stands in the envelope of what is published.
        self.clock: Clock = SystemClock()
        self._plain = codec is None
        self._limit = limit
        #: The classes of what was published or emitted so far.
        self._published: dict[type[Event], tuple[EventType, Writer]] = {}

    # ── before the handler ────────────────────────────────────────────────────────────────────────────────────

    def decode(self, delivery: Delivery) -> Envelope:
        """The envelope of an entry.

        Raises:
            EnvelopeError: the entry can never be handled.
        """
        body = delivery.body
        if body is None:
            raise EnvelopeError("the entry has no field `envelope`")
        body = self.codec.decode(body, delivery.field(b"content_type"), delivery.field(b"content_encoding"))
        return envelopes.decode(body, limit=self._limit)

    def plan(self, delivery: Delivery, interest: Interest) -> Run | Outcome:
        """What is to be done with a delivery: run a handler, or one of the outcomes that need none."""
        fields = delivery.fields
        is_plain = len(fields) == PLAIN and fields[0] == b"envelope"
        if not is_plain and (only := delivery.only) is not None and only != delivery.group:
            if only and "\ufffd" not in only:
                return Skip()
            return Dead(reason="undecodable", error="the field `only` names no group", attempts=delivery.attempt)
        place = delivery.stream, delivery.group
        reading = self.catalog.readings.get(place)
        try:
            envelope = envelopes.decode(fields[1], limit=self._limit) if is_plain else self.decode(delivery)
            found = reading.handlers.get(envelope.event_type) if reading else None
            flow = None if found is None or found[0].dump is None else steps.flow_of(envelope.payload_bytes)
        except EnvelopeError as error:
            return Dead(reason="undecodable", error=str(error), attempts=delivery.attempt)
        version = envelope.schema_version
        if found is None or (version != found[1].version and version not in describe(found[1].cls).versions):
            # As of now: an upcaster may have been added since the handler was.
            return self._foreign(delivery, envelope, interest.get(place, ()))
        # Who has been delivered once has not crashed.
        suspect = delivery.deliveries > 1 and delivery.crashes >= CRASHES_BEFORE_ISOLATION
        return Run(delivery, found[0], found[1], envelope, suspect, flow)

    def plan_inline(self, delivery: Delivery, ways: Ways) -> Run | None:
        """The run of a delivery like most: the first of its entry, for one of these handlers. None: ask `plan`."""
        wanted, fields = ways[delivery.stream, delivery.group], delivery.fields
        if not wanted or delivery.deliveries != 1 or len(fields) != PLAIN or fields[0] != b"envelope":
            return None
        try:
            envelope = envelopes.decode(fields[1], limit=self._limit)
        except EnvelopeError:
            return None
        found = wanted.get((envelope.event_type, envelope.schema_version))
        return None if found is None else Run(delivery, found[0], found[1], envelope)

    @staticmethod
    def _foreign(delivery: Delivery, envelope: Envelope, interest: Collection[TypeVersion]) -> Outcome:
        """A type or version that this worker does not handle: another worker's, or nobody's (rule 11)."""
        for name in (envelope.event_type, envelope.schema_version):
            if not name.isprintable():
                # Nobody can declare it, and the indexes of what waits take a tab for the end of a name.
                error = f"not an envelope: {ascii(name)[:_SHOWN]} is no name of a type or version"
                return Dead(reason="undecodable", error=error, attempts=delivery.attempt)
        if any(type_ == envelope.event_type for type_, _ in interest):
            return Wait(envelope.event_type, envelope.schema_version, WAIT_TIMEOUT)
        return Skip(envelope.event_type, envelope.schema_version, WAIT_TIMEOUT)

    def expired(self, delivery: Delivery, interest: Interest) -> Dead:
        """The outcome of an entry that has waited too long for a worker that handles it."""
        try:
            envelope = self.decode(delivery)
        except EnvelopeError as error:
            return Dead(reason="undecodable", error=str(error), attempts=delivery.attempt)
        place = delivery.stream, delivery.group
        known = (envelope.event_type, envelope.schema_version) in interest.get(place, ())
        reason = "unsupported_type" if known else "unsupported_version"
        dead = Dead(
            reason=reason,
            error=f"no worker of group {delivery.group!r} took {envelope.event_type} {envelope.schema_version} "
            f"within {WAIT_TIMEOUT:g} s",
            attempts=delivery.attempt,
            event_id=envelope.event_id,
            event_type=envelope.event_type,
        )
        try:
            flow = steps.flow_of(envelope.payload_bytes)
        except EnvelopeError:
            # A field of this name of somebody's own event.
            flow = None
        return dead if flow is None else self._end_of_call(delivery, envelope, flow, dead)

    def event(self, run: Run) -> Event:
        """The payload as its event class. Raises PayloadError."""
        envelope = run.envelope
        return load(run.event_type.cls, bytes(envelope.payload_json), envelope.schema_version)

    def mark(self, run: Run, event: Event) -> Mark | None:
        """The de-duplication mark of a delivery, or None where its handler does not de-duplicate."""
        dedupe = run.handler.dedupe
        if dedupe is False or (dedupe is None and not run.event_type.key):
            return None
        if dedupe is None or dedupe is True:
            value = key_of(event) if run.event_type.key else None
        elif isinstance(dedupe, str):
            found = getattr(event, dedupe)
            # As with a key: what has no identity is a duplicate of nothing.
            value = None if found is None else str(found)
        else:
            value = dedupe(event)
        if value is None:
            return None
        return Mark(f"{run.event_type.type}:{value}", run.handler.dedupe_window, replace=bool(run.delivery.replay))

    def start(self, run: Run) -> Start | None:
        """The start that a limited handler has to be given; None: it may start at any time."""
        handler, delivery = run.handler, run.delivery
        rate = handler.rate_limit
        if rate is None:
            return None
        limit = handler.name
        if rate.per is not None:
            try:
                limit = f"{limit}:{handler.read(self.event(run), rate.per)}"
            except Exception:  # noqa: BLE001 - what is wrong with an event, and how it ends, is found when it runs
                return None
        # Who has been delivered before has waited, or has begun.
        return Start(group=delivery.group, limit=limit, spacing=rate.spacing, first=delivery.deliveries > 1)

    # ── after the handler ─────────────────────────────────────────────────────────────────────────────────────

    def succeed(self, run: Run, context: Context | None, returned: Any, mark: Mark | None) -> Outcome:
        """The handler returned: its effects. `context` is None where the handler does not take one."""
        if run.handler.dump is not None:
            return self._call_done(run, run.handler.dump, context, returned, mark)
        if context is not None and context.emitted:
            emits = [*_returned(returned, run.handler.name), *context.emitted]
        else:
            emits = [] if returned is None else _returned(returned, run.handler.name)
        if not emits:
            return DONE if mark is None else Done(mark=mark)
        return Done(self._emits(run, run.handler.name, emits), mark)

    def _call_done(
        self, run: Run, dump: Callable[[Any], bytes], context: Context | None, returned: Any, mark: Mark | None
    ) -> Outcome:
        """The same of a task: what it returns is its value."""
        handler, flow = run.handler, run.flow
        emits: tuple[Outgoing, ...] = ()
        result = step = None
        if handler.keeping is not None or flow is not None:
            value = dump(returned)
            if handler.keeping is not None:
                result = handler.keeping.returned(run.envelope.event_id, value)
            if flow is not None:
                emits, step = self._next_calls(run, flow, value)
        if context is not None and context.emitted:
            emits = self._emits(run, handler.name, context.emitted) + emits
        return Done(emits, mark, result, step) if emits or mark or result or step else DONE

    def _emits(
        self, run: Run, emitter: str, emits: Iterable[Emit], key: tuple[str, str] | None = None
    ) -> tuple[Outgoing, ...]:
        """Events as a delivery emits them: with ids that come out the same when it is repeated.

        `key`: the event id and replay generation that the ids are made of, where they are not those of the delivery.
        """
        envelope, delivery = run.envelope, run.delivery
        cause, trace_id = envelope.event_id, envelope.trace_id
        event_key, replay = key or (cause, delivery.replay)
        outgoing = []
        for index, (event, delay, priority) in enumerate(emits):
            event_id = envelopes.emit_id(event_key, delivery.group, emitter, index, replay)
            outgoing.append(self.outgoing(event, event_id, trace_id, cause, delay=delay, priority=priority))
        return tuple(outgoing)

    def succeed_together(self, runs: Sequence[Run], emitted: Sequence[Emit], returned: Any) -> tuple[Outgoing, ...]:
        """One call has handled all these: its effects.

        The first of them stands for all as their cause, but their ids are made of all: a repeat with other members is
        another call.
        """
        first, name = runs[0], runs[0].handler.name
        causes = ((run.envelope.event_id, run.delivery.replay) for run in runs)
        key = " ".join(f"{event_id}/{replay}" if replay else event_id for event_id, replay in causes)
        return self._emits(first, name, [*_returned(returned, name), *emitted], (key, ""))

    @staticmethod
    def cancel(run: Run) -> Outcome:
        """Whoever sent the task does not want it any more."""
        keeping, flow, event_id = run.handler.keeping, run.flow, run.envelope.event_id
        result = None if keeping is None else keeping.cancelled(event_id)
        step = final = None
        if flow is not None:
            if flow.final != event_id and flow.final_ttl is not None:
                final = Keeping(ttl=flow.final_ttl).cancelled(flow.final)
            step = Step(flow.workflow, flow.step, "cancelled", flow.ttl, final)
        return Cancelled(result=result, step=step)

    # ── workflows ─────────────────────────────────────────────────────────────────────────────────────────────

    def calls(
        self, stream: str, ready: Iterable[Ready], trace_id: str, causation_id: str | None
    ) -> tuple[Outgoing, ...]:
        """Calls of a workflow as the transport takes them."""
        outgoing = []
        for each in ready:
            body, content_type, content_encoding = self._encoded(
                self._writer(each.task, "v1").write(
                    each.payload,
                    event_id=each.id,
                    trace_id=trace_id,
                    timestamp=envelopes.timestamp(self.clock.now()),
                    causation_id=causation_id,
                )
            )
            outgoing.append(
                Outgoing(
                    stream=stream,
                    body=body,
                    event_id=each.id,
                    content_type=content_type,
                    content_encoding=content_encoding,
                    delay=each.delay,
                )
            )
        return tuple(outgoing)

    def _next_calls(self, run: Run, flow: Flow, written: bytes) -> tuple[tuple[Outgoing, ...], Step]:
        """What follows a call that is done: the next ones, or its value among those of its group."""
        # A workflow is beside its stream, and the next task may have other priorities, or none.
        stream, envelope = home(run.delivery.stream), run.envelope
        following = self.calls(stream, steps.after(flow, written), envelope.trace_id, envelope.event_id)
        member = None
        if not flow.then and flow.frames:
            frame = flow.frames[-1]
            ready = steps.after_group(flow)
            member = Member(
                frame.group,
                frame.index,
                frame.size,
                written,
                self.calls(stream, ready, envelope.trace_id, envelope.event_id),
                # The values stand by themselves; this says that they are all there.
                None if ready else Keeping(ttl=flow.ttl).returned(frame.group, b"null"),
            )
        return following, Step(flow.workflow, flow.step, "done", flow.ttl, None, member)

    def _end_of_call(self, delivery: Delivery, envelope: Envelope, flow: Flow, dead: Dead) -> Dead:
        """A death with what it means to the workflow: whoever waits is told, and the callbacks are made."""
        final: Result | None = None
        if flow.final != envelope.event_id and flow.final_ttl is not None:
            final = Keeping(ttl=flow.final_ttl).failed(flow.final, dead)
        step = Step(flow.workflow, flow.step, "failed", flow.ttl, final)
        callbacks = [
            msgspec.structs.replace(
                call, id=envelopes.emit_id(envelope.event_id, delivery.group, "on_error", index, delivery.replay)
            )
            for index, call in enumerate(steps.callbacks(flow, dead))
        ]
        emits: tuple[Outgoing, ...] = ()
        try:
            emits = self.calls(home(delivery.stream), callbacks, envelope.trace_id, envelope.event_id)
        except EventRefusedError:
            # Too large with what it is told. The dead letter is written all the same.
            log.exception("on_error.failed", extra={"task": dead.event_type, "workflow": flow.workflow})
        return msgspec.structs.replace(dead, emits=emits, step=step)

    def fail(self, run: Run, error: BaseException) -> Outcome:
        """The handler raised, timed out or lost its process: again, or dead."""
        if isinstance(error, RetryLater):
            return Retry(error.delay, failed=False, error=_text(error)[:_ERROR_LENGTH])
        reason = self._final(run, error)
        if reason:
            dead = self._dead(run, reason, error)
            if run.handler.keeping is not None:
                result = run.handler.keeping.failed(run.envelope.event_id, dead)
                dead = msgspec.structs.replace(dead, result=result)
            if run.flow is not None:
                return self._end_of_call(run.delivery, run.envelope, run.flow, dead)
            return dead if run.handler.on_dead is None else self._with_last_words(run, dead, run.handler.on_dead)
        return self.again(run, error)

    def again(self, run: Run, error: BaseException) -> Retry:
        """The handler raised: run again after its backoff."""
        return Retry(self._delay(run), error=_describe(error))

    @staticmethod
    def _final(run: Run, error: BaseException) -> str:
        """Why an error is the end of the event; empty where it runs again."""
        for kind, reason in _FINAL:
            if isinstance(error, kind):
                return reason
        retry = run.handler.retry
        # A process that died raised nothing: `retry_on` does not speak of it.
        lost = isinstance(error, WorkerLostError)
        if isinstance(error, Exception) and not lost and not retry.wants(error):
            return "not_retryable"
        if (lost and run.alone) or run.delivery.attempt >= retry.max_attempts:
            return "worker_lost" if lost else "max_attempts"
        return ""

    @staticmethod
    def _delay(run: Run) -> float:
        """Seconds until the next attempt."""
        attempt = run.delivery.attempt
        try:
            return run.handler.retry.delay(attempt, random.random)
        except Exception as trouble:  # noqa: BLE001 - a backoff function is the user's: it raises what it likes
            fields = {"handler": run.handler.name, "error": _describe(trouble)}
            log.error("retry.backoff_failed", extra=fields)  # noqa: TRY400 - the line says it
            return _DEFAULT_RETRY.delay(attempt, random.random)

    @staticmethod
    def _dead(run: Run, reason: str, error: BaseException) -> Dead:
        lines = traceback.format_exception(type(error), error, _users_part(error.__traceback__))
        text = mask_text(_utf8("".join(lines)))
        return Dead(
            reason=reason,
            error=_describe(error),
            traceback=text[-_TRACEBACK_BYTES:],
            attempts=run.delivery.attempt,
            event_id=run.envelope.event_id,
            event_type=run.envelope.event_type,
        )

    def _with_last_words(self, run: Run, dead: Dead, on_dead: OnDead) -> Dead:
        """A death with what its handler's `on_dead` emits; without, where that fails."""
        try:
            event = self.event(run)
        except PayloadError:
            return dead
        told = DeadEvent(reason=dead.reason, error=dead.error, attempts=dead.attempts)
        # No name of a function has a colon: these ids are no ordinary emit's.
        emitter = f"{run.handler.name}:on_dead"
        try:
            last_words = _returned(on_dead(event, told), emitter)
            return msgspec.structs.replace(dead, emits=self._emits(run, emitter, last_words))
        # It is the user's: whatever it raises, SystemExit included, the dead letter is written.
        except BaseException:
            log.exception("on_dead.failed", extra={"handler": run.handler.name})
            return dead

    # ── publishing ────────────────────────────────────────────────────────────────────────────────────────────

    def outgoing(
        self,
        event: Event,
        event_id: str,
        trace_id: str,
        causation_id: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_key: str | None = None,
        debounce_key: str | None = None,
        again: bool = False,
        priority: str | None = None,
    ) -> Outgoing:
        """An event as the transport takes it; `delay` and what follows are fields of `Outgoing`, but for `priority`.

        Raises:
            EventRefusedError: a consumer could not read it back; nothing was sent.
            ConfigurationError: its class does not declare the priority.
        """
        described, writer = self._published.get(type(event)) or self._publishes(type(event))
        body = writer.write(
            dump(event),
            event_id=event_id,
            trace_id=trace_id,
            timestamp=envelopes.timestamp(self.clock.now()),
            key=key_of(event) if described.key else None,
            headers=headers,
            causation_id=causation_id,
        )
        body, content_type, content_encoding = self._encoded(body)
        # Each field by name: `**` takes as long as all the rest.
        return Outgoing(
            stream=described.stream if priority is None else described.stream_of(priority),
            body=body,
            event_id=event_id,
            content_type=content_type,
            content_encoding=content_encoding,
            delay=delay,
            at=at,
            dedup_key=dedup_key,
            debounce_key=debounce_key,
            again=again,
        )

    def _publishes(self, cls: type[Event]) -> tuple[EventType, Writer]:
        described = self.catalog.know(cls)
        self._published[cls] = described, self._writer(described.type, described.version)
        return self._published[cls]

    def _writer(self, type_: str, version: str) -> Writer:
        return Writer(event_type=type_, schema_version=version, source=self.name, limit=self._limit)

    def _encoded(self, body: bytes) -> tuple[bytes, str | None, str | None]:
        """An envelope in the app's codec, with its content type and encoding."""
        return (body, None, None) if self._plain else self.codec.encode(body)


def _returned(returned: Any, function: str) -> list[Emit]:
    """What a function has returned, to be emitted."""
    if isinstance(returned, Event):
        return [(returned, None, None)]
    if returned is None:
        return []
    events = list(returned) if isinstance(returned, list | tuple) else [returned]
    for event in events:
        if not isinstance(event, Event):
            raise EventRefusedError(
                f"{function} returned {type(event).__name__}; it is to return None, an Event or a list of them",
                event_id="",
            )
    return [(event, None, None) for event in events]


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from where the user's code begins; whole where none of it is the user's."""
    part = trace
    while part is not None and part.tb_frame.f_globals.get("__name__", "").startswith("streamtask."):
        part = part.tb_next
    return part or trace


def _text(error: BaseException) -> str:
    """What an error says, as far as it can be said."""
    try:
        return mask_text(_utf8(str(error)))
    except Exception as trouble:  # noqa: BLE001 - an error's class is the user's: it raises what it likes
        return f"(its text cannot be read: {type(trouble).__name__})"


def _utf8(text: str) -> str:
    # A file name that is no UTF-8 has lone surrogates, which no transport can carry.
    return text.encode("utf-8", "backslashreplace").decode()


def _describe(error: BaseException) -> str:
    text = _text(error)
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__)[:_ERROR_LENGTH]
