"""Messages of Celery as events: what they say is kept; whatever else they are is an answer, and no error of ours."""

from __future__ import annotations

import json
import pickle
import zlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtask import App
from streamtask.bridge.messages import CeleryMessage, Expired, Refused, convert, tasks_of
from streamtask.transport.values import Outgoing

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
app = App("new", broker="memory://")
#: What a test's task was called with, were it run.
BODY = ([1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None})


@app.task(name="shop.add")
def add(x: int, y: int = 2, *, note: str = "") -> int:
    return x + y


def message(body: object = BODY, **changed: Any) -> CeleryMessage:
    headers = {"task": "shop.add", "id": "one", "eta": None, "expires": None} | changed.pop("headers", {})
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    known = {"body": raw, "content_type": "application/json", "content_encoding": "utf-8"}
    return CeleryMessage(headers=headers, **known | changed)


def converted(found: CeleryMessage) -> Outgoing:
    return convert(found, app, tasks_of(app), now=NOW, window=77.0)


def arguments(found: CeleryMessage) -> dict[str, Any]:
    outgoing = converted(found)
    assert app.tasks[0].event.__event_type__.stream == outgoing.stream
    payload: dict[str, Any] = json.loads(outgoing.body)["payload"]["arguments"]
    return payload


def refusal(found: CeleryMessage) -> str:
    with pytest.raises(Refused) as caught:
        converted(found)
    return str(caught.value)


def test_a_call_keeps_its_id_and_its_arguments_and_is_stored_once() -> None:
    outgoing = converted(message(([1], {"note": "é"}, {})))
    assert (outgoing.event_id, outgoing.dedup_key, outgoing.dedup_window) == ("one", "one", 77.0)
    assert json.loads(outgoing.body)["event_id"] == "one"
    assert arguments(message(([1], {"note": "é"}, {}))) == {"x": 1, "note": "é"}
    assert arguments(message(([1, 5], {}, None))) == {"x": 1, "y": 5}
    assert outgoing.at is None


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("2030-01-01T13:00:00+00:00", NOW + timedelta(hours=1)),
        ("2030-01-01T15:00:00.000001+02:00", NOW + timedelta(hours=1, microseconds=1)),
        ("2030-01-01T13:00:00", NOW + timedelta(hours=1)),
    ],
)
def test_eta_and_countdown_are_the_moment_at_which_it_is_due(text: str, due: datetime) -> None:
    assert converted(message(headers={"eta": text})).at == due


def test_what_has_expired_is_over_and_what_has_not_is_not() -> None:
    with pytest.raises(Expired):
        converted(message(headers={"expires": "2030-01-01T12:00:00+00:00"}))
    assert converted(message(headers={"expires": "2030-01-01T12:00:01+00:00"})).event_id == "one"


def test_a_retry_of_celery_and_a_member_of_a_plain_group_are_calls_like_others() -> None:
    assert converted(message(headers={"retries": 2, "group": "g", "group_index": 1})).event_id == "one"


def test_compressed_bodies_are_read_and_bombs_are_not() -> None:
    packed = zlib.compress(json.dumps(BODY).encode())
    assert arguments(message(body=packed, headers={"compression": "application/x-gzip"})) == {"x": 1}
    bomb = zlib.compress(b"[" * (20 << 20))
    assert "cannot be read" in refusal(message(body=bomb, headers={"compression": "application/x-gzip"}))
    assert "no compression" in refusal(message(headers={"compression": "application/x-nothing"}))


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (message(headers={"task": None}), "protocol 2"),
        (message({"task": "shop.add", "id": "one", "args": [1]}, headers={"task": None, "id": None}), "protocol 2"),
        (message(headers={"task": "shop.sub"}), "no task of the name 'shop.sub'; it has shop.add"),
        (message(([], {}, {})), "missing a required argument: 'x'"),
        (message((["one"], {}, {})), "x: Input should be a valid integer"),
        (message(([1], {"z": 1}, {})), "unexpected keyword argument 'z'"),
        (message(([1], {}, {"chord": {"task": "after"}})), "it counts for a chord"),
        (message(([1], {}, {"chain": [{"task": "next"}]})), "a chain goes on after it"),
        (message(([1], {}, {"callbacks": [{}], "errbacks": [{}]})), "callbacks (link), it has errbacks (link_error)"),
        (message([1, 2]), "[args, kwargs, embed]"),
        (message(body=b"\xff"), "cannot be read"),
        (message(headers={"eta": "tomorrow"}), "its header eta is no moment"),
        (message(headers={"id": "x" * 600}), "names and ids"),
    ],
)
def test_what_cannot_become_a_call_says_why(found: CeleryMessage, reason: str) -> None:
    assert reason in refusal(found)


def test_values_of_arguments_do_not_get_into_a_reason() -> None:
    assert "hunter2" not in refusal(message((["hunter2"], {}, {})))


class Trap:
    """Unpickled, it would raise."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("it was unpickled",))


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "pickle", "application/x-yaml", ""])
def test_pickle_and_what_else_is_not_json_is_never_looked_into(content_type: str) -> None:
    found = message(body=pickle.dumps(([Trap()], {}, {})), content_type=content_type, content_encoding="binary")
    assert "pickle never" in refusal(found)


@given(
    st.dictionaries(
        st.sampled_from(["task", "id", "eta", "expires", "compression"]), st.text(max_size=30) | st.integers()
    ),
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(
        lambda each: json.dumps(each).encode()
    ),
)
def test_whatever_stands_in_a_queue_is_a_call_or_an_answer(headers: dict[str, Any], body: bytes) -> None:
    found = message(body=body, headers={"task": "shop.add"} | headers)
    with suppress(Refused, Expired):
        assert converted(found).dedup_key
