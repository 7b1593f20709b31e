from __future__ import annotations

import ctypes.util
import random

import pytest

np = pytest.importorskip("numpy", reason="numpy is not installed")
pytest.importorskip("scipy", reason="scipy is not installed")
if ctypes.util.find_library("espeak-ng") is None:
    pytest.skip("espeak-ng's library is not installed", allow_module_level=True)

from training import voices
from training.synthesis import RATE, Espeak, EspeakError, Speaker


@pytest.fixture(scope="module")
def espeak(tmp_path_factory):
    return Espeak(tmp_path_factory.mktemp("espeak"))


def test_every_word_begins_where_it_is_heard(espeak):
    clip = espeak.speak("start the meeting seven", Speaker("en-us", "f2"))

    assert clip.begins[0] == 0
    assert sorted(set(clip.begins)) == list(clip.begins)
    assert len(clip.begins) == 4
    assert clip.begins[-1] < len(clip.samples) < 3 * RATE


def test_a_word_alone_is_as_long_as_its_place_among_others_says(espeak):
    speaker = Speaker("en-us", "f2")
    among = espeak.speak("seven meeting", speaker)
    alone = espeak.speak("seven", speaker)

    assert among.begins[1] == pytest.approx(len(alone.samples), abs=0.15 * RATE)


@pytest.mark.parametrize("variant", [*voices.HELD_OUT, *voices.DEVELOPMENT, *voices.TRAINING])
def test_every_named_voice_is_there(espeak, variant):
    assert len(espeak.speak("no", Speaker("en", variant)).samples) > 0.1 * RATE


def test_a_name_in_the_wrong_case_is_refused_and_not_spoken_with_the_plain_voice(espeak):
    with pytest.raises(EspeakError, match="no variant 'Steph3'"):
        espeak.speak("no", Speaker("en-us", "Steph3"))


def test_an_unknown_language_is_refused(espeak):
    with pytest.raises(EspeakError, match="no voice 'en-gb'"):
        espeak.speak("no", Speaker("en-gb"))


def _colour(samples):
    """How loud a sound is in each of forty bands, in nepers: what tells one voice from another."""
    bands = np.array_split(np.abs(np.fft.rfft(samples)), 40)
    return np.log([band.mean() for band in bands])


def test_a_drawn_voice_is_no_other_and_comes_again(espeak):
    first, second = (voices.draw(random.Random(seed)) for seed in (1, 2))
    one, other, again = (
        _colour(espeak.speak("hello team", Speaker("en-us", drawn=drawn)).samples) for drawn in (first, second, first)
    )

    assert np.abs(one - again).mean() < np.abs(one - other).mean() / 3


def test_a_stretched_voice_is_shorter(espeak):
    plain, fast = (espeak.speak("hello team", Speaker("en-us", stretch=stretch)) for stretch in (1.0, 1.16))

    assert len(fast.samples) == pytest.approx(len(plain.samples) / 1.16, rel=0.05)


def test_voices_of_the_test_and_of_development_are_kept_apart():
    assert not set(voices.TRAINING) & {*voices.HELD_OUT, *voices.DEVELOPMENT, "edward2", "AnxiousAndy"}
    assert not set(voices.HELD_OUT) & set(voices.DEVELOPMENT)
