from __future__ import annotations

import json

import pytest

from streamtask.cli.text import cell, counted, duration, escaped_json, one_line, printable, printable_lines, size

#: What a terminal obeys, or what hides what is shown.
NASTY = ["\x1b[2J", "\x07", "\x9b31m", "\r", "\n", "\x7f", "\u202e", "\u061c", "\u2028", "\ud800"]


@pytest.mark.parametrize("nasty", NASTY)
def test_what_a_terminal_would_obey_is_shown_escaped(nasty: str) -> None:
    shown = printable(f"a{nasty}b")

    assert nasty[0] not in shown
    assert shown.startswith("a\\")
    assert shown.endswith("b")


def test_letters_of_every_script_are_shown_as_they_are() -> None:
    assert printable("Grüße 世界 🎉") == "Grüße 世界 🎉"


def test_lines_are_kept_where_they_belong() -> None:
    assert printable_lines("one\n  two\x1b[0m\n") == "one\n  two\\x1b[0m"


def test_an_error_is_one_line() -> None:
    assert one_line("what\n  happened\x1b[0m ") == "what happened\\x1b[0m"


@pytest.mark.parametrize("nasty", NASTY)
def test_json_is_escaped_without_a_change_of_meaning(nasty: str) -> None:
    document = {"error": f"ä{nasty}"}

    text = escaped_json(json.dumps(document, ensure_ascii=False, indent=2))

    assert json.loads(text) == document
    assert not set(text) & set(nasty) - set("[2J31m\n")


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (12_345, "12.3 s"),
        (65_000, "1m 5s"),
        (3_660_000, "1h 1m"),
        (93_600_000, "1d 2h"),
    ],
)
def test_durations_are_for_people(ms: int, text: str) -> None:
    assert duration(ms) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KB"), (5 << 40, "5.0 TB")])
def test_sizes_are_for_people(number: int, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 events"), (1, "1 event"), (2, "2 events")])
def test_numbers_go_with_their_nouns(number: int, text: str) -> None:
    assert counted(number, "event") == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("lag", None, "-"),
        ("error", "", "-"),
        ("interest", [], "-"),
        ("alive", True, "yes"),
        ("alive", False, "no"),
        ("idle_ms", 65_000, "1m 5s"),
        ("deliveries", 3, "3"),
        ("bytes", 1536, "1.5 KB"),
        ("lag_seconds", 1.25, "1.2"),
        ("groups", ["a", "b\x1b"], "a, b\\x1b"),
        ("skipped", {"OrderLost": {"count": 1}}, "OrderLost"),
    ],
)
def test_a_cell_says_its_value_for_people(name: str, value: object, text: str) -> None:
    assert cell(name, value) == text
