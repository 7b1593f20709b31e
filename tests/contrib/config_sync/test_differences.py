"""Differences: every key that differs, a line each that can be read, and no secret in it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from streamtask_contrib.config_sync.differences import MAX_NAMES, difference
from streamtask_contrib.config_sync.documents import canonical

from tests.contrib.config_sync.made import KEYS, SCALARS, VALUES


def test_it_reads_as_a_person_would_say_it():
    old = {"model": "small", "beam": {"size": 5}, "languages": ["en", "de"], "api_key": "one", "gone": 1}
    new = {"model": "large", "beam": {"size": 5}, "languages": ["en", "fr", "it"], "api_key": "two", "new": {"a": True}}
    found = difference(old, new)
    assert found.changed_keys == ["api_key", "gone", "languages.1", "languages.2", "model", "new"]
    assert found.text.splitlines() == [
        "~ api_key: a secret that differs",
        "- gone: 1",
        '~ languages.1: "de" → "fr"',
        '+ languages.2: "it"',
        '~ model: "small" → "large"',
        '+ new: {"a":true}',
    ]


def test_the_same_secret_is_no_difference_and_another_is_only_named():
    old, new = {"db": {"url": "redis://u:alpha@h/0"}}, {"db": {"url": "redis://u:bravo@h/0"}}
    assert difference(old, old).changed_keys == []
    assert difference(old, new).text == "~ db.url: a secret that differs"
    moved = difference(old, {"db": {"url": "redis://u:bravo@other/0"}})
    assert moved.text == '~ db.url: "redis://u:***@h/0" → "redis://u:***@other/0"'


def test_names_of_ones_own_are_secrets_here_too():
    found = difference({"hook": "alpha"}, {"hook": "bravo"}, patterns=["hook"])
    assert found.text == "~ hook: a secret that differs"


def test_a_type_that_differs_is_a_difference():
    assert difference({"a": 1}, {"a": True}).text == "~ a: 1 → true"
    assert difference({"a": {}}, {"a": []}).text == "~ a: {} → []"


@given(VALUES, VALUES)
def test_nothing_differs_only_where_the_canonical_forms_are_the_same(old: dict[str, Any], new: dict[str, Any]):
    found = difference(old, new)
    assert (found.changed_keys == []) == (canonical(old) == canonical(new))
    assert found.changed_keys == sorted(set(found.changed_keys))
    assert len(found.text.split("\n")) == max(1, len(found.changed_keys))


@given(VALUES, KEYS, SCALARS, SCALARS)
def test_a_key_that_differs_is_named(values: dict[str, Any], key: str, one: Any, other: Any):
    found = difference({**values, "x": {key: one}}, {**values, "x": {key: other}})
    assert bool(found.changed_keys) == (canonical(one) != canonical(other))


@given(VALUES, st.text("abc", min_size=8, max_size=8), st.text("xyz", min_size=8, max_size=8))
def test_no_secret_is_in_it(values: dict[str, Any], one: str, other: str):
    def configured(secret: str) -> dict[str, Any]:
        url = f"amqp://user:{secret}@host/{secret[:0]}"
        return {**values, "s": {"token": secret, "at": [url, {"name": "API_KEY", "value": secret}]}}

    found = difference(configured(one), configured(other))
    assert found.changed_keys == ["s.at.0", "s.at.1.value", "s.token"]
    assert one not in found.text
    assert other not in found.text


def test_it_fits_into_an_event_whatever_differs():
    many = {f"key-{n:05}-{'x' * 190}": "y" * 500 for n in range(600)}
    found = difference({}, many)
    assert len(json.dumps(found.changed_keys)) + len(found.text) < 8 * MAX_NAMES
    assert found.text.endswith(f"… and {600 - len(found.changed_keys)} more")
