"""Real models of each family translate by way of CTranslate2; the model is loaded once, unloaded, and loaded again."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "streamtask_contrib.translation", reason="the extra `translation` is not installed", exc_type=ImportError
)

from hypothesis import given, settings
from hypothesis import strategies as st
from streamtask_contrib.translation.engine import TranslationEngine, joined
from streamtask_contrib.translation.settings import TranslationSettings

from streamtask import ConfigurationError, Reject
from tests.contrib.translation.test_families import m2m, opus_of_several
from tests.contrib.translation.tiny import ENGLISH, FRENCH, madlad, nllb, opus


def loaded(**options: Any) -> TranslationEngine:
    engine = TranslationEngine(TranslationSettings(device="cpu", intra_threads=1, **options))
    engine.load()
    return engine


@pytest.fixture(scope="module")
def engine() -> TranslationEngine:
    """The model that ships."""
    return loaded()


def translate(engine: TranslationEngine, text: str, target: str = "fr") -> str:
    return joined([each.text for each in engine.translate(engine.sentences(text, "en", target))], target)


@pytest.mark.parametrize("beam_size", [1, 2])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("opus-mt-en-fr", opus),
        ("opus-mt-en-mul", opus_of_several),
        ("nllb", nllb),
        ("m2m", m2m),
        ("madlad", madlad),
    ],
)
def test_a_model_of_each_family_translates_word_by_word(
    tmp_path: Path, name: str, make: Callable[[Path], Path], beam_size: int
) -> None:
    engine = loaded(model=make(tmp_path / name), beam_size=beam_size)

    assert engine.name == name
    assert translate(engine, "start the meeting") == "commencez la réunion"
    assert translate(engine, "one") == "un"
    assert translate(engine, "nine three eight two") == "neuf trois huit deux"


def test_ctranslate2_ends_the_sentence_where_the_configuration_says_so(tmp_path: Path) -> None:
    engine = loaded(model=opus(tmp_path / "opus-mt-en-fr", add_source_eos=True))

    assert translate(engine, "three two one") == "trois deux un"


def test_one_batch_has_many_lengths_and_languages_and_keeps_its_order(tmp_path: Path) -> None:
    engine = loaded(model=nllb(tmp_path / "nllb"), batch_tokens=16)
    lines = [" ".join(ENGLISH[: 1 + n % 10]) for n in range(60)]
    batch = [each for n, line in enumerate(lines) for each in engine.sentences(line, "en", ("fr", "de", "zh")[n % 3])]
    results = engine.translate(batch)

    # A prefix of another line would stand in the text: only a line's own is taken off.
    assert [each.text for each in results] == [" ".join(FRENCH[: 1 + n % 10]) for n in range(60)]
    assert {each.batch_size for each in results} == {60}


def test_the_model_that_ships_translates_into_both_of_its_languages() -> None:
    engine = loaded()

    assert translate(engine, "seven seven seven seven") == "sept sept sept sept"
    assert translate(engine, "three", "de") == "drei"


def test_what_is_said_twice_is_translated_twice_unless_loops_are_to_be_ended(tmp_path: Path) -> None:
    path, said = opus(tmp_path / "opus-mt-en-fr"), " ".join(["one two"] * 6)

    assert translate(loaded(model=path), said) == " ".join(["un deux"] * 6)
    assert translate(loaded(model=path, no_repeat_ngram_size=4), said) != " ".join(["un deux"] * 6)
    assert translate(loaded(model=path, repetition_penalty=2.0), said) != " ".join(["un deux"] * 6)


def test_a_translation_has_no_more_tokens_than_its_share(tmp_path: Path) -> None:
    engine = loaded(model=opus(tmp_path / "opus-mt-en-fr"), max_length_ratio=0.1)

    assert translate(engine, " ".join(["one"] * 40)) == " ".join(["un"] * 14)


def test_text_is_translated_sentence_by_sentence_and_a_long_one_in_pieces(tmp_path: Path) -> None:
    engine = loaded(model=opus(tmp_path / "opus-mt-en-fr"), max_sentence_tokens=8)

    long = engine.sentences(" ".join(["one two"] * 10), "en", "fr")
    assert [len(each.tokens) - 1 for each in long] == [8, 8, 4]
    assert translate(engine, " ".join(["one two"] * 10)) == " ".join(["un deux"] * 10)
    assert len(engine.sentences("one.\ntwo three", "en", "fr")) == 2
    assert engine.sentences("  \n", "en", "fr") == []
    assert engine.translate([]) == []


def test_a_sentence_heavier_than_a_batch_is_translated_all_the_same(tmp_path: Path) -> None:
    engine = loaded(model=opus(tmp_path / "opus-mt-en-fr"), batch_tokens=16)

    assert translate(engine, " ".join(["one"] * 40)) == " ".join(["un"] * 40)


def test_a_pair_that_the_model_lacks_is_rejected_before_it_costs_anything() -> None:
    with pytest.raises(Reject, match="does not translate en to ja"):
        loaded().sentences("one", "en", "ja")


def test_threads_share_one_model_which_can_be_unloaded_meanwhile() -> None:
    engine = loaded(inter_threads=2)

    def work(n: int) -> str:
        if n % 5 == 0:
            engine.unload()
        return translate(engine, "three", ("fr", "de")[n % 2])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(100))) == ["trois", "drei"] * 50
    assert engine.is_loaded


def test_a_model_in_use_is_not_unloaded() -> None:
    engine = loaded()
    with engine._loaded():
        engine.unload()
        assert engine.is_loaded
        assert engine.idle() == 0
    engine.unload()
    assert not engine.is_loaded


@settings(max_examples=100)
@given(st.text(max_size=100))
def test_whatever_is_said_has_a_translation(engine: TranslationEngine, text: str) -> None:
    assert isinstance(translate(engine, text), str)


def test_an_idle_model_gives_its_memory_back_and_is_loaded_by_the_next_batch() -> None:
    engine = loaded()
    before = engine.idle()
    engine.unload()

    assert not engine.is_loaded
    assert 0 < before < engine.idle()
    assert translate(engine, "three") == "trois"
    assert engine.is_loaded


def test_a_model_is_never_used_in_a_fork_of_the_process_that_loaded_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = loaded()
    batch = engine.sentences("three", "en", "fr")
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)

    with pytest.raises(RuntimeError, match=f"loaded in process {parent}"):
        engine.translate(batch)


def test_what_is_not_loaded_says_who_loads_it() -> None:
    with pytest.raises(RuntimeError, match="worker lifespan"):
        TranslationEngine(TranslationSettings()).sentences("one", "en", "fr")


def test_a_device_that_is_not_there_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"device='cpu' and compute_type='float17'"):
        loaded(compute_type="float17")


@pytest.mark.parametrize("name", ["model.bin", "config.json", "source.spm", "shared_vocabulary.json"])
def test_a_file_that_is_damaged_is_a_wrong_setting_and_no_riddle(tmp_path: Path, name: str) -> None:
    path = opus(tmp_path / "opus-mt-en-fr", tags=(">>fra<<",))
    damaged = path / name if (path / name).exists() else path / "source_vocabulary.json"
    damaged.write_bytes(b"\x80damaged")

    with pytest.raises(ConfigurationError, match=r"opus-mt-en-fr cannot be loaded"):
        loaded(model=path)


@pytest.mark.parametrize(("language", "text"), [("fr", "un deux"), ("ja", "undeux"), ("zh", "undeux")])
def test_sentences_are_joined_as_their_language_is_written(language: str, text: str) -> None:
    assert joined(["un", "", "deux"], language) == text
