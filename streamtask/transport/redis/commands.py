"""The port's values as words of Redis commands, and back. Pure functions; the scripts' headers give the order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from streamtask.errors import EventRefusedError, PublishError, StoreFullError
from streamtask.transport.redis import keys
from streamtask.transport.redis.line import Argument, ServerError
from streamtask.transport.values import (
    DONE,
    Dead,
    Delivery,
    Done,
    Gate,
    Mark,
    Member,
    Outcome,
    Outgoing,
    Release,
    Result,
    Retry,
    Skip,
    Step,
    Together,
    Wait,
)

#: Field names and values that one command in a script can write: Redis' Lua passes 8,000 words at most.
_MOST_WORDS = 7000


def mapping(flat: Sequence[Any]) -> dict[str, Any]:
    """Names and values in turn, as a map by name."""
    return {keys.text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def unless_missing(reply: Any) -> Any:
    """What the server says about a stream; an empty list where there is none. Raises what else it refused."""
    if not isinstance(reply, ServerError):
        return reply
    if reply.code not in ("ERR", "WRONGTYPE"):
        raise reply
    return []


def start_id(start: str | datetime) -> str:
    """Where a new group begins, as an id for XGROUP CREATE."""
    if isinstance(start, datetime):
        return before_moment(start)
    return {"earliest": "0", "latest": "$"}[start]


def before_moment(moment: datetime) -> str:
    """The id before the first one of a moment: reading after it gives the moment's own entries."""
    ms = round(moment.timestamp() * 1000)
    return f"{ms - 1}-18446744073709551615" if ms > 0 else "0-0"


def age(entry_id: bytes, now_ms: int) -> float:
    """Seconds since an entry was appended."""
    return max(0, now_ms - int(entry_id.partition(b"-")[0])) / 1000


def due(delay: float | None, at: datetime | None) -> str:
    """When an event is due, as the scripts take it; empty: at once."""
    if delay is not None:
        return f"in:{round(delay * 1000)}"
    return "" if at is None else f"at:{round(at.timestamp() * 1000)}"


def entry(item: Outgoing) -> list[Argument]:
    """The entry's fields and values."""
    words: list[Argument] = ["envelope", item.body]
    if item.content_type is not None:
        words += ["content_type", item.content_type]
    if item.content_encoding is not None:
        # Compressed bytes do not show their event id, and publishing again looks for it.
        words += ["content_encoding", item.content_encoding, "event_id", item.event_id]
    return words


def gates(declared: Sequence[Gate]) -> list[Argument]:
    """Gates for the scripts that read through them."""
    words: list[Argument] = []
    for gate in declared:
        words += [gate.name, "o" if gate.ordered else "c", gate.limit]
        words += [len(gate.path), *gate.path, len(gate.types), *gate.types]
    return words


def published(item: Outgoing, reply: Any) -> str | Exception:
    """What became of one published item."""
    if isinstance(reply, ServerError):
        if reply.code == "OOM":
            return StoreFullError(
                f"Redis is out of memory and refused the event; nothing was stored ({reply}). "
                "Consumers go on; publish again when memory is free.",
                event_id=item.event_id,
            )
        if reply.code == "MISCONF":
            return StoreFullError(
                f"Redis cannot write to its disk and refused the event; nothing was stored ({reply}). "
                "Workers wait, and what they have ended is settled when it can; publish again when the disk has room.",
                event_id=item.event_id,
            )
        if reply.code == "WRONGTYPE":
            return EventRefusedError(
                f"the key stream:{item.stream} exists and is not a stream; nothing was stored", event_id=item.event_id
            )
        return PublishError(f"Redis refused the event: {reply}", event_id=item.event_id)
    return str(reply.decode())


def acks(settlements: Sequence[tuple[Delivery, Outcome]]) -> list[Argument] | None:
    """Words for the ack script; None where not all are done without effects, or one has a history to be cleared."""
    # It is always that very one: another of its kind, of `Cancelled` say, is not equal to it.
    words: list[Argument] = [
        delivery.entry_id
        for delivery, result in settlements
        if result is DONE and delivery.deliveries == 1 and not delivery.kept
    ]
    return words if len(words) == len(settlements) else None


def plain_emits(settlements: Sequence[tuple[Delivery, Outcome]], targets: Targets) -> list[Argument] | None:
    """Words for the emit script; None where an outcome is more than one plain event, or has a history to be cleared."""
    words: list[Argument] = []
    stream, place = "", 0
    for delivery, result in settlements:
        if type(result) is not Done or delivery.deliveries != 1 or delivery.kept:
            return None
        if result is DONE:
            words += (delivery.entry_id, 0, "")
            continue
        emits = result.emits
        if len(emits) != 1 or result.mark is not None or result.result is not None or result.step is not None:
            return None
        emit = emits[0]
        if emit.delay is not None or emit.content_type is not None or emit.content_encoding is not None:
            return None
        if emit.stream != stream:
            stream, place = emit.stream, targets.place(emit.stream)
        if not place:
            return None
        words += (delivery.entry_id, place, emit.body)
    return words


def _is_plain(emit: Outgoing) -> bool:
    return emit.delay is None and emit.content_type is None and emit.content_encoding is None


class Targets:
    """Where a settlement's emits go: to their streams, and what is elsewhere to the outbox beside the cause."""

    def __init__(self, outbox: str = "", is_elsewhere: Callable[[str], bool] | None = None) -> None:
        """`is_elsewhere`: whether one script cannot write to a stream; None: it can write to all."""
        self._outbox = outbox
        self._is_elsewhere = is_elsewhere
        #: Streams -> their place among the keys that are emitted to, from 1; the outbox has no name.
        self._places: dict[str, int] = {}

    def keys(self) -> list[str]:
        """What is written to."""
        return [keys.stream(name) if name else self._outbox for name in self._places]

    @property
    def streams(self) -> list[str]:
        """Those of them that are streams."""
        return [name for name in self._places if name]

    def place(self, stream: str) -> int:
        """The place of a stream; 0 where the outbox has to take what is for it."""
        place = self._places.get(stream)
        if place is None:
            if self._is_elsewhere is not None and self._is_elsewhere(stream):
                return 0
            place = self._places[stream] = 1 + len(self._places)
        return place

    def words(self, emit: Outgoing) -> list[Argument]:
        """One emit for the settle script."""
        place, fields = self.place(emit.stream), entry(emit)
        delay = "" if emit.delay is None else round(emit.delay * 1000)
        if place:
            return [place, delay, emit.event_id, len(fields), *fields]
        place = self._places.setdefault("", 1 + len(self._places))
        posted = ["target", emit.stream, "event_id", emit.event_id, "delay", delay, *fields]
        return [place, "", emit.event_id, len(posted), *posted]


def emits_of(result: Outcome) -> tuple[Outgoing, ...]:
    """What an outcome has to be stored elsewhere."""
    return result.emits if isinstance(result, Done | Dead | Together) else ()


def outcome(delivery: Delivery, result: Outcome, targets: Targets) -> Sequence[Argument]:
    """One outcome for the settle script."""
    head = (delivery.entry_id, delivery.deliveries)
    match result:
        case Done() | Together():
            return _done(delivery, result, targets) if isinstance(result, Done) else _batch(delivery, result, targets)
        case Retry():
            return ("retry", *head, round(result.delay * 1000), int(result.failed), result.error)
        case Release():
            return ("release", *head, round(result.delay * 1000), int(result.charged))
        case Dead():
            words = _letter(delivery, result)
            told = (0,) if result.result is None else (1, *_result(result.result))
            step = (0,) if result.step is None else (1, *_step(result.step, targets))
            return ("dead", *head, len(words), *words, *_emits(result.emits, targets), *told, *step)
        case Skip():
            noted = int(delivery.only is None)
            return ("skip", *head, result.event_type, noted, result.version, round(result.timeout * 1000))
        case Wait():
            return ("wait", *head, result.type, result.version, round(result.timeout * 1000))


def _batch(delivery: Delivery, result: Together, targets: Targets) -> Sequence[Argument]:
    words: list[Argument] = ["together", delivery.entry_id, delivery.deliveries, *_mark(result.mark)]
    words.append(len(result.others))
    for other, mark in result.others:
        words += (other.entry_id, other.deliveries, *_mark(mark))
    return [*words, *_emits(result.emits, targets)]


def _done(delivery: Delivery, done: Done, targets: Targets) -> Sequence[Argument]:
    # Every word costs; most outcomes have few.
    mark, emits, result, step = done.mark, done.emits, done.result, done.step
    if mark is None and result is None and step is None:
        if not emits:
            return ("done", delivery.entry_id, delivery.deliveries)
        if len(emits) == 1:
            emit = emits[0]
            if _is_plain(emit) and (place := targets.place(emit.stream)):
                return ("emit", delivery.entry_id, delivery.deliveries, place, emit.body)
    words: list[Argument] = ["effects", delivery.entry_id, delivery.deliveries]
    if step is not None:
        words = ["step", delivery.entry_id, delivery.deliveries, *_step(step, targets), int(result is not None)]
        if result is not None:
            words += _result(result)
    elif result is not None:
        words = ["result", delivery.entry_id, delivery.deliveries, *_result(result)]
    words += _mark(mark)
    words += _emits(emits, targets)
    return words


def _emits(emits: Sequence[Outgoing], targets: Targets) -> list[Argument]:
    words: list[Argument] = [len(emits)]
    for emit in emits:
        words += targets.words(emit)
    return words


def _mark(mark: Mark | None) -> tuple[Argument, ...]:
    return ("", 0, 0) if mark is None else (mark.name, max(1, round(mark.window * 1000)), int(mark.replace))


def _result(result: Result) -> tuple[Argument, ...]:
    return result.event_id, max(1, round(result.ttl * 1000)), result.body


def _step(step: Step, targets: Targets) -> list[Argument]:
    words: list[Argument] = [step.workflow, max(1, round(step.ttl * 1000)), step.name, step.state]
    words += (0,) if step.result is None else (1, *_result(step.result))
    words += (0,) if step.member is None else (1, *_member(step.member, targets))
    return words


def _member(member: Member, targets: Targets) -> list[Argument]:
    told = (0,) if member.result is None else (1, *_result(member.result))
    return [member.group, member.index, member.size, member.value, *_emits(member.emits, targets), *told]


def _letter(delivery: Delivery, dead: Dead) -> list[Argument]:
    """The dead letter: evidence, then the original entry field by field."""
    words: list[Argument] = [
        "group", delivery.group,
        "entry_id", delivery.entry_id,
        "event_id", dead.event_id,
        "event_type", dead.event_type,
        "reason", dead.reason,
        "error", dead.error,
        "traceback", dead.traceback,
        "attempts", dead.attempts,
        "deliveries", delivery.deliveries,
        "worker", dead.worker or delivery.owner,
    ]  # fmt: skip
    if len(delivery.fields) > _MOST_WORDS:
        return [*words, "fields", msgspec.msgpack.encode(delivery.fields)]
    for index in range(0, len(delivery.fields) - 1, 2):
        words += [b"field:" + delivery.fields[index], delivery.fields[index + 1]]
    return words
