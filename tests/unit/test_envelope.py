"""The envelope: whatever the bytes, decoding answers or raises EnvelopeError; what is written can be read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from streamtask.envelope import (
    EMIT_NAMESPACE,
    MAX_BYTES,
    MAX_NAME,
    Envelope,
    StoredEnvelope,
    Writer,
    decode,
    emit_id,
    new_event_id,
    new_trace_id,
    timestamp,
)
from streamtask.errors import EnvelopeError, EnvelopeTooLargeError, EventRefusedError

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
PLAIN = {
    "schema_version": "v1",
    "event_id": "0b1c5e6f-0c5a-4869-9d53-0b8f0a4f5d21",
    "event_type": "OrderPlaced",
    "source": "orders",
    "timestamp": "2024-10-19T12:34:56.789Z",
    "trace_id": "0" * 32,
    "payload": {"order_id": "1", "total": 9.5},
}

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_NAME)
optional = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


class Anything(BaseModel, extra="allow"):
    pass


def body(**changes: object) -> bytes:
    return json.dumps({**PLAIN, **changes}).encode()


def raw(payload: bytes) -> bytes:
    return body(payload="PAYLOAD").replace(b'"PAYLOAD"', payload)


def written(**changes: object) -> bytes:
    return write(**{**PLAIN, "payload": b'{"order_id":"1","total":9.5}', **changes})


def write(*, event_type: str, schema_version: str, source: str, payload: bytes, limit: int = MAX_BYTES, **fields):
    writer = Writer(event_type=event_type, schema_version=schema_version, source=source, limit=limit)
    return writer.write(payload, **fields)


def test_an_envelope_typed_by_hand_is_read():
    envelope = decode(body())

    assert envelope.event_type == "OrderPlaced"
    assert envelope.timestamp == datetime(2024, 10, 19, 12, 34, 56, 789000, tzinfo=UTC)
    assert envelope.payload == {"order_id": "1", "total": 9.5}
    assert (envelope.span_id, envelope.causation_id, envelope.key, envelope.headers) == (None, None, None, None)


def test_the_bytes_of_the_payload_are_kept_as_they_came():
    assert decode(raw(b'  {"total" : 1.10}\n')).payload_bytes == b'{"total" : 1.10}'


def test_unknown_fields_are_ignored_and_optional_ones_are_read():
    envelope = decode(body(new="field", key="k", span_id="s", causation_id="c", headers={"tenant": "é"}))
    assert (envelope.key, envelope.span_id, envelope.causation_id, envelope.headers) == ("k", "s", "c", {"tenant": "é"})


def test_what_is_written_has_the_form_and_the_order_of_the_contract():
    assert written() == json.dumps(PLAIN, separators=(",", ":")).encode()


@given(
    event_type=names, schema_version=names, source=names, event_id=names, trace_id=names,
    key=optional, causation_id=optional,
    headers=st.none()
    | st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3),
    seconds=st.floats(0, 4e9),
)  # fmt: skip
def test_what_is_written_is_read_back_equal(seconds, **fields):
    envelope = decode(write(payload=b'{"a":1}', timestamp=timestamp(seconds), **fields))

    assert {name: getattr(envelope, name) for name in fields} == fields
    assert abs(envelope.timestamp.timestamp() - seconds) < 0.001
    assert envelope.payload == {"a": 1}


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"{}", b"[]", b"null", b"42", b'"text"', b"{", b"\x00", body() + b"\x00", body() + body(),
        b"\xef\xbb\xbf" + body(), body().decode().encode("utf-16"), body().decode().encode("utf-32-le"),
        body().replace(b"OrderPlaced", b"Order\xff"), body().replace(b"OrderPlaced", b"Order\xed\xa0\x80"),
        body().replace(b"OrderPlaced", b"Order\\ud800"), body().replace(b"OrderPlaced", b"Order\nPlaced"),
        raw(b'{"a":"\xff"}'), raw(b'{"a":"\\ud800"}'), raw(b'{"a":NaN}'), raw(b'{"a":Infinity}'), raw(b"{'a':1}"),
        raw(b"[" * 100_000 + b"]" * 100_000), raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), b"[" * 100_000,
        b'{"unknown":' + b"[" * 100_000, body(unknown="X").replace(b'"X"', b'"\xff"'),
        raw(b"1"), raw(b"null"), raw(b'"{}"'), raw(b"[{}]"), raw(b"true"),
        body(timestamp=1729341296), body(timestamp="2024-10-19T12:34:56"), body(timestamp="yesterday"),
        body(timestamp="9999-12-31T23:59:60Z"), body(event_id=""), body(event_id="x" * (MAX_NAME + 1)),
        body(source=None),
        body(headers={"a": 1}), body(headers=[]), body(key=3), body(trace_id=10**30),
        body(event_id=1).replace(b'"event_id": 1', b'"event_id": ' + b"9" * 5000),
    ],
)  # fmt: skip
def test_malformed_bytes_raise_envelope_error_with_a_short_message(bad):
    with pytest.raises(EnvelopeError) as caught:
        decode(bad)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("field", sorted(PLAIN))
def test_a_missing_field_is_named(field):
    with pytest.raises(EnvelopeError, match=field):
        decode(json.dumps({name: value for name, value in PLAIN.items() if name != field}).encode())


def test_of_doubled_fields_the_last_one_counts():
    assert decode(body()[:-1] + b',"event_id":"last","payload":{}}').event_id == "last"


def test_an_envelope_over_the_limit_is_not_even_parsed():
    with pytest.raises(EnvelopeTooLargeError) as caught:
        decode(b"[" * (MAX_BYTES + 1))
    assert (caught.value.size, caught.value.limit) == (MAX_BYTES + 1, MAX_BYTES)
    assert decode(body(), limit=len(body()))
    with pytest.raises(EnvelopeTooLargeError):
        decode(body(), limit=len(body()) - 1)


def probe(bytes_: bytes) -> None:
    """Decoding is total, and so is what a consumer does next with what it got."""
    try:
        envelope = decode(bytes_)
    except EnvelopeError:
        return
    assert isinstance(envelope, Envelope)
    for name in (envelope.event_id, envelope.event_type, envelope.schema_version, envelope.source, envelope.trace_id):
        assert 0 < len(name.encode()) <= MAX_NAME * 4
    assert envelope.timestamp.tzinfo is not None
    with contextlib.suppress(EnvelopeError):
        assert isinstance(envelope.payload, dict)
    with contextlib.suppress(ValidationError):
        Anything.model_validate_json(envelope.payload_bytes)


@given(st.binary())
def test_decoding_is_total_for_any_bytes(bytes_):
    probe(bytes_)


@given(st.data())
def test_decoding_is_total_for_envelopes_with_flipped_inserted_and_missing_bytes(data):
    changed = bytearray(body(headers={"a": "é"}))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    probe(bytes(changed))


@given(st.dictionaries(st.sampled_from([*PLAIN, "headers", "key", "span_id", "new"]), json_values))
def test_decoding_is_total_for_wrong_types_in_every_field(changes):
    probe(body(**changes))


@pytest.mark.parametrize(
    "payload", [b'{"a":' + b"[" * 400 + b"]" * 400 + b"}", b'{"a":' + b"9" * 5000 + b"}", b'{"a":1e999}']
)
def test_a_payload_that_is_json_but_beyond_reason_does_no_more_harm_than_an_error(payload):
    probe(raw(payload))


TOO_LONG_OR_NONE = ["", "x" * (MAX_NAME + 1)]


@pytest.mark.parametrize("name", ["event_id", "trace_id"])
@pytest.mark.parametrize("value", [*TOO_LONG_OR_NONE, "lone \ud800 surrogate"])
def test_what_could_not_be_read_back_is_refused_when_written(name, value):
    with pytest.raises(EventRefusedError) as caught:
        written(**{name: value})
    assert caught.value.event_id == (value if name == "event_id" else PLAIN["event_id"])


@pytest.mark.parametrize("name", ["event_type", "schema_version", "source"])
@pytest.mark.parametrize("value", TOO_LONG_OR_NONE)
def test_a_name_of_all_envelopes_that_could_not_be_read_back_is_refused_before_the_first(name, value):
    with pytest.raises(EventRefusedError, match="1 to 512 characters"):
        Writer(**{"event_type": "t", "schema_version": "v1", "source": "s", name: value})


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"a": "\ud800"}, {"a": None}])
def test_headers_that_are_no_strings_are_refused(headers):
    with pytest.raises(EventRefusedError):
        written(headers=headers)


def test_an_event_over_the_limit_is_refused_when_written():
    size = len(written())
    assert written(limit=size)
    with pytest.raises(EventRefusedError, match=str(size)):
        written(limit=size - 1)


# ── ids and timestamps ────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_have_their_form_and_are_not_repeated_across_threads():
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: new_event_id(), range(5000)))

    assert len(set(ids)) == 5000
    assert all(UUID4.fullmatch(each) and uuid.UUID(each).version == 4 for each in ids)
    traces = {new_trace_id() for _ in range(1000)}
    assert len(traces) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in traces)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_repeat_the_ids_of_its_parent():
    new_event_id(), new_trace_id()  # the pools are filled
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "\n".join(take() for take in (new_event_id, new_trace_id) for _ in range(300)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = set(pipe.read().split())
    assert os.waitpid(child, 0)[1] == 0
    ours = {new_event_id() for _ in range(600)} | {new_trace_id() for _ in range(600)}

    assert len(theirs) == 600
    assert not ours & theirs


def test_the_id_of_an_emitted_event_is_the_same_at_each_repeat_and_a_uuid5():
    first = emit_id("cause", "shipping", "app.ship", 0)

    assert first == emit_id("cause", "shipping", "app.ship", 0)
    assert first == str(uuid.uuid5(EMIT_NAMESPACE, '["cause","shipping","app.ship",0,""]'))


@given(st.lists(st.tuples(names, names, names, st.integers(0, 99), st.text("r1", max_size=2)), unique=True, max_size=8))
def test_different_causes_give_different_ids(causes):
    assert len({emit_id(*cause) for cause in causes}) == len(causes)


def test_parts_of_a_cause_do_not_run_into_each_other():
    assert emit_id("a", "b,c", "d", 0) != emit_id("a,b", "c", "d", 0)


def test_a_timestamp_has_milliseconds_and_ends_in_z():
    assert timestamp(1729341296.789) == "2024-10-19T12:34:56.789Z"
    assert timestamp(1729341296) == "2024-10-19T12:34:56.000Z"
    assert timestamp(1729341296.9996) == "2024-10-19T12:34:57.000Z"
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"


@given(st.lists(st.integers(0, 4_000_000_000_000), max_size=5))
def test_timestamps_are_right_whatever_was_asked_before(thousandths):
    for each in thousandths:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=each)
        assert datetime.fromisoformat(timestamp(each / 1000)) == moment


def test_a_stored_envelope_is_the_envelope_and_its_place_whatever_the_envelope_says_of_it():
    envelope = decode(body(entry_id="9-9", key="k", headers={"a": "b"}, span_id="s", causation_id="c"))
    stored = StoredEnvelope.of(envelope, "1-0")

    assert stored.entry_id == "1-0"
    assert isinstance(stored, Envelope)
    assert {field: getattr(stored, field) for field in Envelope.__struct_fields__} == {
        field: getattr(envelope, field) for field in Envelope.__struct_fields__
    }
    assert stored.payload == envelope.payload
