"""Codecs: an envelope's JSON to the bytes of a stream entry and back, where an app wants other than plain JSON.

Serializers are kombu's, by the names under which kombu or the user registered them; they are resolved once. What is
written names itself in the entry (`content_type`, `content_encoding`); what is read must be among the content types
that were accepted beforehand, JSON always being one. Pickle never is. Output is bounded while it is decompressed.
Compression is done here and not by kombu, whose `gzip` writes zlib's format and whose decompression has no bound.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from kombu import serialization
from kombu.exceptions import DecodeError, EncodeError, SerializerNotInstalled

from streamtask.envelope import MAX_BYTES
from streamtask.errors import ConfigurationError, EnvelopeError, EnvelopeTooLargeError, EventRefusedError

try:
    import yaml  # type: ignore[import-untyped, import-not-found, unused-ignore] # an extra, and without type stubs
except ImportError:
    yaml = None

_JSON = "application/json"
_PICKLE = ("pickle", "application/x-python-serialize")
#: The extra that brings the package for a serializer, by content type.
_EXTRAS = {"application/x-msgpack": "msgpack", "application/x-yaml": "yaml"}
_YAML = "application/x-yaml"
_YAML_DEPTH = 100
#: Memory that one lzma stream may ask for: enough for what `xz -9` writes.
_LZMA_MEMORY = 80 << 20
#: Characters of a foreign text that an error shows.
_SHOWN = 160

# ── compression ───────────────────────────────────────────────────────────────────────────────────────────────────


class _Decompressor(Protocol):
    """What the three standard decompressors have in common, used with a bound on the output."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Compression:
    """One compression: the word in the entry, and both ways."""

    name: str
    compress: Callable[[bytes], bytes]
    decompressor: Callable[[], _Decompressor]


def _inflater() -> _Decompressor:
    # 32: finds out by itself whether it is gzip's or zlib's format, as producers mix up the two words.
    return zlib.decompressobj(32 + zlib.MAX_WBITS)


_COMPRESSIONS = (
    _Compression("gzip", lambda data: zlib.compress(data, wbits=16 + zlib.MAX_WBITS), _inflater),
    _Compression("zlib", zlib.compress, _inflater),
    _Compression("bz2", bz2.compress, bz2.BZ2Decompressor),
    _Compression("lzma", lzma.compress, lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)),
)
#: By every word that may stand in an entry: ours, kombu's, HTTP's.
_BY_WORD = {each.name: each for each in _COMPRESSIONS} | {
    "application/x-gzip": _COMPRESSIONS[0],
    "x-gzip": _COMPRESSIONS[0],
    "deflate": _COMPRESSIONS[1],
    "application/x-bz2": _COMPRESSIONS[2],
    "bzip2": _COMPRESSIONS[2],
    "application/x-lzma": _COMPRESSIONS[3],
    "xz": _COMPRESSIONS[3],
}
#: Words that name no compression. AMQP's libraries put the character set here.
_PLAIN_WORDS = frozenset({"", "identity", "utf-8", "utf8", "us-ascii", "binary"})


def _decompress(compression: _Compression, body: bytes, limit: int) -> bytes:
    decompressor = compression.decompressor()
    parts, size, data = [], 0, body
    try:
        while not decompressor.eof and size <= limit:
            part = decompressor.decompress(data, limit + 1 - size)
            # What zlib has not looked at yet it gives back; the other two keep it.
            data = getattr(decompressor, "unconsumed_tail", b"")
            if not part and not data:
                break
            parts.append(part)
            size += len(part)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise EnvelopeError(f"the entry is no {compression.name}: {error}") from error
    if size > limit:
        raise EnvelopeTooLargeError(size, limit)
    if not decompressor.eof or decompressor.unused_data:
        raise EnvelopeError(f"the entry's {compression.name} is cut short or followed by something else")
    return b"".join(parts)


# ── serializers ───────────────────────────────────────────────────────────────────────────────────────────────────

# kombu's public functions: they look a serializer up by name and turn whatever it raises into two errors, for 1.4 µs.
_dumps: Callable[..., tuple[str, str, str | bytes]] = serialization.dumps
_loads: Callable[..., object] = serialization.loads


@dataclass(frozen=True, slots=True)
class _Serializer:
    """A registered serializer that is known to work here."""

    name: str
    content_type: str

    def dumps(self, plain: object) -> bytes:
        """Raises `EncodeError` whatever the serializer raised."""
        written = _dumps(plain, serializer=self.name)[2]
        return written.encode() if isinstance(written, str) else written

    def loads(self, body: bytes) -> object:
        """Raises `DecodeError` whatever the serializer raised."""
        return _loads(body, self.content_type, "binary", accept=(self.content_type,))


def _serializer(word: str) -> _Serializer:
    """Resolve a name or content type, and make sure that what it needs is installed."""
    names, types = serialization.registry.type_to_name, serialization.registry.name_to_type
    name, content_type = (names.get(word), word) if "/" in word else (word, types.get(word))
    if word in _PICKLE or name in _PICKLE or content_type in _PICKLE:
        raise ConfigurationError("pickle runs code that the producer chooses; streamtask never reads or writes it")
    if name is None or content_type is None:
        known = ", ".join(sorted(set(types) - {"pickle"}))
        raise ConfigurationError(f"no serializer {word!r} is registered with kombu; known: {known}")
    found = _Serializer(name, content_type)
    try:
        if found.loads(found.dumps({"probe": 1})) != {"probe": 1}:
            raise ConfigurationError(f"serializer {word!r} does not give back what it was given")
    except SerializerNotInstalled as error:
        extra = _EXTRAS.get(content_type)
        hint = f": install streamtask with the extra [{extra}]" if extra else f": {error}"
        raise ConfigurationError(f"serializer {word!r} is not installed{hint}") from error
    except (EncodeError, DecodeError) as error:
        raise ConfigurationError(f"serializer {word!r} does not work: {error}") from error
    return found


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
        raise EnvelopeError(f"the entry is no yaml: {_shown(str(error))}") from error


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


# ── the codec ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Codec:
    """What an app writes its entries with and what it accepts. Immutable; may be shared by threads.

    `codec`: a serializer, "json" by default. `compress`: "gzip", "zlib", "bz2" or "lzma". `accept`: more serializers,
    by name or content type, that may be read; what is written is always accepted, and so is JSON. Compressed entries
    are read by every app. `limit`: the largest envelope, in bytes, before and after decoding.
    """

    def __init__(
        self, *, codec: str = "json", compress: str | None = None, accept: Collection[str] = (), limit: int = MAX_BYTES
    ) -> None:
        if isinstance(accept, str):
            raise ConfigurationError(f"accept is a collection of names, got the text {accept!r}")
        if compress is not None and compress.lower() not in _BY_WORD:
            words = ", ".join(each.name for each in _COMPRESSIONS)
            raise ConfigurationError(f"compression {compress!r} cannot be bounded when read; known: {words}")
        self._limit = limit
        self._compression = None if compress is None else _BY_WORD[compress.lower()]
        self._writer = None if codec in ("json", _JSON) else _serializer(codec)
        readers = [_serializer(word) for word in accept if word not in ("json", _JSON)]
        readers += [self._writer] if self._writer else []
        self._readers = {each.content_type.lower(): each for each in readers}

    def encode(self, body: bytes) -> tuple[bytes, str | None, str | None]:
        """The bytes for an entry, its content type (None: JSON) and its content encoding (None: not compressed).

        Raises `EventRefusedError` (without an id) for what the serializer cannot carry unchanged.
        """
        content_type, content_encoding = None, None
        if self._writer is not None:
            body, content_type = self._write(self._writer, body), self._writer.content_type
        if self._compression is not None:
            body, content_encoding = self._compression.compress(body), self._compression.name
        if len(body) > self._limit:
            raise EventRefusedError(f"the entry has {len(body)} bytes; the limit is {self._limit}", event_id="")
        return body, content_type, content_encoding

    def decode(self, body: bytes, content_type: bytes | None, content_encoding: bytes | None) -> bytes:
        """An envelope's JSON from an entry's bytes. Raises `EnvelopeTooLargeError` or `EnvelopeError`, nothing else."""
        if len(body) > self._limit:
            raise EnvelopeTooLargeError(len(body), self._limit)
        if content_encoding is not None:
            body = self._decompress(body, _word(content_encoding))
        return body if content_type is None else self._read(body, _word(content_type))

    def _write(self, writer: _Serializer, body: bytes) -> bytes:
        plain = msgspec.json.decode(body)
        try:
            written = writer.dumps(plain)
            same = msgspec.json.decode(self._read(written, writer.content_type.lower())) == plain
        except (EncodeError, EnvelopeError) as error:
            raise EventRefusedError(f"{writer.name} cannot carry this event: {error}", event_id="") from error
        if not same:
            raise EventRefusedError(f"{writer.name} does not carry this event unchanged", event_id="")
        return written

    def _decompress(self, body: bytes, word: str) -> bytes:
        if word in _PLAIN_WORDS:
            return body
        compression = _BY_WORD.get(word)
        if compression is None:
            raise EnvelopeError(f"content_encoding {_shown(word)} is not accepted")
        return _decompress(compression, body, self._limit)

    def _read(self, body: bytes, content_type: str) -> bytes:
        if content_type in ("", _JSON):
            return body
        reader = self._readers.get(content_type)
        if reader is None:
            raise EnvelopeError(f"content_type {_shown(content_type)} is not accepted")
        try:
            if content_type == _YAML:
                _check_yaml(body)
            plain = reader.loads(body)
            _check_plain(plain, self._limit)
            written = msgspec.json.encode(plain)
        except DecodeError as error:
            raise EnvelopeError(f"the entry is no {reader.name}: {_shown(str(error))}") from error
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise EnvelopeError(f"the entry cannot be an envelope: {_shown(str(error))}") from error
        if len(written) > self._limit:
            raise EnvelopeTooLargeError(len(written), self._limit)
        return written


def _word(value: bytes) -> str:
    """A content type or encoding without its parameters: `application/json; charset=utf-8`."""
    return value.decode("utf-8", "replace").partition(";")[0].strip().lower()


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
