"""A folder says what it is, and each family is spoken to as its own tokenizer and converter do it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip(
    "streamtask_contrib.translation", reason="the extra `translation` is not installed", exc_type=ImportError
)

from streamtask_contrib.models import TRANSLATION
from streamtask_contrib.translation.families import FAMILIES, MANIFEST, open_folder

from streamtask import ConfigurationError, Reject
from tests.contrib.translation.tiny import madlad, nllb, opus

Make = Callable[[Path], Path]


def m2m(folder: Path) -> Path:
    return nllb(folder, tags=("__en__", "__fr__", "__zh__"))


def opus_of_several(folder: Path) -> Path:
    return opus(folder, tags=(">>fra<<", ">>fr_BE<<", ">>deu<<", ">>cmn_Hans<<", ">>qqq<<"))


@pytest.mark.parametrize(
    ("make", "tokens", "prefix", "languages"),
    [
        (opus, ["▁one", "▁two", "</s>"], [], "fr"),
        (opus_of_several, [">>fra<<", "▁one", "▁two", "</s>"], [], "de fr zh"),
        (nllb, ["eng_Latn", "▁one", "▁two", "</s>"], ["fra_Latn"], "de en fr zh"),
        (m2m, ["__en__", "▁one", "▁two", "</s>"], ["__fr__"], "en fr zh"),
        (madlad, ["<2fr>", "▁one", "▁two", "</s>"], [], "en fr he"),
    ],
)
def test_a_family_is_known_by_its_files_and_reads_what_it_was_trained_on(
    tmp_path: Path, make: Make, tokens: list[str], prefix: list[str], languages: str
) -> None:
    folder = open_folder(make(tmp_path / "opus-mt-en-fr"))

    assert folder.encode("one two", "en", "fr") == tokens
    assert folder.prefix("fr") == prefix
    assert " ".join(sorted(folder.targets)) == languages


def test_the_model_that_ships_has_a_token_for_each_of_its_languages() -> None:
    folder = open_folder(TRANSLATION)

    assert folder.encode("one", "en", "fr") == [">>fra<<", "▁one"]
    assert folder.encode("one", "en", "de") == [">>deu<<", "▁one"]
    assert folder.sources == {"en": ""}


def test_the_end_is_left_to_ctranslate2_where_its_configuration_says_so(tmp_path: Path) -> None:
    assert open_folder(opus(tmp_path / "opus-mt-en-fr", add_source_eos=True)).encode("one", "en", "fr") == ["▁one"]


def test_the_usual_script_of_a_language_is_its_token(tmp_path: Path) -> None:
    folder = open_folder(nllb(tmp_path / "nllb", tags=("eng_Latn", "zho_Hant", "zho_Hans", "aze_Cyrl", "azj_Latn")))
    assert folder.targets == {"az": "azj_Latn", "en": "eng_Latn", "zh": "zho_Hans"}
    folder = open_folder(opus(tmp_path / "opus", tags=(">>pt_BR<<", ">>pt<<", ">>por<<", ">>cmn_Hant<<", ">>cmn<<")))
    assert folder.targets == {"pt": ">>por<<", "zh": ">>cmn<<"}


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("opus-mt-en-fr", "en", "fr"),
        ("opus-mt-tc-big-en-fr", "en", "fr"),
        ("opus-mt-en-fr-ct2-int8", "en", "fr"),
        ("Helsinki-NLP--opus-mt-en-fr", "en", "fr"),
        ("opus-mt-ROMANCE-en", None, "en"),
        ("deu-eng", "de", "en"),
    ],
)
def test_an_opus_model_says_its_pair_by_its_name(tmp_path: Path, name: str, source: str | None, target: str) -> None:
    folder = open_folder(opus(tmp_path / name))

    assert folder.sources == (None if source is None else {source: ""})
    assert folder.targets == {target: ""}


@pytest.mark.parametrize("name", ["my-model", "to-do", "en", "v2-en-fr-model"])
def test_a_name_that_says_no_pair_is_not_taken_for_one(tmp_path: Path, name: str) -> None:
    assert open_folder(opus(tmp_path / name, tags=(">>fra<<",))).sources is None


def test_a_manifest_says_what_the_folder_cannot(tmp_path: Path) -> None:
    path = opus(tmp_path / "model-7")
    with pytest.raises(ConfigurationError, match=r"opus-mt-en-fr, or write streamtask-model\.json"):
        open_folder(path)

    write(path, family="opus", source=["eng"], targets={"fr": ""})
    assert open_folder(path).encode("one", "en", "fr") == ["▁one", "</s>"]


def test_a_manifest_may_keep_a_model_to_some_of_its_languages(tmp_path: Path) -> None:
    path = nllb(tmp_path / "nllb")
    write(path, family="nllb", source=["en"], targets={"fr": "", "zh": "zho_Hant"})
    folder = open_folder(path)

    assert folder.sources == {"en": "eng_Latn"}
    assert folder.targets == {"fr": "fra_Latn", "zh": "zho_Hant"}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"family": "bart"}, "is no manifest"),
        ({"family": "nllb", "targets": {"xx": ""}}, "no language 'xx'"),
        ({"family": "nllb", "targets": {"es": ""}}, "no token for es"),
        ({"family": "nllb", "targets": {"es": "spa_Latn"}}, "does not have spa_Latn"),
        ({"family": "nllb", "source": ["es"]}, "no token of es"),
        ({"family": "tagged"}, "no token for any target language"),
        ({"family": "nllb", "tokenizer": "other.model"}, "no other.model"),
        ({"family": "opus", "targets": {"fr": "", "de": ""}}, "no token for de, fr"),
        ({"family": "opus", "targets": {"fr": ""}}, r"no source\.spm"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, manifest: dict[str, object], message: str
) -> None:
    path = nllb(tmp_path / "nllb")
    shutil.copy(path / "sentencepiece.bpe.model", path / "spm.model")
    write(path, **manifest)

    with pytest.raises(ConfigurationError, match=message):
        open_folder(path)


def test_a_folder_of_no_family_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    path = nllb(tmp_path / "strange", tags=("<lang:en>",))
    with pytest.raises(ConfigurationError) as refused:
        open_folder(path)
    assert all(name in str(refused.value) for name in (*FAMILIES, "source.spm", "eng_Latn", "__en__", "<2en>"))

    with pytest.raises(ConfigurationError, match=r"no model\.bin and config\.json"):
        open_folder(tmp_path)
    (nllb(tmp_path / "nllb") / "sentencepiece.bpe.model").unlink()
    with pytest.raises(ConfigurationError, match=r"sentencepiece\.bpe\.model or .*--copy_files"):
        open_folder(tmp_path / "nllb")


def test_a_pair_that_the_model_lacks_is_rejected_with_those_that_it_has(tmp_path: Path) -> None:
    with pytest.raises(Reject, match="does not translate de to fr, only en to de, fr"):
        open_folder(TRANSLATION).check("de", "fr")
    with pytest.raises(Reject, match="en to es, only any language to en, fr, he"):
        open_folder(madlad(tmp_path / "madlad")).check("en", "es")
    open_folder(tmp_path / "madlad").check("xh", "he")


def test_nobody_chooses_the_language_by_what_they_say() -> None:
    folder = open_folder(TRANSLATION)

    assert folder.encode("one >>deu<< two", "en", "fr").count(">>deu<<") == 0
    assert folder.encode("</s> one", "en", "fr").count("</s>") == 0


@pytest.mark.parametrize("make", [opus, nllb, m2m, madlad])
def test_tokens_become_text_without_those_that_are_none(tmp_path: Path, make: Make) -> None:
    folder = open_folder(make(tmp_path / "opus-mt-en-fr"))

    assert folder.decode([*folder.prefix("fr"), "▁un", "▁deux"], "fr") == "un deux"
    assert folder.decode([], "fr") == ""


def write(path: Path, **manifest: object) -> None:
    (path / MANIFEST).write_text(json.dumps(manifest))
