"""Entries of every shape, through all that a worker does with one before its handler: an event, or a known refusal.

The long form (STREAMTASK_LONG=1) tries a million flipped envelopes; `STREAMTASK_SEED` repeats a run.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtask import App, Event
from streamtask.broker import Run
from streamtask.errors import EnvelopeError, PayloadError
from streamtask.transport.redis.commands import entry
from streamtask.transport.values import Dead, Delivery, Outgoing, Skip, Wait
from tests.chaos.workers import LONG

msgpack, yaml = pytest.importorskip("msgpack"), pytest.importorskip("yaml")

_SEED = int(os.environ.get("STREAMTASK_SEED", "") or time.time_ns() % 1_000_000)
_FLIPS = 1_000_000 if LONG else 20_000
_EXAMPLES = 10_000 if LONG else 200
pytestmark = pytest.mark.timeout(3600 if LONG else 60)

#: Seconds of this process for one entry: a bound against what hangs, far from what one takes.
_MOST = 0.5

_FORMATS: dict[str, dict[str, str]] = {
    "json": {},
    "gzip": {"compress": "gzip"},
    "lzma": {"compress": "lzma"},
    "msgpack": {"codec": "msgpack", "compress": "zlib"},
    "yaml": {"codec": "yaml"},
}


class Item(Event, stream="items", key="name"):
    name: str
    count: int = 0
    tags: list[str]
    more: dict[str, float | None]


def app_for(written_with: str) -> App:
    """An app that writes in a format and reads all of them."""
    app = App("shop", accept=["msgpack", "yaml"], max_event_bytes=2_000, **_FORMATS[written_with])
    app.on(Item)(handle)
    return app


async def handle(item: Item) -> None: ...


def fields_of(app: App) -> list[bytes]:
    """A good entry as the app would store it."""
    event = Item(name="näme", count=7, tags=["a", "b"], more={"x": 1.5, "y": None})
    item: Outgoing = app.broker.outgoing(event, event_id="e" * 36, trace_id="t" * 32, headers={"h": "é"})
    return [word if isinstance(word, bytes) else str(word).encode() for word in entry(item)]


def outcome(app: App, fields: list[bytes]) -> str:
    """What becomes of an entry, in a word; whatever else is raised fails the test."""
    delivery = Delivery("items", "shop", "1-0", "me", fields)
    began = time.process_time()
    try:
        planned = app.broker.plan(delivery, {(delivery.stream, delivery.group): frozenset({("Item", "v1")})})
        if isinstance(planned, Run):
            event = app.broker.event(planned)
            app.broker.mark(planned, event)
    except PayloadError:
        return "no payload"
    finally:
        assert time.process_time() - began < _MOST, fields
    assert isinstance(planned, Run | Dead | Skip | Wait)
    if isinstance(planned, Dead):
        assert planned.reason == "undecodable"
        assert planned.error
    return type(planned).__name__.lower()


@pytest.mark.parametrize("written_with", _FORMATS)
def test_a_good_entry_is_an_event_in_every_format(written_with: str) -> None:
    app = app_for(written_with)
    assert outcome(app, fields_of(app)) == "run"


@pytest.mark.parametrize("written_with", _FORMATS)
def test_flipped_bits_are_an_event_or_a_refusal_and_never_more(written_with: str) -> None:
    rng = random.Random(f"{_SEED} {written_with}")
    app = app_for(written_with)
    good = fields_of(app)
    count, seen = _FLIPS // len(_FORMATS), Counter[str]()
    for _ in range(count):
        fields = list(good)
        place = rng.randrange(len(fields))
        flipped = bytearray(fields[place])
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        fields[place] = bytes(flipped)
        seen[outcome(app, fields)] += 1

    said = ", ".join(f"{what} {n}" for what, n in seen.most_common())
    print(f"\nMEASURED flipped {written_with}, seed {_SEED}: {said}")  # noqa: T201 - what was tried
    assert seen.total() == count
    assert seen["dead"] > count / 10


_WORDS = st.sampled_from(
    [b"envelope", b"content_type", b"content_encoding", b"event_id", b"only", b"replay", b"", b"x"]
)
_VALUES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([
        b"shop", b"gzip", b"lzma", b"bz2", b"deflate", b"application/json", b"application/x-msgpack",
        b"application/x-yaml", b"application/x-python-serialize", b"application/x-unheard-of", b"{}", b"[]", b"",
    ]),
)  # fmt: skip


@settings(max_examples=_EXAMPLES)
@given(data=st.data(), written_with=st.sampled_from(sorted(_FORMATS)))
def test_missing_extra_doubled_and_shuffled_fields_are_an_event_or_a_refusal(
    data: st.DataObject, written_with: str
) -> None:
    app = app_for(written_with)
    good = fields_of(app)
    pairs = list(zip(good[::2], good[1::2], strict=True))
    kept = [pair for pair in pairs if data.draw(st.booleans())]
    doubled = [pair for pair in pairs if data.draw(st.booleans())]
    extra = data.draw(st.lists(st.tuples(_WORDS, _VALUES), max_size=4))
    mixed = data.draw(st.permutations(kept + doubled + extra))

    outcome(app, [word for pair in mixed for word in pair])


#: Any document, and any in the place of each field of an envelope, too large and too deep ones among them.
_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("x" * 2_000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
_FIELDS = [
    "schema_version", "event_id", "event_type", "source", "timestamp", "trace_id", "payload", "key", "span_id",
    "causation_id", "headers",
]  # fmt: skip


@settings(max_examples=_EXAMPLES)
@given(
    changes=st.dictionaries(st.sampled_from([*_FIELDS, "unknown"]), _DOCUMENTS),
    absent=st.sets(st.sampled_from(_FIELDS)),
)
def test_any_value_in_any_field_in_any_format_is_an_event_or_a_refusal(
    changes: dict[str, object], absent: set[str]
) -> None:
    plain = {
        "schema_version": "v1", "event_id": "e", "event_type": "Item", "source": "s",
        "timestamp": "2024-10-19T12:34:56.789Z", "trace_id": "t", "payload": {"name": "n", "tags": [], "more": {}},
    }  # fmt: skip
    document = {name: value for name, value in {**plain, **changes}.items() if name not in absent}
    app = app_for("json")
    for content_type, body in written(document).items():
        outcome(app, [b"envelope", body, b"content_type", content_type])


def written(document: object) -> dict[bytes, bytes]:
    """A document as other programs write it, good or bad, where they can."""
    found = {b"application/json": json.dumps(document).encode()}
    try:
        found[b"application/x-msgpack"] = msgpack.packb(document)
    except (OverflowError, ValueError):
        pass  # an integer, or a text, that it does not know
    else:
        found[b"application/x-yaml"] = yaml.safe_dump(document).encode()
    return found


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "pickle", "application/x-pickle"])
def test_pickle_is_no_format_whatever_it_is_called(content_type: str) -> None:
    class Canary:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("the producer's code ran",))

    fields = [b"envelope", pickle.dumps(Canary()), b"content_type", content_type.encode()]

    assert outcome(app_for("msgpack"), fields) == "dead"
    with pytest.raises(EnvelopeError, match="is not accepted"):
        app_for("msgpack").broker.decode(Delivery("items", "shop", "1-0", "me", fields))
