"""Serializers other than JSON: kombu's, by the names under which kombu or the user registered them.

Resolved once, proved by a trial, and read within bounds. Pickle never is. Imported when an app names one, and not
before: kombu takes its time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from kombu import serialization
from kombu.exceptions import DecodeError, EncodeError, SerializerNotInstalled

from streamtask.errors import ConfigurationError, EnvelopeError, EnvelopeTooLargeError, EventRefusedError

try:
    import yaml  # type: ignore[import-untyped, import-not-found, unused-ignore] # an extra
except ImportError:
    yaml = None  # type: ignore[assignment, unused-ignore]

_PICKLE = ("pickle", "application/x-python-serialize")
#: The extra that brings the package for a serializer, by content type.
_EXTRAS = {"application/x-msgpack": "msgpack", "application/x-yaml": "yaml"}
_YAML = "application/x-yaml"
_YAML_DEPTH = 100
#: Characters of a foreign text that an error shows.
_SHOWN = 160

# kombu's public functions: they look a serializer up by name and turn whatever it raises into two errors, for 1.4 µs.
_dumps: Callable[..., tuple[str, str, str | bytes]] = serialization.dumps
_loads: Callable[..., object] = serialization.loads


@dataclass(frozen=True, slots=True)
class Serializer:
    """A registered serializer that is known to work here."""

    name: str
    content_type: str

    def write(self, body: bytes, limit: int) -> bytes:
        """An envelope's JSON in this format.

        Raises `EventRefusedError` (without an id) for what would not come back as it is.
        """
        plain = msgspec.json.decode(body)
        try:
            written = self._dumped(plain)
            same = msgspec.json.decode(self.read(written, limit)) == plain
        except (EncodeError, EnvelopeError) as error:
            raise EventRefusedError(f"{self.name} cannot carry this event: {error}", event_id="") from error
        if not same:
            raise EventRefusedError(f"{self.name} does not carry this event unchanged", event_id="")
        return written

    def read(self, body: bytes, limit: int) -> bytes:
        """An envelope's JSON out of this format. Raises `EnvelopeTooLargeError` or `EnvelopeError`."""
        try:
            if self.content_type == _YAML:
                _check_yaml(body)
            plain = self._loaded(body)
            _check_plain(plain, limit)
            written = msgspec.json.encode(plain)
        except DecodeError as error:
            raise EnvelopeError(f"the entry is no {self.name}: {shown(str(error))}") from error
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise EnvelopeError(f"the entry cannot be an envelope: {shown(str(error))}") from error
        if len(written) > limit:
            raise EnvelopeTooLargeError(len(written), limit)
        return written

    def works(self) -> bool:
        """Whether it gives back what it was given."""
        return self._loaded(self._dumped({"probe": 1})) == {"probe": 1}

    def _dumped(self, plain: object) -> bytes:
        """Raises `EncodeError` whatever the serializer raised."""
        written = _dumps(plain, serializer=self.name)[2]
        return written.encode() if isinstance(written, str) else written

    def _loaded(self, body: bytes) -> object:
        """Raises `DecodeError` whatever the serializer raised."""
        return _loads(body, self.content_type, "binary", accept=(self.content_type,))


def serializer(word: str) -> Serializer:
    """Resolve a name or content type, and make sure that what it needs is installed. Raises ConfigurationError."""
    names, types = serialization.registry.type_to_name, serialization.registry.name_to_type
    name, content_type = (names.get(word), word) if "/" in word else (word, types.get(word))
    if word in _PICKLE or name in _PICKLE or content_type in _PICKLE:
        raise ConfigurationError("pickle runs code that the producer chooses; streamtask never reads or writes it")
    if name is None or content_type is None:
        known = ", ".join(sorted(set(types) - {"pickle"}))
        raise ConfigurationError(f"no serializer {word!r} is registered with kombu; known: {known}")
    found = Serializer(name, content_type)
    try:
        works = found.works()
    except SerializerNotInstalled as error:
        extra = _EXTRAS.get(content_type)
        hint = f": install streamtask with the extra [{extra}]" if extra else f": {error}"
        raise ConfigurationError(f"serializer {word!r} is not installed{hint}") from error
    except (EncodeError, DecodeError) as error:
        raise ConfigurationError(f"serializer {word!r} does not work: {error}") from error
    if not works:
        raise ConfigurationError(f"serializer {word!r} does not give back what it was given")
    return found


def shown(text: str) -> str:
    """A foreign text as an error shows it."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _check_yaml(body: bytes) -> None:
    """Refuse references before they are followed, and depth before it is reached.

    Merging references (`<<`) doubles a mapping with every line, and PyYAML's scanner is quadratic in depth.
    """
    if yaml is None:
        return  # the serializer of this name is the user's own, and so is what it accepts
    depth = 0
    try:
        for each in yaml.parse(body, Loader=yaml.SafeLoader):
            depth += isinstance(each, yaml.CollectionStartEvent) - isinstance(each, yaml.CollectionEndEvent)
            if depth > _YAML_DEPTH:
                raise EnvelopeError(f"YAML more than {_YAML_DEPTH} levels deep is not accepted")
            if isinstance(each, yaml.AliasEvent):
                raise EnvelopeError("YAML with references is not accepted: a few bytes of them fill the memory")
    except yaml.YAMLError as error:
        raise EnvelopeError(f"the entry is no yaml: {shown(str(error))}") from error


def _check_plain(plain: object, limit: int) -> None:
    """Refuse what JSON would not hold, or would hold at more than `limit` bytes.

    Counted before it is written: nested references in YAML, or one that holds itself, are small here and endless there.
    """
    if not isinstance(plain, dict):
        raise EnvelopeError(f"an envelope is an object, this is {type(plain).__name__}")
    size = 0
    todo: list[Any] = [plain]
    while todo:
        each = todo.pop()
        size += len(each) + 2 if isinstance(each, str | bytes) else 1
        if size + len(todo) > limit:
            raise EnvelopeTooLargeError(size + len(todo), limit)
        if isinstance(each, dict):
            if not all(isinstance(key, str) for key in each):
                raise EnvelopeError("an object has a key that is no string")
            size += sum(map(len, each))
            todo.extend(each.values())
        elif isinstance(each, list | tuple):
            todo.extend(each)
        elif isinstance(each, float) and not math.isfinite(each):
            raise EnvelopeError(f"{each} is no JSON")
