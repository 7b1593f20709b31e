"""Windows to learn from: what somebody might record, and what the recogniser should answer.

A window holds one turn, or several with pauses of 0.3 to 2 s and other voices; noise over it; sometimes noise alone.
A turn may be cut at its begin, in its middle, or by the window's end, as cuts happen when sound comes in chunks.
"""

from __future__ import annotations

import bisect
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.corpus import Corpus
from training.synthesis import RATE, Clip
from training.tokens import WINDOW, Tokens
from training.vocabulary import utterance

#: Whisper's decoder cannot begin later.
_LATEST_FIRST_TIMESTAMP = 1.0
#: Not a label: the loss leaves it out.
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word in a window, in samples."""

    word: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Turn:
    """Words without a pause between them. Of a turn that the window cuts, only the words that are whole."""

    words: tuple[Spoken, ...]
    begin: int
    end: int
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Window:
    """Sound, and the turns in it."""

    samples: NDArray[np.float32]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens that the decoder is given, the token that it should say after each, and which of them are words.

    `places` are (index of the token after which it should say a word, that word with its place in the sound).
    """

    given: list[int]
    wanted: list[int]
    places: list[tuple[int, Spoken]]


class Recordings:
    """Makes windows out of a corpus."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._corpus = corpus
        self._by_length = sorted(range(len(corpus)), key=lambda number: corpus.entries[number].length)
        self._lengths = [corpus.entries[number].length for number in self._by_length]
        generator = np.random.default_rng(seed)
        white = generator.standard_normal(60 * RATE).astype(np.float32)
        low = np.convolve(white, np.exp(-np.arange(200) / generator.uniform(5, 50)), "same").astype(np.float32)
        self._noises = [white, (low / low.std()).astype(np.float32)]

    def window(self, length: int, rng: random.Random) -> Window:
        """Return a window of at most `length` samples."""
        if rng.random() < 0.06:
            return Window(self._nobody(rng.randrange(length // 2, length), rng), ())
        sound = np.zeros(length, np.float32)
        several = rng.random() < 0.5
        is_cut = length == WINDOW * RATE and rng.random() < 0.15
        turns: list[Turn] = []
        end = self._lead(length, rng)
        while not turns or several or is_cut:
            begin = end + (round(rng.uniform(0.3, 2.0) * RATE) if turns else 0)
            clip = self._clip(length if is_cut else length - begin, rng)
            if clip is None or begin > length - RATE // 4:
                break
            turns.append(_place(clip, begin, sound, rng))
            end = turns[-1].end
            if turns[-1].is_cut:
                break
        if [turn.words for turn in turns] == [()]:  # cut within its first word
            return Window(self._nobody(length, rng), ())
        tail = round(rng.choice((rng.uniform(0.02, 0.3), rng.uniform(0.1, 1.5))) * RATE)
        sound = sound[: min(length, end + tail)]
        if rng.random() < 0.7:
            sound = sound + self._hiss(len(sound), rng, -rng.uniform(8, 40)) * float(sound.std() + 1e-5)
        return Window(sound, tuple(turns))

    def _lead(self, length: int, rng: random.Random) -> int:
        if rng.random() < 0.2:
            return 0
        longest = 3.0 if rng.random() < 0.15 else 0.9
        return round(min(rng.uniform(0, longest), length / RATE / 3) * RATE)

    def _clip(self, longest: int, rng: random.Random) -> Clip | None:
        """Return a clip that fits, or a part of it; nothing where none fits."""
        fitting = bisect.bisect_right(self._lengths, longest)
        if not fitting:
            return None
        # The longer half twice as often: the short ones are few words over and over.
        number = rng.randrange(fitting // 2, fitting) if rng.random() < 0.5 else rng.randrange(fitting)
        clip = self._corpus.clip(self._by_length[number])
        return _part(clip, rng) if rng.random() < 0.25 else clip

    def _hiss(self, length: int, rng: random.Random, decibels: float) -> NDArray[np.float32]:
        """White or low noise of this level."""
        noise = self._noises[rng.randrange(len(self._noises))]
        start = rng.randrange(len(noise) - length)
        return noise[start : start + length] * 10 ** (decibels / 20)

    def _nobody(self, length: int, rng: random.Random) -> NDArray[np.float32]:
        """What is recorded when nobody speaks: nothing, hiss, a hum, or knocks."""
        decibels = rng.uniform(-80, -15)
        sound = self._hiss(length, rng, decibels)
        kind = rng.random()
        if kind < 0.2:
            return np.zeros(length, np.float32)
        if kind < 0.35:
            hum = np.sin(np.arange(length) * (2 * np.pi * rng.uniform(50, 3000) / RATE)).astype(np.float32)
            return sound * 0.1 + hum * 10 ** (decibels / 20)
        if kind < 0.5:
            for _ in range(rng.randint(1, 8)):
                at = rng.randrange(length - 400)
                sound[at : at + 400] += sound[at : at + 400] * np.exp(-np.arange(400) / 80) * 30
        return sound


def answer(window: Window, tokens: Tokens, rng: random.Random) -> Answer:
    """Return what the decoder should say of a window: with timestamps or without, after a prompt or none."""
    prompt = [tokens.previous, *tokens.of(utterance(rng).split())] if rng.random() < 0.1 else []
    timed = rng.random() < 0.6
    said: list[tuple[int, Spoken | None]] = []
    if not window.turns:
        return _silence(prompt, tokens, timed=timed)
    for number, turn in enumerate(window.turns):
        if timed:
            begin = turn.begin / RATE if number else min(turn.begin / RATE, _LATEST_FIRST_TIMESTAMP)
            said.append((tokens.at(begin), None))
            if turn.is_cut and number:
                break  # as Whisper does it: the next window begins here
        said += [(tokens.of([spoken.word])[0], spoken) for spoken in turn.words]
        if timed:
            said.append((tokens.at(min(turn.end / RATE, WINDOW)), None))
    head = [*prompt, tokens.start] if timed else [*prompt, tokens.start, tokens.no_timestamps]
    given = head + [token for token, _ in said]
    wanted = [IGNORED] * (len(head) - 1) + [token for token, _ in said] + [tokens.end]
    places = [(len(head) - 1 + number, spoken) for number, (_, spoken) in enumerate(said) if spoken is not None]
    return Answer(given, wanted, places)


def _silence(prompt: list[int], tokens: Tokens, *, timed: bool) -> Answer:
    """Nothing is said: so says the first token, and so does the end right after the mode."""
    mode = tokens.at(0) if timed else tokens.no_timestamps
    return Answer([*prompt, tokens.start, mode], [IGNORED] * len(prompt) + [tokens.no_speech, tokens.end], [])


def _place(clip: Clip, begin: int, sound: NDArray[np.float32], rng: random.Random) -> Turn:
    """Mix a clip into the sound; return the turn with the words that are whole."""
    whole = clip.samples * 10 ** (rng.uniform(-20, 0) / 20)
    heard = whole[: len(sound) - begin]
    sound[begin : begin + len(heard)] += heard
    ends = (*clip.begins[1:], len(whole))
    words = tuple(
        Spoken(word, begin + first, begin + last)
        for word, first, last in zip(clip.text.split(), clip.begins, ends, strict=True)
        if last <= len(heard)
    )
    return Turn(words, begin, begin + len(heard), is_cut=len(heard) < len(whole))


def _part(clip: Clip, rng: random.Random) -> Clip:
    """Return some neighbouring words of a clip, cut as hard as a chunk is."""
    words = clip.text.split()
    first = rng.randrange(len(words))
    last = rng.randint(first + 1, len(words))
    begin = clip.begins[first]
    end = clip.begins[last] if last < len(words) else len(clip.samples)
    begins = tuple(place - begin for place in clip.begins[first:last])
    return Clip(" ".join(words[first:last]), clip.samples[begin:end], begins)
