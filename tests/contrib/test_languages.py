"""Every code that a model or a producer may use for a language leads to one code of the catalog."""

from __future__ import annotations

import pytest
from streamtask_contrib.languages import LANGUAGES, UNSPACED, find, known

#: What Whisper calls its languages (openai/whisper, tokenizer.py).
WHISPER = """
en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml cy sk
te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo
ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue
""".split()  # noqa: SIM905 - as it reads there


def test_every_language_of_whisper_is_known() -> None:
    assert len(WHISPER) == 100
    assert {code: known(code) for code in WHISPER if known(code) != code} == {"jw": "jv"}


def test_each_code_of_a_language_leads_to_it_and_to_no_other() -> None:
    for language in LANGUAGES.values():
        codes = [language.code, language.iso3, *([language.flores] if language.flores else [])]
        assert {known(code) for code in codes} == {language.code}


def test_codes_have_the_form_of_their_standard() -> None:
    for language in LANGUAGES.values():
        assert len(language.code) == 2 or language.code == language.iso3
        assert len(language.iso3) == 3
        assert not language.flores or (len(language.flores) == 8 and language.flores[4:].istitle())


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("EN", "en"),
        ("en-US", "en"),
        ("eng", "en"),
        ("eng_Latn", "en"),
        (" pt_BR ", "pt"),
        ("zh-Hant", "zh"),
        ("zho_Hant", "zh"),
        ("cmn_Hans", "zh"),
        ("iw", "he"),
        ("nob_Latn", "no"),
        ("nb", "no"),
        ("pes_Arab", "fa"),
        ("haw", "haw"),
    ],
)
def test_written_forms_are_one_code(given: str, code: str) -> None:
    assert known(given) == code


@pytest.mark.parametrize(
    ("given", "meant"), [("german", "de (German)"), ("frensh", "fr (French)"), ("enn", "en (English)")]
)
def test_an_unknown_code_is_refused_with_what_may_have_been_meant(given: str, meant: str) -> None:
    with pytest.raises(ValueError, match="no language") as refused:
        known(given)
    assert meant in str(refused.value)


@pytest.mark.parametrize("given", ["", "  ", "-", "x" * 10_000, "🦊"])
def test_what_is_no_code_is_refused_in_one_short_line(given: str) -> None:
    with pytest.raises(ValueError, match="no language") as refused:
        known(given)
    assert len(str(refused.value)) < 200


def test_a_language_is_found_by_any_code() -> None:
    assert find("de").flores == find("deu").flores == "deu_Latn"
    assert find("la").flores == ""
    assert set(UNSPACED) <= set(LANGUAGES)
