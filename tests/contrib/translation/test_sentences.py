# ruff: noqa: RUF001 - letters and marks of other scripts are what is tested
"""Sentences are split where a person would, and never lose a character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip(
    "streamtask_contrib.translation", reason="the extra `translation` is not installed", exc_type=ImportError
)

from streamtask_contrib.translation.sentences import cut, split


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["Start the meeting.", "Next slide please!", "Who is here?"]),
        ("en", ["three seven one"]),
        ("en", ["what?", "no!", "I said three."]),
        ("en", ["Dr. Smith and Mrs. J. R. Jones came.", "They left."]),
        ("en", ["It costs 3.14 dollars.", "That is e.g. Monday, i.e. now."]),
        ("en", ["See No. 5 of it.", "No.", "We cannot."]),
        ("en", ["It was in 1999.", "Then he left at 5.", "I stayed."]),
        ("en", ["Well... maybe.", "I do not know…", "You do?!", "So do I.", "Good."]),
        ("en", ["There was Mr...", "Who was it?"]),
        ("en", ["Visit example.com. it is good."]),
        ("en", ['He said "I came. I saw. I won." and left.', "She stayed."]),
        ("en", ['"Really?" she asked.', '"Yes."', '"No!"']),
        ("en", ["It rained (as ever. Always) here.", "(We left.)", "Bye."]),
        ("de", ["Am 3. Mai und im 2. Stock.", "Er kam 1999.", "Dann ging er."]),
        ("de", ["Das ist z.B. gut, d.h. besser.", "„Ja. Gut.“ sagte er."]),
        ("fr", ["M. Dupont est là.", "« Oui. Non. » dit-elle.", "Merci !", "Bien."]),
        ("es", ["¿Qué pasa?", "¡Nada!", "La Sra. Ruiz vino."]),
        ("ru", ["Он пришёл.", "Т.е. сегодня."]),
        ("hi", ["यह अच्छा है।", "धन्यवाद।"]),
        ("ar", ["من هناك؟", "أنا."]),
    ],
)  # fmt: skip
def test_text_is_split_into_its_sentences(language: str, sentences: list[str]) -> None:
    assert split(" ".join(sentences), language) == sentences


@pytest.mark.parametrize(
    ("language", "text", "sentences"),
    [
        ("ja", "会議を始めます。次は誰ですか？「はい。そうです。」と言った。", 3),
        ("zh", "你好。我是王明！你呢？", 3),
        ("zh", "他说“好。走吧。”然后走了。", 1),
        ("th", "สวัสดี ครับ", 1),
        ("en", "one line\nand another\n\n", 2),
        ("en", 'an "open quotation. It protects nothing. Really', 3),
        ("en", '"' + "A speech. " * 60 + '"', 61),
        ("en", "  ", 0),
        ("en", "", 0),
        ("en", "...", 1),
    ],
)  # fmt: skip
def test_text_without_spaces_or_without_sense_is_split_as_well(language: str, text: str, sentences: int) -> None:
    assert len(split(text, language)) == sentences
    assert "".join("".join(split(text, language)).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("limit", "sentence", "pieces"),
    [
        (40, "short enough", ["short enough"]),
        (20, "one two, three four, five six", ["one two, three four,", "five six"]),
        (12, "one two, three four five six", ["one two,", "three four", "five six"]),
        (4, "one abcdefghij", ["one", "abcd", "efgh", "ij"]),
        (5, "会議を始めて、次へ行く", ["会議を始め", "て、", "次へ行く"]),
        (3, "1,000,000", ["1,0", "00,", "000"]),
        (5, "", [""]),
    ],
)
def test_a_sentence_that_is_too_long_is_cut_where_it_hurts_least(limit: int, sentence: str, pieces: list[str]) -> None:
    assert cut(sentence, limit) == pieces


def test_a_limit_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cut("text", 0)


TEXT = st.text(alphabet=st.sampled_from('abZ19 .!?…,"“”«»()。！、「」\n'), max_size=200)


@given(TEXT, st.sampled_from(["en", "de", "ja"]), st.integers(1, 30))
def test_no_character_is_lost_doubled_or_moved(text: str, language: str, limit: int) -> None:
    sentences = split(text, language)
    pieces = [piece for sentence in sentences for piece in cut(sentence, limit)]

    assert "".join("".join(sentences).split()) == "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= limit for piece in pieces)


def test_a_long_text_takes_no_more_time_than_its_length() -> None:
    # Quadratic work on a million characters would run into the test's time limit.
    assert len(split("He said (so. " * 80_000)) > 1
    assert len(split('"' * 500_000 + "." * 500_000)) == 1
    assert len(cut("word, " * 20_000, 100)) > 1
