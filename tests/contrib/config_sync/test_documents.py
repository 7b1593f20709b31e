"""Documents: the same values in all forms, one canonical JSON, and clear words without content for what is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from streamtask_contrib.config_sync.documents import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_VALUES,
    DocumentError,
    canonical,
    dotted,
    parse,
)

from tests.contrib.config_sync.made import VALUES

SAME = {
    "json": b'{"model": "small", "beam": {"size": 5, "patience": 1.5}, "languages": ["en", "d\xc3\xa9"], "vad": true}',
    "yaml": "model: small\nbeam: {size: 5, patience: 1.5}\nlanguages:\n- en\n- dé\nvad: yes\n".encode(),
    "toml": 'model = "small"\nvad = true\nlanguages = ["en", "dé"]\n[beam]\nsize = 5\npatience = 1.5\n'.encode(),
}


@pytest.mark.parametrize("form", SAME)
def test_all_forms_say_the_same(form):
    values = parse(SAME[form], form)
    assert values == {
        "model": "small",
        "beam": {"size": 5, "patience": 1.5},
        "languages": ["en", "dé"],
        "vad": True,
    }
    assert canonical(values) == (
        '{"beam":{"patience":1.5,"size":5},"languages":["en","dé"],"model":"small","vad":true}'
    )


@given(VALUES)
def test_values_come_back_from_json_and_from_yaml_and_so_does_their_canonical_form(values: dict[str, Any]):
    for form, text in (("json", json.dumps(values)), ("yaml", yaml.safe_dump(values))):
        read = parse(text.encode(), form)
        assert canonical(read) == canonical(values), form
    assert canonical(parse(canonical(values).encode(), "json")) == canonical(values)


@given(VALUES)
def test_the_order_of_keys_does_not_matter(values: dict[str, Any]):
    assert canonical(dict(reversed(values.items()))) == canonical(values)


def test_what_differs_in_type_alone_differs():
    told = {canonical({"a": value}) for value in (1, 1.0, True, "1", [1], None, "null")}
    assert len(told) == 7


def test_dates_are_text_as_it_stands_there():
    assert parse(b"at: 2024-01-31 10:00:00", "yaml") == {"at": "2024-01-31 10:00:00"}
    assert parse(b"at = 2024-01-31T10:00:00Z\nday = 2024-02-01\nhour = 07:30:00", "toml") == {
        "at": "2024-01-31T10:00:00+00:00",
        "day": "2024-02-01",
        "hour": "07:30:00",
    }


@pytest.mark.parametrize(
    ("form", "content", "said"),
    [
        ("json", b"", "it is empty"),
        ("yaml", b"# nothing yet\n", "it is empty"),
        ("toml", b" \n", "it is empty"),
        ("json", b'{"password": "hunter2",', "line 1, column 24 is not JSON"),
        ("yaml", b"a: 1\npassword: [hunter2\n", "line 3, column 1 is not YAML"),
        ("yaml", b"password: *hunter2\n", "line 1 has an alias"),
        ("yaml", b"a: &x [1]\nb: *x\n", "line 2 has an alias"),
        ("yaml", b"a: &x {c: 1}\nb: {<<: *x}\n", "line 2 has an alias"),
        ("yaml", b"a: !!python/object/apply:os.system [hunter2]\n", "line 1, column 4 is not YAML"),
        ("yaml", b"a: !hunter2 b\n", "line 1, column 4 is not YAML"),
        ("yaml", b"a: 1\n---\nb: 2\n", "is not YAML"),
        ("yaml", b"a: \x00hunter2\n", "it has a character"),
        ("toml", b'a = 1\npassword = hunter2"\n', "line 2, column 12 is not TOML"),
        ("json", b'["hunter2"]', "no keys at its top level"),
        ("yaml", b"hunter2", "no keys at its top level"),
        ("json", b'{"a": 1, "a": 2}', "a key in it stands twice"),
        ("yaml", b"b:\n  a: 1\n  a: 2\n", "a key below line 2 stands twice"),
        ("yaml", b"on: hunter2\n", "put it in quotes"),
        ("yaml", b"80: web\n", "put it in quotes"),
        ("json", b'{"a": NaN}', "NaN and infinity"),
        ("yaml", b"a: .inf\n", "NaN and infinity"),
        ("toml", b"a = nan\n", "NaN and infinity"),
        ("json", b'{"a": 1e999}', "NaN and infinity"),
        ("json", b'{"a": 36893488147419103232}', "more than 64 bits"),
        ("json", b'{"a": 1' + b"0" * 5_000 + b"}", "too large"),
        ("json", b'{"a": "\\ud800"}', "half of a character"),
        ("json", b'{"": 1}', "a key in it is empty"),
        ("json", b'{"a\\u0000": 1}', "cannot be printed"),
        ("json", b'{"' + b"a" * 201 + b'": 1}', "longer than 200"),
        ("yaml", b"a: !!binary aHVudGVyMg==\n", "of a kind"),
        ("yaml", b"a: !!set {x, y}\n", "of a kind"),
        ("json", b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        ("json", "{}".encode("utf-16"), "byte 0 is not UTF-8"),
        ("json", b"[" * 60_000, "levels"),
        ("toml", b"a = " + b"[" * 60_000, "levels"),
        ("yaml", b"a: " + b"[" * 60_000, "line 1, column"),
        ("yaml", b"a: " + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "levels"),
        ("json", b'{"a": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}", "levels"),
        ("json", b'{"a": [' + b"1," * MAX_VALUES + b"1]}", "values"),
        ("yaml", b"a: [" + b"1," * 3 * MAX_VALUES + b"1]\n", "values"),
        ("json", b'{"a": "' + b"x" * MAX_BYTES + b'"}', "bytes"),
    ],
)
def test_what_is_no_configuration_is_refused_in_clear_words_without_its_content(form, content, said):
    with pytest.raises(DocumentError) as refused:
        parse(content, form)
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_bomb_of_aliases_costs_nothing():
    bomb = b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 60))
    began = time.monotonic()
    with pytest.raises(DocumentError, match="alias"):
        parse(bomb, "yaml")
    assert time.monotonic() - began < 5


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_key():
    assert parse(b'\xef\xbb\xbf{"a": 1}', "json") == {"a": 1}


@pytest.mark.parametrize(
    ("path", "name"), [(("a", "b-c", "0"), "a.b-c.0"), (("a.b", "c"), '"a.b".c'), (("dé it",), '"dé it"')]
)
def test_names_can_be_told_apart(path, name):
    assert dotted(path) == name
