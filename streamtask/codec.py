"""Codecs: an envelope's JSON to the bytes of a stream entry and back, where an app wants other than plain JSON.

What is written names itself in the entry (`content_type`, `content_encoding`); what is read must be among the content
types that were accepted beforehand, JSON always being one. Output is bounded while it is decompressed.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import Protocol

from streamtask.compression import BY_WORD, COMPRESSIONS, PLAIN_WORDS, decompress
from streamtask.envelope import MAX_BYTES
from streamtask.errors import ConfigurationError, EnvelopeError, EnvelopeTooLargeError, EventRefusedError

_JSON = "application/json"
#: Characters of a foreign word that an error shows.
_SHOWN = 160


class Serializer(Protocol):
    """An envelope's JSON to another format and back (`streamtask.serializers`)."""

    @property
    def content_type(self) -> str:
        """What entries in this format are marked with."""

    def write(self, body: bytes, limit: int) -> bytes:
        """Out of JSON. Raises EventRefusedError for what would not come back as it is."""

    def read(self, body: bytes, limit: int) -> bytes:
        """Into JSON. Raises EnvelopeError."""


def _serializer(word: str) -> Serializer:
    # Late: kombu, which knows the serializers, takes a tenth of a worker's time to start, and most apps write JSON.
    found: Serializer = import_module("streamtask.serializers").serializer(word)
    return found


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
        if compress is not None and compress.lower() not in BY_WORD:
            words = ", ".join(each.name for each in COMPRESSIONS)
            raise ConfigurationError(f"compression {compress!r} cannot be bounded when read; known: {words}")
        self._limit = limit
        self._compression = None if compress is None else BY_WORD[compress.lower()]
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
            body, content_type = self._writer.write(body, self._limit), self._writer.content_type
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

    def _decompress(self, body: bytes, word: str) -> bytes:
        if word in PLAIN_WORDS:
            return body
        compression = BY_WORD.get(word)
        if compression is None:
            raise EnvelopeError(f"content_encoding {_shown(word)} is not accepted")
        return decompress(compression, body, self._limit)

    def _read(self, body: bytes, content_type: str) -> bytes:
        if content_type in ("", _JSON):
            return body
        reader = self._readers.get(content_type)
        if reader is None:
            raise EnvelopeError(f"content_type {_shown(content_type)} is not accepted")
        return reader.read(body, self._limit)


def _word(value: bytes) -> str:
    """A content type or encoding without its parameters: `application/json; charset=utf-8`."""
    return value.decode("utf-8", "replace").partition(";")[0].strip().lower()


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
