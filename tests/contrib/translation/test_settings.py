"""Settings come from the environment, and what makes no sense is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip(
    "streamtask_contrib.translation", reason="the extra `translation` is not installed", exc_type=ImportError
)

import streamtask_contrib.translation
from pydantic import ValidationError
from streamtask_contrib.models import TRANSLATION
from streamtask_contrib.translation import TranslationSettings

from streamtask import App


def test_without_a_word_the_model_that_ships_is_taken() -> None:
    assert TranslationSettings().model == TRANSLATION


def test_a_field_is_a_variable_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMTASK_TRANSLATION_MODEL", "models/opus-mt-en-fr")
    monkeypatch.setenv("STREAMTASK_TRANSLATION_BEAM_SIZE", "1")
    monkeypatch.setenv("STREAMTASK_TRANSLATION_DEVICE", "")
    settings = TranslationSettings()

    assert (settings.model, settings.beam_size) == (Path("models/opus-mt-en-fr"), 1)
    assert settings.device == "auto"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "tpu"),
        ("beam_size", "0"),
        ("batch_wait", "-1"),
        ("partial_max_age", "0"),
        ("max_length_ratio", "nan"),
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, field: str, value: str) -> None:
    monkeypatch.setenv(f"STREAMTASK_TRANSLATION_{field.upper()}", value)
    with pytest.raises(ValidationError, match=field):
        TranslationSettings()


def test_the_app_is_made_once_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMTASK_TRANSLATION_CONCURRENCY", "3")
    app = streamtask_contrib.translation.app
    monkeypatch.delitem(vars(streamtask_contrib.translation), "app")

    assert isinstance(app, App)
    assert [handler.concurrency for handler in app.handlers] == [3]
    with pytest.raises(AttributeError, match="no attribute 'apps'"):
        _ = streamtask_contrib.translation.apps
