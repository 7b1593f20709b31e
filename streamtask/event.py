"""Events: pydantic models that know their stream, type, version and key, and how they get on the wire and back.

What an event class declares stands under one private class attribute, as an `EventType`, so that payload fields may be
called `type` or `key`. `dump` refuses at the producer what a consumer could not read back; `load` turns whatever is
wrong with a payload into one `PayloadError`. Nothing here knows of transports or handlers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar, Unpack

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json, to_jsonable_python

from streamtask.envelope import MAX_NAME
from streamtask.errors import ConfigurationError, EventRefusedError, PayloadError
from streamtask.lanes import NORMAL, lane, ordered
from streamtask.plain import plain_fields

#: Makes the next version's payload out of an older one's.
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
_UpcasterT = TypeVar("_UpcasterT", bound=Upcaster)
_EventT = TypeVar("_EventT", bound="Event")

_STREAM = re.compile(r"[A-Za-z0-9._:-]{1,200}")
_PREFIX = "stream:"
#: Bytes of a payload in which no number is too long to be read.
_SMALL = 4000
#: Problems that an error names before it only counts, and the longest text of each, in characters.
_SHOWN = 5
_SHOWN_LENGTH = 160
#: Above this many problems only their number is told: a list of 500,000 takes a second and hundreds of megabytes.
_LISTED = 1000

# ── what a class declares ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class EventType:
    """What an event class declares."""

    cls: type[Event]
    #: The short name, `orders`; empty for a base class that only passes its settings on.
    stream: str
    type: str
    version: str
    #: The fields that together identify an event; empty where it has no identity.
    key: tuple[str, ...] = ()
    #: What may be published before or behind others, from the highest to the lowest; empty where there is one stream.
    priorities: tuple[str, ...] = ()
    #: From older versions, in natural order, each to the next.
    upcasters: Mapping[str, Upcaster] = field(default_factory=dict)
    #: Of each field the types whose values come back from the wire as they are; empty where that is not known.
    plain: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    #: Every version that can be read: the current one and those that can be upcast to it.
    versions: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "versions", frozenset((self.version, *self.upcasters)))

    @property
    def lanes(self) -> tuple[str, ...]:
        """The streams that its events are in, those of the highest priority first."""
        return tuple(lane(self.stream, priority) for priority in self.priorities) or (self.stream,)

    def stream_of(self, priority: str | None) -> str:
        """The stream of what is published with a priority. Raises ConfigurationError: it has no such one."""
        if priority is None or priority == NORMAL:
            return self.stream
        if priority not in self.priorities:
            known = f"it has {', '.join(self.priorities)}; " if self.priorities else ""
            raise ConfigurationError(
                f"{_name(self.cls)} has no priority {priority!r}; {known}declare it, the highest first: "
                f"class {self.cls.__name__}(Event, stream=..., priorities=('high', 'low')), of a task "
                "@app.task(priorities=('high', 'low'))"
            )
        return lane(self.stream, priority)

    def upcast(self, version: str, upcaster: Upcaster) -> EventType:
        """The same type, able to read `version` too."""
        _check_name(self.cls, "version", version)
        if version == self.version:
            raise ConfigurationError(f"{_name(self.cls)}: {version!r} is the current version, nothing to upcast")
        if (other := self.upcasters.get(version)) is not None:
            raise ConfigurationError(
                f"{_name(self.cls)}: version {version!r} has two upcasters, {_name(other)} and {_name(upcaster)}"
            )
        known = {**self.upcasters, version: upcaster}
        return replace(self, upcasters={each: known[each] for each in sorted(known, key=_natural)})


class Event(BaseModel):
    """A fact that has happened: a pydantic model with a stream, a type, a version and, if it has one, a key.

    `class OrderPlaced(Event, stream="orders", key="order_id")`. `stream`, `key` and `priorities` are inherited; `type`
    is the class name and `version` is "v1" unless given. A base class without a stream passes the rest on and is itself
    no event. `priorities=("high", "low")`: what it may be published with, the highest first.
    """

    model_config = ConfigDict(
        allow_inf_nan=False,
        extra="ignore",
        populate_by_name=True,
        protected_namespaces=(),
        ser_json_bytes="base64",
        val_json_bytes="base64",
    )

    __event_type__: ClassVar[EventType]

    def __init_subclass__(
        cls,
        *,
        stream: str | None = None,
        type: str | None = None,
        version: str = "v1",
        key: str | tuple[str, ...] | None = None,
        priorities: tuple[str, ...] | None = None,
        **config: Unpack[ConfigDict],
    ) -> None:
        # The keywords are for `__pydantic_init_subclass__`, which runs when the fields are known.
        super().__init_subclass__(**config)

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        stream: str | None = None,
        type: str | None = None,
        version: str = "v1",
        key: str | tuple[str, ...] | None = None,
        priorities: tuple[str, ...] | None = None,
        **config: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**config)
        inherited: EventType | None = getattr(cls, "__event_type__", None)
        declared = EventType(
            cls=cls,
            stream=_stream(cls, stream) if stream is not None else inherited.stream if inherited else "",
            type=cls.__name__ if type is None else type,
            version=version,
            key=_key(cls, key) if key is not None else inherited.key if inherited else (),
            priorities=(
                _priorities(cls, priorities) if priorities is not None else inherited.priorities if inherited else ()
            ),
            plain=plain_fields(cls, Event),
        )
        _check_name(cls, "type", declared.type)
        _check_name(cls, "version", declared.version)
        cls.__event_type__ = declared

    @classmethod
    def upcast(cls, version: str) -> Callable[[_UpcasterT], _UpcasterT]:
        """Register a function that makes the next version's payload out of `version`'s.

        The next version is the next one that is registered, in natural order (v2 before v10), else the current one.
        """

        def register(upcaster: _UpcasterT) -> _UpcasterT:
            cls.__event_type__ = describe(cls).upcast(version, upcaster)
            return upcaster

        return register


def describe(cls: type[Event]) -> EventType:
    """What an event class declares, as of now: upcasters may still be added after the class."""
    declared: EventType | None = getattr(cls, "__event_type__", None)
    if declared is None or not declared.stream:
        raise ConfigurationError(
            f"{_name(cls)} has no stream: class {getattr(cls, '__name__', 'X')}(Event, stream=...)"
        )
    return declared


def _stream(cls: type[Event], stream: str) -> str:
    short = stream.removeprefix(_PREFIX) if isinstance(stream, str) else ""
    if not _STREAM.fullmatch(short):
        raise ConfigurationError(
            f"{_name(cls)}: a stream has 1 to 200 letters, digits, '.', '_', ':' or '-', got {stream!r}"
        )
    return short


def _key(cls: type[Event], key: str | tuple[str, ...]) -> tuple[str, ...]:
    names = (key,) if isinstance(key, str) else key
    if not isinstance(names, tuple) or not names:
        raise ConfigurationError(f"{_name(cls)}: key is a field's name or a tuple of them, got {key!r}")
    for name in names:
        if name not in cls.model_fields:
            raise ConfigurationError(f"{_name(cls)}: key names {name!r}, which is no field of it")
    return names


def _priorities(cls: type[Event], priorities: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return ordered(priorities)
    except ValueError as error:
        raise ConfigurationError(f"{_name(cls)}: {error}") from None


def _check_name(cls: type[Event], what: str, name: str) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ConfigurationError(f"{_name(cls)}: {what} is a printable text of at most {MAX_NAME} characters: {name!r}")


def _name(thing: Callable[..., object]) -> str:
    return f"{thing.__module__}.{getattr(thing, '__qualname__', repr(thing))}"


def _natural(version: str) -> tuple[list[str | int], str]:
    # Split at digits, texts stand at even places and numbers at odd ones: always comparable.
    parts = re.split(r"([0-9]+)", version)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], version


# ── to the wire ───────────────────────────────────────────────────────────────────────────────────────────────────


def dump(event: Event) -> bytes:
    """The payload as JSON. Raises `EventRefusedError` (without an id) for what would not come back as it is.

    Reading back is the only check that holds for every type a user may declare. It takes longer than writing, so it is
    left out where it has one answer, and it spares a dead letter for each event that cannot be read.
    """
    cls = type(event)
    try:
        # Without pydantic's own warnings, which take longer than writing and reading: what matters is what comes back.
        payload = cls.__pydantic_serializer__.to_json(event, warnings=False, by_alias=False)
        if _is_plain(event, payload):
            return payload
        back = cls.__pydantic_validator__.validate_json(payload)
        same = event.__dict__ == back.__dict__ and event.__pydantic_extra__ == back.__pydantic_extra__
        change = None if same else _change(event, back)
    except ValidationError as error:
        raise _refused(cls, _unwritable(event) or f"a consumer could not read it: {_problems(error)}") from None
    except Exception as error:  # serializers, validators and comparisons are the user's: they raise what they like
        raise _refused(cls, _unwritable(event) or _reason(error)) from error
    if change is not None:
        raise _refused(cls, _unwritable(event) or change)
    return payload


def _is_plain(event: Event, payload: bytes) -> bool:
    """Whether this would be read back as it is, without looking: as `EventType.plain` says."""
    values, plain = event.__dict__, event.__event_type__.plain
    for name, types in plain.items():
        value = values.get(name, ...)
        kind = type(value)
        # JSON has no word for what is no number, or endless.
        if kind not in types or (kind is float and value - value != 0.0):
            return False
    # Integers of thousands of digits are refused.
    return bool(plain) and len(payload) <= _SMALL


def key_of(event: Event) -> str | None:
    """The event's identity as one text, or None where it has none: no key, or a key field that is None.

    A key of one field is that field's text. Several are a JSON array, so that no two different keys give one text.
    """
    names = describe(type(event)).key
    if not names:
        return None
    values = [getattr(event, name) for name in names]
    if None in values:
        return None  # events without an identity are never duplicates of each other
    if len(values) == 1 and type(values[0]) is str:
        return values[0]
    try:
        parts = to_jsonable_python(values, bytes_mode="base64")
        return parts[0] if len(parts) == 1 and isinstance(parts[0], str) else to_json(_single(parts)).decode()
    except ValueError as error:
        raise _refused(type(event), f"the key ({', '.join(names)}) cannot be written: {_reason(error)}") from error


def _single(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else parts


def _unwritable(event: Event) -> str | None:
    """Which field cannot be written; pydantic's own message quotes the value and, in places, not the name."""
    cls = type(event)
    for name, value in (event.__dict__ | (event.__pydantic_extra__ or {})).items():
        try:
            cls.__pydantic_serializer__.to_json(event, include={name}, warnings="error", by_alias=False)
        except Exception:  # noqa: BLE001 - it is being reported already; asked here is only which field it is
            return f"field {name!r} cannot be written as it is declared: its value is {_type(value)}"
    return None


def _change(event: Event, back: Event) -> str | None:
    """Which field came back changed. Other things in `__dict__`, such as cached properties, do not travel."""
    fields = type(event).model_fields
    before = {name: event.__dict__.get(name) for name in fields} | (event.__pydantic_extra__ or {})
    after = {name: back.__dict__.get(name) for name in fields} | (back.__pydantic_extra__ or {})
    for name, value in before.items():
        if name not in after or value != after[name]:
            came, went = _type(after.get(name)), _type(value)
            became = "another value" if came == went else came
            return f"field {name!r} does not survive the wire: {went} would be read back as {became}"
    return None


def _type(value: object) -> str:
    return "None" if value is None else type(value).__qualname__


def _refused(cls: type[Event], message: str) -> EventRefusedError:
    return EventRefusedError(f"{cls.__name__} cannot be published: {message}", event_id="")


# ── from the wire ─────────────────────────────────────────────────────────────────────────────────────────────────


def load(cls: type[_EventT], payload: bytes, version: str) -> _EventT:
    """Read an event from its payload's JSON, through the upcasters of an older version.

    Raises `PayloadError` for all that can be wrong with the payload, upcasters and validators that fail included.
    """
    try:
        if version != cls.__event_type__.version:
            payload = _upcast(describe(cls), payload, version)
        event: _EventT = cls.__pydantic_validator__.validate_json(payload)
    except PayloadError:
        raise
    except ValidationError as error:
        # Without its cause, whose text quotes the input.
        raise PayloadError(f"{describe(cls).type} {_short(version)}: {_problems(error)}") from None
    except Exception as error:  # validators are the user's: they raise what they like
        raise PayloadError(f"{describe(cls).type} {_short(version)}: {_reason(error)}") from error
    return event


def _upcast(declared: EventType, payload: bytes, version: str) -> bytes:
    if version not in declared.upcasters:
        known = ", ".join(sorted(declared.versions, key=_natural))
        raise PayloadError(f"{declared.type}: version {_short(version)} is unknown; known: {_short(known)}")
    plain = from_json(payload, allow_inf_nan=False)
    since = _natural(version)
    for older, upcaster in declared.upcasters.items():
        if _natural(older) < since:
            continue
        if not isinstance(plain, dict):
            raise PayloadError(f"{declared.type} {_short(older)}: the payload is {_type(plain)}, not an object")
        try:
            plain = upcaster(plain)
        except Exception as error:  # an upcaster is the user's: it raises what it likes
            raise PayloadError(f"{declared.type} {older}: upcaster {_name(upcaster)}: {_reason(error)}") from error
    # As JSON again, for pydantic reads bytes, dates and the like differently from plain objects.
    return to_json(plain, bytes_mode="base64")


# ── what errors say ───────────────────────────────────────────────────────────────────────────────────────────────


def _problems(error: ValidationError) -> str:
    """The first problems with the names of their fields, and never the input: it may be long, or secret."""
    if error.error_count() > _LISTED:
        return f"{error.error_count()} problems"
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [_problem(each["loc"], each["msg"]) for each in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        shown.append(f"and {len(problems) - _SHOWN} more")
    return "; ".join(shown)


def _problem(place: tuple[int | str, ...], message: str) -> str:
    name = ".".join(str(part) for part in place)
    return f"{_short(name)}: {_short(message)}" if name else _short(message)


def _reason(error: Exception) -> str:
    if isinstance(error, PydanticSerializationError):
        return _short(str(error))
    return f"{type(error).__name__}: {_short(str(error))}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else text[:_SHOWN_LENGTH] + "..."
