"""What `ordered_by=` and `concurrency=` mean for a handler's events across all workers. Checks names, gates nothing.

A gate is carried out by the engine, beside the stream: so a handler that has one takes its events from one stream.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY, dataclass

from streamtask.errors import ConfigurationError
from streamtask.event import Event, describe
from streamtask.transport.values import Gate


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most so many at a time across all workers: of a handler's events, or of those with one value of a field."""

    limit: int
    _: KW_ONLY
    #: The field (of a task: the parameter). None: all events of the handler count together.
    per: str | None = None
    #: At most this many at once in one worker, beside.
    per_worker: int | None = None

    def __post_init__(self) -> None:
        for name, most in (("a limit", self.limit), ("per_worker", self.per_worker)):
            if most is not None and most < 1:
                raise ConfigurationError(f"Concurrency: {name} is at least 1, got {most}")


def gate_of(
    name: str,
    events: Sequence[type[Event]],
    *,
    ordered_by: str | None,
    concurrency: int | Concurrency | None,
    arguments: Collection[str] | None = None,
) -> Gate | None:
    """The gate of a handler's events; None: only the workers limit them. `arguments`: those of a task's call.

    Raises:
        ConfigurationError: an event has no such field, or they come from several streams; the message names `name`.
    """
    across = concurrency if isinstance(concurrency, Concurrency) else None
    if ordered_by is None and across is None:
        return None
    if ordered_by is not None and across is not None:
        raise ConfigurationError(
            f"{name}: ordered_by runs one event of a value at a time; a Concurrency across all workers does not go "
            "with it (a number, at most so many in one worker, does)"
        )
    streams = sorted({stream for event in events for stream in describe(event).lanes})
    if len(streams) > 1:
        raise ConfigurationError(
            f"{name}: its events are of several streams ({', '.join(streams)}), and ordered_by or Concurrency hold "
            "within one: write a handler for each; events with priorities have a stream for each of these"
        )
    field = ordered_by if across is None else across.per
    word = "ordered_by" if across is None else "Concurrency(per=...)"
    path: tuple[str, ...] = ()
    if field is not None:
        path = (field,) if arguments is None else ("arguments", field)
        _check(name, word, field, events, arguments)
    return Gate(
        # Keeps its meaning when the function is renamed, or when it takes one more type.
        name=describe(events[0]).type,
        types=tuple(describe(event).type for event in events),
        path=path,
        limit=1 if across is None else across.limit,
        ordered=across is None,
    )


def _check(name: str, word: str, field: str, events: Sequence[type[Event]], arguments: Collection[str] | None) -> None:
    if arguments is not None:
        if field not in arguments:
            raise ConfigurationError(f"{name}: {word} names {field!r}, which is no parameter of it")
        return
    for event in events:
        if field not in event.model_fields:
            raise ConfigurationError(f"{name}: {word} names {field!r}, which is no field of {event.__qualname__}")
