"""Values as a service reads them: by dots, brackets and attributes; never changed, and never shown by accident."""

from __future__ import annotations

import pytest
from streamtask_contrib.config_sync.values import Values, overridden

VALUES = Values({"model": "a", "audio": {"vad": {"on": True}, "a.b": 1}, "audio.rate": 16, "items": [1, 2]})


def test_values_are_found_by_name_by_dots_and_as_attributes():
    assert VALUES["model"] == VALUES.model == "a"
    assert VALUES["audio.vad.on"] is VALUES["audio"]["vad"]["on"] is VALUES.audio.vad.on is True
    assert VALUES["audio.rate"] == 16
    assert VALUES["audio.a.b"] == 1
    assert ("audio.vad" in VALUES, "audio.x" in VALUES, "model.x" in VALUES, 5 in VALUES) == (True, False, False, False)
    assert VALUES.get("audio.x", 7) == 7
    assert sorted(VALUES) == ["audio", "audio.rate", "items", "model"]


@pytest.mark.parametrize("name", ["x", "audio.x", "model.x", "", "."])
def test_what_is_not_there_is_said(name: str):
    with pytest.raises(KeyError):
        VALUES[name]
    with pytest.raises(AttributeError, match="the configuration has no"):
        getattr(VALUES, name)


def test_their_text_has_names_only():
    assert "hunter2" not in f"{Values({'password': 'hunter2'})!r}"


def test_others_stand_in_the_place_of_some():
    plain = VALUES.plain()
    changed = overridden(plain, {"audio.vad.on": False, "audio.rate": 8, "new.deep": 1, "model": "b", "items.x": 2})
    assert changed == {
        "model": "b",
        "audio": {"vad": {"on": False}, "a.b": 1},
        "audio.rate": 8,
        "items": {"x": 2},
        "new": {"deep": 1},
    }
    assert plain == VALUES.plain()
