"""LocalAgreement: what two hypotheses in a row say is stable, and a model that repeats itself is not believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamtask_contrib.events import Word
from streamtask_contrib.transcript.agreement import Agreement, loop_start

#: Seconds a word lasts here.
STEP = 0.5
LOOP = "thank you thank you thank you"


def hypothesis(text: str, *, shift: float = 0.0) -> list[Word]:
    """A word each half second from 0, heard `shift` seconds late."""
    return [
        Word(start=n * STEP + shift, end=(n + 1) * STEP + shift, text=f" {word}") for n, word in enumerate(text.split())
    ]


def told(words: list[Word]) -> str:
    return "".join(word.text for word in words).strip()


@pytest.mark.parametrize(
    ("case", "hypotheses", "stable", "tentative"),
    [
        ("nothing was said", [""], "", ""),
        ("one hypothesis is no agreement", ["start the"], "", "start the"),
        ("what two begin with is stable", ["start the", "start the meeting"], "start the", "meeting"),
        ("however it is written", ["start the", "Start, the meeting"], "Start, the", "meeting"),
        ("where they differ it ends", ["start a meeting", "start the meeting"], "start", "the meeting"),
        ("they need not have anything in common", ["start", "stop"], "", "stop"),
        ("only neighbours agree", ["go", "start", "go"], "", "go"),
        ("agreement goes on behind what is stable", ["a b", "a b c", "a b c d", "a b c d e"], "a b c d", "e"),
        ("stable words stay when they are heard otherwise", ["a b", "a b c", "x y c d"], "a b c", "d"),
        ("a shorter hypothesis takes nothing back", ["a b c", "a b c", "a"], "a b c", ""),
        ("silence takes nothing back", ["a b c", "a b c", ""], "a b c", ""),
        ("a loop is no neighbour", ["a b", f"a b {LOOP}", "a b c"], "", "a b c"),
        ("a word may be said twice", ["no", "no no", "no no go"], "no no", "go"),
    ],
)
def test_what_is_stable(case: str, hypotheses: list[str], stable: str, tentative: str) -> None:
    agreement = Agreement()
    for text in hypotheses:
        answer = agreement.update(hypothesis(text))

    assert (told(answer[0]), told(answer[1])) == (stable, tentative), case


@pytest.mark.parametrize("shift", [-0.2, -0.1, 0.1, 0.2])
def test_times_that_shift_a_little_repeat_no_stable_word(shift: float) -> None:
    agreement = Agreement()
    for text in ("no no", "no no"):
        agreement.update(hypothesis(text))

    stable, tentative = agreement.update(hypothesis("no no no", shift=shift))

    assert (told(stable), told(tentative)) == ("no no", "no")


def test_a_hypothesis_may_begin_behind_what_is_stable() -> None:
    agreement = Agreement()
    for text in ("a b", "a b c"):
        agreement.update(hypothesis(text))

    stable, tentative = agreement.update(hypothesis("a b c d")[2:])

    assert (told(stable), told(tentative)) == ("a b c", "d")


def test_when_nothing_more_comes_what_is_pending_is_stable() -> None:
    agreement = Agreement()
    agreement.update(hypothesis("start the"))
    agreement.update(hypothesis("start the meeting"))

    assert told(agreement.finish()) == "start the meeting"
    assert told(agreement.finish()) == "start the meeting"


def test_after_a_pause_it_goes_on_behind_what_was_finished() -> None:
    agreement = Agreement()
    agreement.update(hypothesis("start the"))
    agreement.finish()

    agreement.update(hypothesis("start the meeting now"))
    stable, tentative = agreement.update(hypothesis("start the meeting now please"))

    assert (told(stable), told(tentative)) == ("start the meeting now", "please")


def test_a_loop_is_not_stable_however_often_it_comes() -> None:
    agreement = Agreement()
    for rounds in range(3, 12):
        stable, tentative = agreement.update(hypothesis("next slide " + "thank you " * rounds))

    assert (told(stable), told(tentative)) == ("", "next slide thank you")


def test_what_was_stable_before_a_loop_stays_and_goes_on_behind_it() -> None:
    agreement = Agreement()
    agreement.update(hypothesis("next slide please"))
    agreement.update(hypothesis("next slide please"))
    stable, tentative = agreement.update(hypothesis("next slide please " + LOOP))
    assert (told(stable), told(tentative)) == ("next slide please", "thank you")

    agreement.update(hypothesis("next slide please go on"))
    stable, _ = agreement.update(hypothesis("next slide please go on now"))

    assert told(stable) == "next slide please go on"


def test_a_loop_that_begins_in_stable_words_is_one() -> None:
    agreement = Agreement()
    agreement.update(hypothesis("thank you thank you"))
    agreement.update(hypothesis("thank you thank you"))

    for _ in range(2):
        stable, tentative = agreement.update(hypothesis(LOOP))

    assert (told(stable), told(tentative)) == ("thank you thank you", "")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("", None),
        ("a b c d e f g h", None),
        ("no no no", None),
        ("no no no no no", None),
        ("no no no no no no", 1),
        ("well no no no no no no", 2),
        ("you and you and you", None),
        ("a b a b a b", 2),
        ("a b a b a b a", 3),
        ("x a b a b a b", 3),
        ("a b c a b c a b c", 3),
        ("a b a b a b c", None),
        ("one two three four five six " * 3, 6),
        ("one two three four five six seven " * 3, None),  # longer than the window has room for
    ],
)
def test_where_a_loop_begins(text: str, start: int | None) -> None:
    assert loop_start(hypothesis(text)) == start


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8), max_size=8))
def test_stable_words_are_only_ever_added_to(hypotheses: list[list[str]]) -> None:
    agreement = Agreement()
    before: list[Word] = []
    for words in hypotheses:
        stable, tentative = agreement.update(hypothesis(" ".join(words)))
        assert stable[: len(before)] == before
        assert len(tentative) <= len(words)
        before = stable

    assert agreement.finish()[: len(before)] == before
