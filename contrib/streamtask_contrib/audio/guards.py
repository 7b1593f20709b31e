"""What a model says when nobody said it: judged after the fact, in pure functions.

Silence and noise make a Whisper model invent. Voice activity detection keeps most of it away; what still comes
through is known by how quiet it was, by the model's own figures, by sentences that subtitles end with, and by going
in circles. Each guard errs towards keeping: what was said must not be dropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from streamtask_contrib.audio.decoding import Samples

#: Root mean square (full scale is 1) below which nothing can be heard: about -60 dB.
QUIETEST = 0.001
#: Probability of "no speech" from which the words have to be good ones.
NO_SPEECH = 0.6
#: Mean log probability of tokens below which words are bad.
LOG_PROBABILITY = -1.0
#: A text that shrinks further when compressed repeats itself.
COMPRESSION = 2.4

#: How often a run of so many words may repeat before it is a loop: "no no no" is said, longer ones seldom.
_REPEATS = {1: 6, 2: 4, 3: 3, 4: 3, 5: 3}

#: Whole texts that models make of silence, because subtitles end with them; compared without case and punctuation.
KNOWN_PHRASES = frozenset(
    {
        "thanks for watching",
        "thank you for watching",
        "thank you so much for watching",
        "please subscribe to my channel",
        "like and subscribe",
        "dont forget to like and subscribe",
        "subtitles by the amaraorg community",
        "transcription by castingwords",
        "sous titres réalisés par la communauté damaraorg",
        "sous titrage st 501",
        "merci davoir regardé cette vidéo",
        "untertitel der amaraorg community",
        "untertitel im auftrag des zdf für funk 2017",
        "vielen dank fürs zuschauen",
        "sottotitoli creati dalla comunità amaraorg",
        "subtítulos realizados por la comunidad de amaraorg",
        "gracias por ver el video",
        "legendas pela comunidade amaraorg",
        "ご視聴ありがとうございました",
        "请不吝点赞 订阅 转发 打赏支持明镜与点点栏目",
        "продолжение следует",
        "субтитры сделал dimatorzok",
    }
)


class Heard(Protocol):
    """What a model says of a turn, as far as it is judged here."""

    @property
    def text(self) -> str:
        """Its words."""

    @property
    def average_log_probability(self) -> float:
        """Of its tokens."""

    @property
    def no_speech_probability(self) -> float:
        """That nobody speaks, 0 to 1."""

    @property
    def compression_ratio(self) -> float:
        """How many times smaller the text is when compressed."""


def is_audible(samples: Samples) -> bool:
    """Whether a turn is loud enough to be worth an inference."""
    return math.sqrt(float(np.square(samples).mean())) >= QUIETEST


def is_dubious(heard: Heard) -> bool:
    """Whether the words are worth another try: they repeat themselves, or the model does not believe them."""
    if is_silence(heard):
        return False
    return heard.compression_ratio > COMPRESSION or heard.average_log_probability < LOG_PROBABILITY


def is_silence(heard: Heard) -> bool:
    """Whether the model itself says that nobody spoke."""
    return heard.no_speech_probability > NO_SPEECH and heard.average_log_probability < LOG_PROBABILITY


def why_dropped(heard: Heard) -> str:
    """Why the words of a turn are no words; empty where they are kept."""
    if not heard.text.strip():
        return "empty"
    if is_silence(heard):
        return "silence"
    if heard.compression_ratio > COMPRESSION:
        return "repetition"
    if plain(heard.text) in KNOWN_PHRASES:
        return "known phrase"
    return ""


def plain(text: str) -> str:
    """A text without case and punctuation."""
    return " ".join(re.sub(r"[^\w\s]", "", text.casefold().replace("-", " ")).split())


def without_loops(words: Sequence[str]) -> list[int]:
    """Which words stay (their places) when each run that repeats too often is said once."""
    spoken = [plain(word) for word in words]
    kept: list[int] = []
    place = 0
    while place < len(spoken):
        length, end = _loop(spoken, place)
        kept += range(place, place + length)
        place = end
    return kept


def _loop(words: Sequence[str], start: int) -> tuple[int, int]:
    """(how many words to keep, where it goes on): the loop that begins here, else the one word."""
    for length, most in _REPEATS.items():
        run, times = words[start : start + length], 1
        while words[start + times * length : start + (times + 1) * length] == run:
            times += 1
        if times >= most and any(run):
            return length, start + times * length
    return 1, start + 1
