"""Who handles what: events and handlers → the streams and groups that are read. Decides nothing about an event."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from streamtask.errors import ConfigurationError
from streamtask.event import Event, EventType, describe
from streamtask.handler import Handler
from streamtask.lanes import NORMAL, home, priority_of
from streamtask.transport.values import Gate, Subscription, TypeVersion


@dataclass(slots=True)
class Reading:
    """What one group handles of one stream."""

    start: str | datetime = "earliest"
    handlers: dict[str, tuple[Handler, EventType]] = field(default_factory=dict)


class Catalog:
    """The event classes and handlers of an app."""

    def __init__(self, name: str) -> None:
        """`name`: the group of handlers that name none."""
        self._name = name
        #: By stream and group.
        self.readings: dict[tuple[str, str], Reading] = {}
        self._classes: dict[str, type[Event]] = {}
        #: The first class that declares the priorities of a stream.
        self._lanes: dict[str, EventType] = {}

    def add(self, handler: Handler) -> None:
        """Register a handler.

        Raises:
            ConfigurationError: another handler of its group takes one of its events, or two classes share a type.
        """
        group = handler.group or self._name
        for cls in handler.events:
            self.know(cls)
            described = describe(cls)
            for stream in described.lanes:
                reading = self.readings.setdefault((stream, group), Reading(start=handler.start))
                other = reading.handlers.get(described.type)
                if other is not None:
                    raise ConfigurationError(
                        f"group {group!r} has two handlers for {described.type}: {other[0].name} and {handler.name}; "
                        "give one of them another group"
                    )
                reading.handlers[described.type] = (handler, described)

    def know(self, cls: type[Event]) -> EventType:
        """Take an event class into the catalog.

        Raises:
            ConfigurationError: another class has the same type, or its stream other priorities; the message names both.
        """
        described = describe(cls)
        known = self._classes.setdefault(described.type, cls)
        if known is not cls:
            raise ConfigurationError(
                f"two event classes have the type {described.type!r}: {known.__module__}.{known.__qualname__} and "
                f"{cls.__module__}.{cls.__qualname__}; give one of them another `type=`"
            )
        if described.priorities:
            first = self._lanes.setdefault(described.stream, described)
            if first.priorities != described.priorities:
                raise ConfigurationError(
                    f"two event classes of the stream {described.stream!r} declare other priorities: "
                    f"{first.cls.__module__}.{first.cls.__qualname__} {first.priorities} and "
                    f"{cls.__module__}.{cls.__qualname__} {described.priorities}"
                )
        return described

    @property
    def types(self) -> Mapping[str, type[Event]]:
        """Every event class that was registered or published, by type."""
        return self._classes

    def subscriptions(self, groups: Collection[str] = (), streams: Collection[str] = ()) -> list[Subscription]:
        """What a worker reads, all or only the groups and streams named (with their lanes): what goes first, first."""
        found = [
            Subscription(
                stream=stream,
                group=group,
                start=reading.start,
                handles=self._handles(reading),
                gates=self._gates(reading),
            )
            for (stream, group), reading in self.readings.items()
            if (not groups or group in groups) and (not streams or stream in streams or home(stream) in streams)
        ]
        return sorted(found, key=lambda sub: self.rank(sub.stream))

    def lanes(self, stream: str) -> tuple[str, ...]:
        """The streams of all priorities of a stream, as far as its classes are known here."""
        declared = self._lanes.get(stream)
        return (stream,) if declared is None else declared.lanes

    def rank(self, stream: str) -> int:
        """How many priorities lie between a stream and `normal`: below 0 for those that go before it."""
        declared = self._lanes.get(home(stream))
        if declared is None:
            return 0
        return declared.priorities.index(priority_of(stream)) - declared.priorities.index(NORMAL)

    @staticmethod
    def _handles(reading: Reading) -> frozenset[TypeVersion]:
        return frozenset(
            (type_, version)
            for type_, (handler, described) in reading.handlers.items()
            for version in describe(described.cls).versions
        )

    @staticmethod
    def _gates(reading: Reading) -> tuple[Gate, ...]:
        found = {id(handler): handler.gate for handler, _ in reading.handlers.values() if handler.gate is not None}
        return tuple(sorted(found.values(), key=lambda gate: (not gate.ordered, gate.limit, gate.name)))

    def handler(self, stream: str, group: str, type_: str) -> Handler | None:
        """The handler of a type in a group."""
        reading = self.readings.get((stream, group))
        found = reading and reading.handlers.get(type_)
        return found[0] if found else None

    def handlers(self, *places: tuple[str, str]) -> list[Handler]:
        """The handlers of some (stream, group), each once."""
        readings = [self.readings[place] for place in places if place in self.readings]
        return list({id(handler): handler for reading in readings for handler, _ in reading.handlers.values()}.values())
