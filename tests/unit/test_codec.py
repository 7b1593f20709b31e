"""Codecs: what is written is read back, what was not accepted is refused, and nothing read can fill the memory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import pickle
import time
import tracemalloc
import zlib
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import serialization

from streamtask.codec import Codec
from streamtask.envelope import MAX_BYTES, decode
from streamtask.errors import ConfigurationError, EnvelopeError, EnvelopeTooLargeError, EventRefusedError

BODY = json.dumps(
    {
        "schema_version": "v1", "event_id": "1", "event_type": "OrderPlaced", "source": "orders",
        "timestamp": "2024-10-19T12:34:56.789Z", "trace_id": "0" * 32,
        "payload": {
            "order_id": "é & * <<", "total": 9.5, "n": 7, "none": None, "yes": True, "when": "2024-10-19", "list": [1],
        },
    }
).encode()  # fmt: skip
COMPRESSIONS = ["gzip", "zlib", "bz2", "lzma"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


def plain(body: bytes) -> object:
    return json.loads(body)


def way(codec: Codec, body: bytes) -> bytes:
    written, content_type, content_encoding = codec.encode(body)
    return codec.decode(written, content_type and content_type.encode(), content_encoding and content_encoding.encode())


@pytest.fixture
def registered(monkeypatch):
    """Serializers of a user's own, for one test: kombu's registry is put back as it was."""
    registry = serialization.registry
    for name in ("_encoders", "_decoders", "type_to_name", "name_to_type"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))

    def register(name, encoder, decoder, content_type):
        serialization.register(name, encoder, decoder, content_type, content_encoding="binary")

    return register


#: The serializers of the extras; their tests run where the packages are installed.
packaged = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
     for name in ("msgpack", "yaml")],
)  # fmt: skip


# ── plain JSON ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_by_default_an_entry_is_the_json_itself():
    assert Codec().encode(BODY) == (BODY, None, None)
    assert Codec().decode(BODY, None, None) is BODY


@pytest.mark.parametrize("content_type", [b"application/json", b"Application/JSON; charset=utf-8", b""])
@pytest.mark.parametrize("content_encoding", [None, b"", b"identity", b"utf-8", b"UTF-8"])
def test_json_that_says_so_is_json(content_type, content_encoding):
    assert Codec().decode(BODY, content_type, content_encoding) == BODY


@given(
    body=st.binary(max_size=99),
    content_type=st.none() | st.binary(max_size=20),
    content_encoding=st.none() | st.binary(max_size=20),
)
def test_decoding_answers_or_raises_envelope_error_whatever_an_entry_says(body, content_type, content_encoding):
    said = ""
    decoded: object = b""
    try:
        decoded = Codec().decode(body, content_type, content_encoding)
    except EnvelopeError as error:
        said = str(error)
    assert isinstance(decoded, bytes)
    assert len(said) < 400


@pytest.mark.parametrize(
    "content_type",
    [b"application/x-python-serialize", b"application/data", b"application/text", b"text/plain",
     b"application/x-msgpack", b"application/x-yaml", b"unknown/type", b"\xff\xfe", b"pickle", b"msgpack"],
)  # fmt: skip
def test_a_content_type_that_was_not_accepted_is_refused_and_never_passed_through(content_type):
    with pytest.raises(EnvelopeError, match="not accepted"):
        Codec().decode(pickle.dumps({"a": 1}), content_type, None)


@pytest.mark.parametrize("content_encoding", [b"br", b"zstd", b"application/zstd", b"base64", b"\xff"])
def test_a_content_encoding_that_cannot_be_bounded_is_refused(content_encoding):
    with pytest.raises(EnvelopeError, match="not accepted"):
        Codec().decode(BODY, None, content_encoding)


def test_an_entry_over_the_limit_is_refused_both_ways():
    assert way(Codec(limit=len(BODY)), BODY) == BODY
    with pytest.raises(EventRefusedError):
        Codec(limit=len(BODY) - 1).encode(BODY)
    with pytest.raises(EnvelopeTooLargeError):
        Codec(limit=len(BODY) - 1).decode(BODY, None, None)


# ── compression ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("compress", COMPRESSIONS)
@given(body=st.binary(max_size=2000))
def test_what_is_compressed_is_read_by_every_app(compress, body):
    written, content_type, content_encoding = Codec(compress=compress).encode(body)
    assert (content_type, content_encoding) == (None, compress)
    assert Codec().decode(written, None, content_encoding.encode()) == body


@pytest.mark.parametrize(
    ("content_encoding", "compress"),
    [("gzip", gzip.compress), ("gzip", zlib.compress), ("zlib", gzip.compress), ("deflate", zlib.compress),
     ("bzip2", bz2.compress), ("xz", lzma.compress), ("application/x-gzip", zlib.compress),
     ("application/x-bz2", bz2.compress),
     ("application/x-lzma", lzma.compress), ("GZIP", gzip.compress)],
)  # fmt: skip
def test_the_words_and_formats_of_other_producers_are_understood(content_encoding, compress):
    assert Codec().decode(compress(BODY), None, content_encoding.encode()) == BODY


def test_gzip_is_what_every_other_language_calls_gzip():
    assert gzip.decompress(Codec(compress="gzip").encode(BODY)[0]) == BODY


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_a_compression_bomb_stops_at_the_limit(compress):
    zeros = bytes(64 << 20)
    bomb = {"gzip": gzip.compress, "zlib": zlib.compress, "bz2": bz2.compress, "lzma": lzma.compress}[compress](zeros)
    del zeros
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(EnvelopeTooLargeError) as caught:
            Codec().decode(bomb, None, compress.encode())
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 5
    assert caught.value.limit == MAX_BYTES


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_exactly_the_limit_passes_and_one_byte_more_does_not(compress):
    written = Codec(compress=compress).encode(b"x" * 1000)[0]
    assert Codec(limit=1000).decode(written, None, compress.encode()) == b"x" * 1000
    with pytest.raises(EnvelopeTooLargeError):
        Codec(limit=999).decode(written, None, compress.encode())


@pytest.mark.parametrize("compress", COMPRESSIONS)
@pytest.mark.parametrize(
    "spoil", [lambda c: b"", lambda c: c[:-1], lambda c: c + b"x", lambda c: c + c, lambda c: b"\xff" + c]
)
def test_what_is_cut_short_or_spoiled_is_an_envelope_error(compress, spoil):
    with pytest.raises(EnvelopeError):
        Codec().decode(spoil(Codec(compress=compress).encode(BODY)[0]), None, compress.encode())


def test_an_lzma_stream_cannot_ask_for_gigabytes():
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20}]
    greedy = lzma.compress(BODY, filters=filters)
    with pytest.raises(EnvelopeError, match="lzma"):
        Codec().decode(greedy, None, b"lzma")


@pytest.mark.parametrize("compress", ["zstd", "brotli", "none", ""])
def test_a_compression_that_cannot_be_bounded_is_refused_at_construction(compress):
    with pytest.raises(ConfigurationError, match=r"bounded.*gzip, zlib, bz2, lzma"):
        Codec(compress=compress)


# ── serializers ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ["pickle", "application/x-python-serialize"])
def test_pickle_is_never_written_and_never_accepted(word):
    with pytest.raises(ConfigurationError, match="pickle"):
        Codec(codec=word)
    with pytest.raises(ConfigurationError, match="pickle"):
        Codec(accept=[word])


def test_pickle_is_refused_under_another_name_too(registered):
    registered("innocent", pickle.dumps, pickle.loads, "application/x-python-serialize")
    with pytest.raises(ConfigurationError, match="pickle"):
        Codec(codec="innocent")


@pytest.mark.parametrize("word", ["nonsense", "unknown/type", "raw", "application/data", "text/plain", "", "binary"])
def test_an_unknown_serializer_is_refused_and_the_known_ones_are_named(word):
    for options in ({"codec": word}, {"accept": [word]}):
        with pytest.raises(ConfigurationError, match="msgpack, yaml") as caught:
            Codec(**options)
        assert "pickle" not in str(caught.value)


def test_accept_is_a_collection():
    with pytest.raises(ConfigurationError, match="collection"):
        Codec(accept="yaml")


@pytest.mark.parametrize("name", ["msgpack", "yaml"])
def test_a_missing_package_is_named_with_its_extra(name, registered):
    def missing(data: object) -> object:
        raise serialization.SerializerNotInstalled(f"No decoder installed for {name}")

    content_type = serialization.registry.name_to_type[name]
    serialization.registry._encoders.pop(name, None)  # as kombu does it for yaml
    registered(name, missing if name == "msgpack" else None, missing, content_type)
    for options in ({"codec": name}, {"accept": [content_type]}):
        with pytest.raises(ConfigurationError, match=rf"the extra \[{name}\]"):
            Codec(**options)


def test_a_serializer_of_the_users_own_is_written_and_read(registered):
    registered("shout", lambda data: json.dumps(data)[::-1], lambda body: json.loads(body[::-1]), "application/x-shout")
    codec = Codec(codec="shout", compress="gzip")

    written, content_type, content_encoding = codec.encode(BODY)
    assert (content_type, content_encoding) == ("application/x-shout", "gzip")
    assert gzip.decompress(written).endswith(b"{")
    assert plain(way(codec, BODY)) == plain(BODY)
    assert decode(way(codec, BODY)).payload["total"] == 9.5
    assert plain(Codec(accept=["shout"]).decode(written, b"application/x-shout", b"gzip")) == plain(BODY)
    with pytest.raises(EnvelopeError, match="not accepted"):
        Codec().decode(written, b"application/x-shout", b"gzip")


def test_json_is_always_accepted():
    assert Codec(codec="json", accept=["json", "application/json"]).encode(BODY) == (BODY, None, None)


def test_a_serializer_that_loses_something_is_refused_when_it_is_written(registered):
    registered(
        "lossy",
        lambda data: json.dumps(list(data)),
        lambda body: dict.fromkeys(json.loads(body), 1),
        "application/x-lossy",
    )
    with pytest.raises(EventRefusedError, match="unchanged"):
        Codec(codec="lossy").encode(BODY)


def test_a_serializer_that_does_not_work_is_refused_at_construction(registered):
    registered("broken", lambda data: 1 / 0, lambda body: None, "application/x-broken")
    registered("forgetful", lambda data: b"x", lambda body: None, "application/x-forgetful")
    with pytest.raises(ConfigurationError, match="does not work"):
        Codec(codec="broken")
    with pytest.raises(ConfigurationError, match="does not give back"):
        Codec(codec="forgetful")


@pytest.mark.parametrize(
    "decoded",
    [
        None,
        [],
        "text",
        b"",
        7,
        {1: 2},
        {"a": {1: 2}},
        {"a": float("nan")},
        {"a": [float("inf")]},
        {"a": object()},
        {"a": "\ud800"},
    ],
)
def test_what_is_no_json_object_when_decoded_is_an_envelope_error(registered, decoded):
    answers = [{"probe": 1}, decoded]
    registered("odd", lambda data: b"x", lambda body: answers.pop(0), "application/x-odd")
    with pytest.raises(EnvelopeError):
        Codec(accept=["odd"]).decode(b"x", b"application/x-odd", None)


def nested() -> object:
    value: object = "x" * 100
    for _ in range(64):
        value = [value, value]
    return value


def endless() -> object:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize("make", [nested, endless])
def test_references_that_would_grow_without_end_stop_at_the_limit(registered, make):
    answers = [{"probe": 1}, {"a": make()}]
    registered("odd", lambda data: b"x", lambda body: answers.pop(0), "application/x-odd")
    with pytest.raises(EnvelopeTooLargeError):
        Codec(accept=["odd"]).decode(b"x", b"application/x-odd", None)


def test_every_error_of_a_decoder_is_an_envelope_error(registered):
    def fail(body: bytes) -> object:
        if body == b"probe":
            return {"probe": 1}
        raise RecursionError

    registered("failing", lambda data: b"probe", fail, "application/x-failing")
    with pytest.raises(EnvelopeError, match="failing"):
        Codec(accept=["failing"]).decode(b"x", b"application/x-failing", None)


# ── the serializers of the extras ─────────────────────────────────────────────────────────────────────────────────


@packaged
@given(value=json_values)
def test_whatever_json_holds_goes_through_unchanged_or_is_refused(name, value):
    codec = Codec(codec=name)
    body = json.dumps({"payload": value}, ensure_ascii=False).encode()
    try:
        read = way(codec, body)
    except EventRefusedError:
        return
    assert plain(read) == plain(body)


@packaged
def test_an_envelope_goes_through_the_serializers_of_the_extras(name):
    codec = Codec(codec=name)
    written, content_type, _ = codec.encode(BODY)
    assert content_type == f"application/x-{name}"
    assert written != BODY
    assert plain(way(codec, BODY)) == plain(BODY)


@packaged
@given(body=st.binary(max_size=200))
def test_reading_the_serializers_of_the_extras_is_total(name, body):
    with contextlib.suppress(EnvelopeError):
        Codec(accept=[name]).decode(body, f"application/x-{name}".encode(), None)


def test_msgpack_with_integer_keys_or_too_large_integers_is_refused():
    msgpack = pytest.importorskip("msgpack")
    codec = Codec(codec="msgpack")
    with pytest.raises(EnvelopeError):
        codec.decode(msgpack.packb({1: 2}), b"application/x-msgpack", None)
    with pytest.raises(EventRefusedError):
        codec.encode(b'{"payload":{"n":%d}}' % 2**70)


@pytest.mark.parametrize(
    "bomb",
    [
        b"a: &a [x,x,x,x]\n" + b"".join(b"%c: &%c [*%c,*%c,*%c]\n" % (i + 1, i + 1, i, i, i) for i in range(97, 120)),
        b"a: &a {k: 1}\n" + b"".join(b"%c: &%c {<<: [*%c,*%c]}\n" % (i + 1, i + 1, i, i) for i in range(97, 121)),
        b"a: &a [*a]\n",
    ],
)
def test_yaml_references_are_refused_before_they_are_followed(bomb):
    pytest.importorskip("yaml")
    with pytest.raises(EnvelopeError, match="references"):
        Codec(accept=["yaml"]).decode(bomb, b"application/x-yaml", None)


@pytest.mark.parametrize("body", [b"[" * 500_000, b"- " * 500_000, b"&a [*a, " * 100_000, b"{a: " * 100_000])
def test_deep_yaml_is_refused_before_it_costs_time(body):
    pytest.importorskip("yaml")
    start = time.process_time()
    with pytest.raises(EnvelopeError):
        Codec(accept=["yaml"]).decode(body, b"application/x-yaml", None)
    assert time.process_time() - start < 5  # all of it would take hours


@pytest.mark.parametrize(
    "body",
    [b"!!python/object/apply:os.getcwd []", b"a: !!python/name:os.system", b"a: &x 1\nb: *y", b"&*", b"\xff\xfe&*"],
)
def test_yaml_is_read_by_the_safe_loader_only(body):
    pytest.importorskip("yaml")
    with pytest.raises(EnvelopeError):
        Codec(accept=["yaml"]).decode(body, b"application/x-yaml", None)


# ── what of kombu this stands on ──────────────────────────────────────────────────────────────────────────────────


def test_kombu_still_has_the_registry_that_codecs_are_resolved_from():
    registry = serialization.registry
    assert registry.name_to_type["json"] == "application/json"
    assert registry.type_to_name["application/x-python-serialize"] == "pickle"
    assert {"msgpack", "yaml"} <= set(registry.name_to_type)
    assert serialization.dumps({"a": 1}, serializer="json")[0] == "application/json"
    assert serialization.loads('{"a":1}', "application/json", "binary", accept=("application/json",)) == {"a": 1}
