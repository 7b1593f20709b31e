"""Settings come from the environment, and what cannot be is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from streamtask_contrib.audio import AudioSettings
from streamtask_contrib.models import SPEECH

import tests.contrib.audio.sounds  # noqa: F401 - skips without the extra


def test_without_a_word_it_is_the_model_that_ships():
    assert AudioSettings().model == str(SPEECH)


def test_they_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"MODEL": "small", "DEVICE": "cuda", "THREADS": "3", "TEMPERATURES": "[0.0, 0.5]"}.items():
        monkeypatch.setenv(f"STREAMTASK_AUDIO_{name}", value)

    settings = AudioSettings()

    assert (settings.model, settings.device, settings.threads) == ("small", "cuda", 3)
    assert settings.temperatures == (0.0, 0.5)


def test_a_token_is_not_shown():
    assert "hf_secret" not in repr(AudioSettings(diarization_token="hf_secret"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"padding": 0.3},
        {"min_silence": 0.2},
        {"temperatures": ()},
        {"device": "tpu"},
        {"threads": -1},
        {"batch_size": 0},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        AudioSettings(**wrong)
