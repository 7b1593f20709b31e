from __future__ import annotations

import json
import random

import pytest

np = pytest.importorskip("numpy", reason="numpy is not installed")
pytest.importorskip("scipy", reason="scipy is not installed")
pytest.importorskip("tokenizers", reason="tokenizers is not installed")

from training.corpus import Corpus
from training.tokens import WINDOW, Tokens
from training.vocabulary import WORDS
from training.windows import IGNORED, Recordings, Spoken, Turn, Window, answer

_RATE = 16_000
_TEXTS = ("hello team", "three seven one", "stop")


@pytest.fixture(scope="module")
def tokens():
    return Tokens()


@pytest.fixture
def corpus(tmp_path):
    """Three clips of half a second a word; every clip is as loud as its number."""
    entries, samples = [], []
    for number, text in enumerate(_TEXTS, 1):
        length = len(text.split()) * _RATE // 2
        begins = list(range(0, length, _RATE // 2))
        entries.append(
            {"text": text, "voice": "f1", "offset": sum(map(len, samples)), "length": length, "begins": begins}
        )
        samples.append(np.full(length, 5000 * number, np.int16))
    (tmp_path / "training.json").write_text(json.dumps(entries))
    (tmp_path / "training.pcm").write_bytes(np.concatenate(samples).tobytes())
    return Corpus(tmp_path, "training")


def _window(*turns):
    return Window(np.zeros(8 * _RATE, np.float32), turns)


def _turn(text, begin, end, *, is_cut=False):
    words = text.split()
    step = (end - begin) / max(1, len(words))
    spoken = tuple(
        Spoken(word, round((begin + step * place) * _RATE), round((begin + step * (place + 1)) * _RATE))
        for place, word in enumerate(words)
    )
    return Turn(spoken, round(begin * _RATE), round(end * _RATE), is_cut)


def _answers(window, tokens):
    """What is wanted of a window with timestamps, and without, both without a prompt."""
    found = {}
    for seed in range(200):
        one = answer(window, tokens, random.Random(seed))
        if one.given[0] == tokens.start:
            found[tokens.no_timestamps in one.given] = one
    return found[False], found[True]


def _said(one, tokens):
    return [tokens.in_order()[token].replace("Ġ", "") for token in one.wanted if token != IGNORED]


def test_turns_are_written_between_their_times(tokens):
    timed, plain = _answers(_window(_turn("hello team", 0.5, 1.5), _turn("stop", 2.3, 2.8)), tokens)

    assert _said(timed, tokens) == [
        *("<|0.50|>", "hello", "team", "<|1.50|>"),
        *("<|2.30|>", "stop", "<|2.80|>"),
        "<|endoftext|>",
    ]
    assert _said(plain, tokens) == ["hello", "team", "stop", "<|endoftext|>"]


def test_a_turn_that_the_window_cuts_is_left_for_the_next(tokens):
    cut = _turn("three seven", 7.0, 8.0, is_cut=True)
    timed, plain = _answers(_window(_turn("hello team", 0.5, 1.5), cut), tokens)

    assert _said(timed, tokens)[-2:] == ["<|7.00|>", "<|endoftext|>"]
    assert _said(plain, tokens) == ["hello", "team", "three", "seven", "<|endoftext|>"]


def test_silence_is_said_by_the_first_token(tokens):
    for one in _answers(_window(), tokens):
        assert _said(one, tokens) == ["<|nospeech|>", "<|endoftext|>"]


def test_no_first_timestamp_is_later_than_whisper_allows(tokens):
    timed, _ = _answers(_window(_turn("stop", 3.0, 3.5)), tokens)

    assert _said(timed, tokens)[0] == "<|1.00|>"


def test_a_word_is_wanted_at_the_place_that_is_named_for_it(tokens):
    for one in _answers(_window(_turn("hello team", 0.5, 1.5), _turn("stop", 2.3, 2.8)), tokens):
        assert [tokens.in_order()[one.wanted[place]][1:] for place, _ in one.places] == ["hello", "team", "stop"]
        assert len(one.given) == len(one.wanted)


def test_words_lie_where_a_window_says_they_do(corpus):
    recordings, rng = Recordings(corpus, 1), random.Random(2)
    loudness = {word: number for number, text in enumerate(_TEXTS, 1) for word in text.split()}
    several = 0
    for _ in range(200):
        window = recordings.window(WINDOW * _RATE, rng)
        several += len(window.turns) > 1
        assert len(window.samples) <= WINDOW * _RATE
        for turn in window.turns:
            heard = window.samples[turn.begin : turn.end]
            assert abs(float(heard.mean())) > 0.002
            assert {spoken.word for spoken in turn.words} <= set(loudness)
            assert all(turn.begin <= spoken.begin < spoken.end <= turn.end for spoken in turn.words)
        for one, other in zip(window.turns, window.turns[1:], strict=False):
            assert 0.3 <= (other.begin - one.end) / _RATE <= 2.01
    assert several > 50


def test_every_word_is_one_token_below_the_end(tokens):
    ids = tokens.of(WORDS)

    assert len(set(ids)) == len(WORDS)
    assert max(ids) < tokens.end
    assert tokens.at(WINDOW) == tokens.size - 1
    assert [tokens.tokenizer.encode(f" {word}").ids for word in WORDS] == [[number] for number in ids]
