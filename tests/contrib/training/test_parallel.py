from __future__ import annotations

import random

import pytest
from training import parallel
from training.vocabulary import PHRASES, WORDS


@pytest.mark.parametrize(
    ("english", "french", "german"),
    [
        (
            "start the meeting three seven one",
            "commencez la réunion trois sept un",
            "starten Sie die Besprechung drei sieben eins",
        ),
        (
            "please leave the meeting now",
            "veuillez quitter la réunion maintenant",
            "bitte verlassen Sie die Besprechung jetzt",
        ),
        (
            "record the next meeting today please",
            "enregistrez la réunion suivante aujourd'hui s'il vous plaît",
            "nehmen Sie die nächste Besprechung heute auf bitte",
        ),
        ("join the team now", "rejoignez l'équipe maintenant", "treten Sie dem Team jetzt bei"),
        ("stop record", "arrêtez l'enregistrement", "stoppen Sie die Aufnahme"),
        ("no thank you", "non merci", "nein danke"),
        ("the next slide", "la diapositive suivante", "die nächste Folie"),
        ("stop stop now", "arrêtez arrêtez maintenant", "stoppen stoppen jetzt"),
    ],
)
def test_a_line_is_translated_by_its_longest_parts(english, french, german):
    assert parallel.translate(english, "fr") == french
    assert parallel.translate(english, "de") == german


def test_please_belongs_to_the_command_that_follows_it():
    assert (
        parallel.translate("stop record please start the meeting please", "de")
        == "stoppen Sie die Aufnahme bitte starten Sie die Besprechung bitte"
    )
    assert (
        parallel.translate("stop record please start the meeting please", "fr")
        == "arrêtez l'enregistrement veuillez commencer la réunion s'il vous plaît"
    )


@pytest.mark.parametrize("language", parallel.TAGS)
def test_every_word_and_phrase_can_be_translated(language):
    for text in (*WORDS, *PHRASES):
        assert parallel.translate(text, language)


def test_a_word_that_is_not_in_the_vocabulary_is_named():
    with pytest.raises(ValueError, match="'tomorrow'"):
        parallel.translate("start the meeting tomorrow", "fr")


def test_what_is_said_to_be_unseen_is_kept_from_the_training():
    lines = parallel.unseen(200, seed=3)

    assert len(set(lines)) == 200
    assert all(parallel.is_held_out(line) for line in lines)


def test_some_lines_of_every_kind_are_kept_from_the_training():
    rng = random.Random(4)
    lines = [parallel.sentence(rng) for _ in range(2000)]
    kept = [line for line in lines if parallel.is_held_out(line)]

    assert 0.04 < len(kept) / len(lines) < 0.12
    assert any(line.startswith("please ") for line in kept)
    assert not any(line.count(" ") < 2 for line in kept)
