"""The envelope: an event with its id, type, version, source, time and trace, as it stands in a stream.

`decode` is total: whatever the bytes, it answers with an `Envelope` or raises `EnvelopeError`, so that no producer can
bring a worker into a crash loop. The payload is not looked into: its bytes are kept as they came, for the event class
to validate (`streamtask.event`). This module also makes what goes into an envelope: ids and timestamps. It runs once
for every event on both sides, so each function here was measured; it never reads a clock.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

import msgspec

from streamtask.errors import EnvelopeError, EnvelopeTooLargeError, EventRefusedError

#: What a JSON object begins with.
_OPENING_BRACE = ord("{")
#: Characters of a foreign name that an error shows.
_SHOWN = 40

#: The largest envelope, in bytes, that is published or read unless an app says otherwise.
MAX_BYTES = 1 << 20
#: The longest name (type, version, source, ids), in characters.
MAX_NAME = 512
#: The namespace of the ids of emitted events. Never changed: a repeat must get the id that the first run gave.
EMIT_NAMESPACE = uuid.UUID("6e0b1c5e-6f0c-5a86-9d53-0b8f0a4f5d21")
#: Its hash so far: every id begins with a copy of it.
_OF_NAMESPACE = hashlib.sha1(EMIT_NAMESPACE.bytes, usedforsecurity=False)

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]

# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event as a stream keeps it. Fields that are not named here are ignored when read."""

    schema_version: _Name
    event_id: _Name
    event_type: _Name
    source: _Name
    timestamp: _Moment
    trace_id: _Name
    #: The payload as it came: a JSON object, in UTF-8.
    payload_json: msgspec.Raw = msgspec.field(name="payload")
    span_id: str | None = None
    #: The id of the event whose handling emitted this one.
    causation_id: str | None = None
    key: str | None = None
    headers: dict[str, str] | None = None

    @property
    def payload(self) -> dict[str, Any]:
        """The payload as plain objects, parsed anew at each call. Raises `EnvelopeError` where it cannot be."""
        try:
            plain: dict[str, Any] = _PLAIN.decode(self.payload_json)
        except _UNREADABLE as error:
            raise EnvelopeError(f"the payload cannot be read: {error}") from error
        return plain

    @property
    def payload_bytes(self) -> bytes:
        """The payload's JSON, copied out of the envelope."""
        return bytes(self.payload_json)


class StoredEnvelope(Envelope, frozen=True, kw_only=True, gc=False):
    """An envelope, and where it stands in its stream."""

    #: The id of its entry: to read on from behind it, `app.read(stream, after=entry_id)`.
    entry_id: str

    @classmethod
    def of(cls, envelope: Envelope, entry_id: str) -> Self:
        """The envelope of an entry. An envelope itself does not know where it stands."""
        return cls(entry_id=entry_id, **msgspec.structs.asdict(envelope))


# Every decoding error of msgspec is a ValueError, and so are bad UTF-8 and an integer too long to convert;
# 100,000 brackets are a RecursionError.
_UNREADABLE = (ValueError, RecursionError, OverflowError)
_DECODER = msgspec.json.Decoder(Envelope)
_PLAIN = msgspec.json.Decoder(dict[str, Any])


def decode(body: bytes, *, limit: int = MAX_BYTES) -> Envelope:
    """Read an envelope from its JSON. Raises `EnvelopeTooLargeError` or `EnvelopeError`, and nothing else."""
    if len(body) > limit:
        raise EnvelopeTooLargeError(len(body), limit)
    try:
        # The decoder skips what it does not keep, and then takes any byte above 127 for text.
        if not body.isascii():
            str(body, "utf-8")
        envelope = _DECODER.decode(body)
    except _UNREADABLE as error:
        raise EnvelopeError(f"not an envelope: {error}") from error
    if memoryview(envelope.payload_json)[0] != _OPENING_BRACE:
        raise EnvelopeError("not an envelope: Expected `object` - at `$.payload`")
    return envelope


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Written(msgspec.Struct, omit_defaults=True, gc=False):
    """The order of the fields on the wire; the timestamp is text already. Filled by position: twice as fast."""

    schema_version: str
    event_id: str
    event_type: str
    source: str
    timestamp: str
    trace_id: str
    payload: msgspec.Raw
    causation_id: str | None = None
    key: str | None = None
    headers: Mapping[str, str] | None = None


_ENCODER = msgspec.json.Encoder()


class Writer:
    """Writes the envelopes of one event type from one source."""

    __slots__ = ("_event_type", "_limit", "_schema_version", "_source")

    def __init__(self, *, event_type: str, schema_version: str, source: str, limit: int = MAX_BYTES) -> None:
        """`limit`: the most bytes of an envelope. Raises `EventRefusedError` for names that `decode` would refuse."""
        for name in (event_type, schema_version, source):
            _check_name(name, event_id="")
        self._event_type = event_type
        self._schema_version = schema_version
        self._source = source
        self._limit = limit

    def write(
        self,
        payload: bytes,
        *,
        event_id: str,
        trace_id: str,
        timestamp: str,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        causation_id: str | None = None,
    ) -> bytes:
        """The envelope around a payload that is JSON already (`event.dump`), with a `timestamp()` of this module.

        Raises `EventRefusedError` for what `decode` would not take back.
        """
        if not 0 < len(event_id) <= MAX_NAME or not 0 < len(trace_id) <= MAX_NAME:
            _check_name(event_id, event_id)
            _check_name(trace_id, event_id)
        if headers:
            _check_headers(headers, event_id)
        written = _Written(
            self._schema_version,
            event_id,
            self._event_type,
            self._source,
            timestamp,
            trace_id,
            msgspec.Raw(payload),
            causation_id,
            key,
            headers or None,
        )
        try:
            body = _ENCODER.encode(written)
        except UnicodeEncodeError as error:
            raise EventRefusedError(f"a field of the envelope is no text: {error}", event_id=event_id) from error
        if len(body) > self._limit:
            raise EventRefusedError(
                f"the envelope has {len(body)} bytes; the limit is {self._limit}", event_id=event_id
            )
        return body


def _check_name(name: str, event_id: str) -> None:
    if not 0 < len(name) <= MAX_NAME:
        raise EventRefusedError(_bad_name(name), event_id=event_id)


def _bad_name(name: str) -> str:
    shown = ascii(name if len(name) <= _SHOWN else name[:_SHOWN] + "...")
    return f"names and ids in an envelope have 1 to {MAX_NAME} characters, not {len(name)}: {shown}"


def _check_headers(headers: Mapping[str, str], event_id: str) -> None:
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise EventRefusedError(f"headers map strings to strings; {ascii(name)[:80]} does not", event_id=event_id)


# ── what goes in ──────────────────────────────────────────────────────────────────────────────────────────────────


class _Pool:
    """Ids made many at a time: one `os.urandom` costs as much for 256 ids as for one.

    `list.pop` hands each id to one thread only; a forked child begins with an empty pool, or it would give the same
    ids as its parent.
    """

    def __init__(self, form: Callable[[str], str]) -> None:
        self._form = form
        self._ready: list[str] = []
        os.register_at_fork(after_in_child=self._ready.clear)

    def take(self) -> str:
        try:
            return self._ready.pop()
        except IndexError:
            return self._refill()

    def _refill(self) -> str:
        digits = os.urandom(16 * 256).hex()
        fresh = [self._form(digits[at : at + 32]) for at in range(0, len(digits), 32)]
        taken = fresh.pop()
        self._ready.extend(fresh)
        return taken


class _Moments:
    """Moments as text. The last one is kept: in a batch nearly all calls fall into its millisecond, or its second."""

    def __init__(self) -> None:
        self._last = (0, "1970-01-01T00:00:00.000Z")

    def text(self, seconds: float) -> str:
        moment = round(seconds * 1000)
        known, text = self._last  # one read, one write: threads may share this
        if moment != known:
            second, thousandth = divmod(moment, 1000)
            whole = text[:19] if second == known // 1000 else datetime.fromtimestamp(second, UTC).isoformat()[:19]
            text = f"{whole}.{thousandth:03d}Z"
            self._last = (moment, text)
        return text


#: The two highest bits of a hexadecimal digit made 10, as RFC 9562 wants it where it says which kind of UUID it is.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def _uuid_form(digits: str, version: str) -> str:
    variant = _VARIANT[digits[16]]
    return f"{digits[:8]}-{digits[8:12]}-{version}{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


_EVENT_IDS = _Pool(lambda digits: _uuid_form(digits, "4"))
_TRACE_IDS = _Pool(str)
_MOMENTS = _Moments()


def new_event_id() -> str:
    """A fresh random id, in the form of a uuid4."""
    return _EVENT_IDS.take()


def new_trace_id() -> str:
    """A fresh random trace id: 32 hexadecimal digits, as W3C Trace Context has them."""
    return _TRACE_IDS.take()


def emit_id(event_id: str, group: str, handler: str, index: int, replay: str = "") -> str:
    """The id of the `index`-th event that a handler emits for `event_id`: a uuid5, the same at each repeat.

    `replay` is the replay generation: what a replay emits is new, and must not be taken for a repeat.
    """
    # A JSON array, for no two different causes may give one text.
    return _uuid5(_ENCODER.encode((event_id, group, handler, index, replay)))


def tick_id(stream: str, rule: str, at_ms: int) -> str:
    """The id of the tick of a rule for a moment: a uuid5, the same whichever worker publishes it."""
    return _uuid5(_ENCODER.encode(("tick", stream, rule, at_ms)))


def _uuid5(name: bytes) -> str:
    digest = _OF_NAMESPACE.copy()
    digest.update(name)
    return _uuid_form(digest.hexdigest(), "5")


#: A moment (seconds since 1970) as `2024-10-19T12:34:56.789Z`, to the nearest millisecond.
timestamp: Final[Callable[[float], str]] = _MOMENTS.text
