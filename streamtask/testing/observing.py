"""What one run has left, in the broker and outside, and how that of another run differs from it."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from streamtask.testing.effects import Recorder
from streamtask.testing.memory import InMemoryApp
from streamtask.testing.report import Finding
from streamtask.transport.memory.store import fields_of
from streamtask.transport.values import Delivery

#: Characters of a value that a finding shows.
_SHOWN = 200

Observe = Callable[[], Any | Awaitable[Any]]

_REPEATED = (
    "an effect that a repeat does again: give whom you call the event's id (`ctx.envelope.event_id`) as its "
    "idempotency key, or write it where a second time changes nothing"
)
_LOST = "an effect that a repeat leaves out: note that it is done after it is done, or in one transaction with it"
_OUTSIDE = "what is outside differs: write it so that a second time changes nothing, in one transaction with its mark"
_PUBLISHED = "`app.publish` in a handler is done again by a repeat: return the event, or `ctx.emit` it"
_TWO_DELIVERIES = "two deliveries of one event are handled twice: give the event a `key=`, or the handler `dedupe=`"
_RESULT = "a task's result that a repeat changes: whoever asks later is told something else"
_DIED = "a fault that passes must not be the end of the event: let it be retried"
_UNFINISHED = "it never comes to an end: see what it waits for"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run has left."""

    #: Type -> the ids of what was published and emitted beside the event itself, in order.
    emitted: Mapping[str, tuple[str, ...]]
    results: Mapping[str, bytes]
    #: Reason and error of what died.
    dead: tuple[str, ...]
    #: Entries that are still not done.
    unfinished: int
    #: Effects by their call, and by their name alone.
    effects: Counter[str]
    effect_names: Counter[str]
    outside: Any

    def told(self) -> Iterator[str]:
        """What it is, for people."""
        yield from (f"{name} × {n}" for name, n in self.effects.items())
        yield from (f"{type_} × {len(ids)}" for type_, ids in self.emitted.items())
        if self.results:
            yield f"result × {len(self.results)}"
        if self.outside is not None:
            yield _short(self.outside)


async def look(memory: InMemoryApp, event_id: str, *, effects: Recorder | None, observe: Observe | None) -> Seen:
    """What there is now."""
    store, now = memory.connector.store, memory.clock.now()
    emitted: dict[str, list[str]] = {}
    with store.lock:
        states = list(store.streams.values())
        delayed = [
            Delivery(each.item.stream, "", "", "", fields_of(each.item))
            for state in states
            for each in state.delayed.values()
        ]
        results = {event_id: body for state in states for event_id, body in state.results.items(now)}
        unfinished = sum(len(group.pending) for state in states for group in state.log.groups.values())
    for delivery in [*store.arrived, *delayed]:
        envelope = memory.app.broker.decode(delivery)
        if envelope.event_id != event_id:
            emitted.setdefault(envelope.event_type, []).append(envelope.event_id)
    outside = None if observe is None else observe()
    if inspect.isawaitable(outside):
        outside = await outside
    return Seen(
        emitted={type_: tuple(ids) for type_, ids in emitted.items()},
        results=results,
        dead=tuple(f"{letter.reason}: {letter.error}" for letter in store.letters),
        unfinished=unfinished,
        effects=Counter() if effects is None else effects.happened(),
        effect_names=Counter() if effects is None else effects.happened(with_arguments=False),
        outside=_copied(outside),
    )


def comparable(one: Seen, other: Seen) -> Seen:
    """Two undisturbed runs as what others are compared with: without what differs between them by itself.

    Raises:
        ValueError: `observe` gave two values.
    """
    if one.outside != other.outside:
        raise ValueError(
            "observe() gave two values for two undisturbed runs, so nothing can be compared with it; leave out what is "
            f"random or of time, and see that reset() resets: {_short(one.outside)} and {_short(other.outside)}"
        )
    if one.effects != other.effects:
        one = replace(one, effects=one.effect_names)
    if one.results != other.results:
        one = replace(one, results=dict.fromkeys(one.results, b""))
    return one


def differences(expected: Seen, seen: Seen) -> Iterator[Finding]:
    """What is otherwise than expected."""
    yield from (Finding(f"it became a dead letter ({each})", _DIED) for each in seen.dead)
    if seen.unfinished:
        yield Finding(f"{seen.unfinished} deliveries are not done", _UNFINISHED)
    effects = seen.effects if expected.effects != expected.effect_names else seen.effect_names
    for name, was, n in _counts(expected.effects, effects):
        yield Finding(f"{name} happened {_times(n)}, expected {was}", _REPEATED if n > was else _LOST)
    yield from _emitted(expected, seen)
    yield from _results(expected, seen)
    if seen.outside != expected.outside:
        yield from (Finding(what, _OUTSIDE) for what in _values(expected.outside, seen.outside))


def _emitted(expected: Seen, seen: Seen) -> Iterator[Finding]:
    for type_, was, n in _counts(_lengths(expected.emitted), _lengths(seen.emitted)):
        ids = seen.emitted.get(type_, ())
        again = _TWO_DELIVERIES if len(set(ids)) < len(ids) else _PUBLISHED
        yield Finding(f"{type_} was published {_times(n)}, expected {was}", again if n > was else _LOST)


def _results(expected: Seen, seen: Seen) -> Iterator[Finding]:
    for event_id, body in expected.results.items():
        found = seen.results.get(event_id)
        if found is None:
            yield Finding("there is no result", _RESULT)
        elif body and found != body:
            yield Finding(f"the result is {found.decode()}, expected {body.decode()}", _RESULT)


def _lengths(emitted: Mapping[str, tuple[str, ...]]) -> Counter[str]:
    return Counter({type_: len(ids) for type_, ids in emitted.items()})


def _counts(expected: Counter[str], seen: Counter[str]) -> Iterator[tuple[str, int, int]]:
    """Name, expected and seen count of what differs."""
    for name in dict.fromkeys([*expected, *seen]):
        if expected[name] != seen[name]:
            yield name, expected[name], seen[name]


def _values(expected: Any, seen: Any) -> Iterator[str]:
    if isinstance(expected, Mapping) and isinstance(seen, Mapping):
        for key in dict.fromkeys([*expected, *seen]):
            if key not in seen:
                yield f"{_short(key)} is not there, expected {_short(expected[key])}"
            elif key not in expected or expected[key] != seen[key]:
                was = _short(expected[key]) if key in expected else "nothing"
                yield f"{_short(key)} is {_short(seen[key])}, expected {was}"
    else:
        yield f"observe() gave {_short(seen)}, expected {_short(expected)}"


def _copied(outside: Any) -> Any:
    """A value as it is now: `observe` may give what changes later."""
    try:
        return copy.deepcopy(outside)
    except TypeError as error:
        raise TypeError(f"observe() gives a plain value, which can be copied; this cannot: {error}") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times" if n else "never"
