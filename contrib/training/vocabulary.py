"""What the models know: 43 English words, the phrases made of them, and which utterances are spoken.

Every other module takes its words from here, so the recogniser, the translator and the tests cannot drift apart.
"""

from __future__ import annotations

import random

DIGITS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

WORDS: tuple[str, ...] = (
    *DIGITS,
    *("start", "stop", "pause", "record", "open", "close", "call", "join", "leave", "meeting", "team", "hello"),
    *("goodbye", "yes", "no", "please", "thank", "you", "the", "next", "slide", "save", "send", "message", "red"),
    *("green", "blue", "up", "down", "left", "right", "now", "today"),
)

PHRASES: tuple[str, ...] = (
    "hello team",
    "please join the meeting",
    "please leave the meeting now",
    "start the meeting",
    "stop record",
    "record the meeting today",
    "thank you team",
    "next slide please",
    "open the next slide",
    "close the meeting",
    "call the team now",
    "send the message",
    "save the message",
    "yes please",
    "no thank you",
    "goodbye team",
    "pause the meeting",
    "start record now",
    "join the meeting now",
    "send the next message today",
)


def utterance(rng: random.Random) -> str:
    """Return what somebody says in one breath: digits, a phrase, a phrase with digits, or words in no order.

    Words in no order are the hardest and the most useful: the recogniser cannot guess them from what came before.
    """
    kind = rng.random()
    if kind < 0.35:
        return _digits(rng, 7)
    if kind < 0.5:
        return rng.choice(PHRASES)
    if kind < 0.6:
        return f"{rng.choice(PHRASES)} {_digits(rng, 3)}"
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 7)))


def _digits(rng: random.Random, most: int) -> str:
    return " ".join(rng.choice(DIGITS) for _ in range(rng.randint(1, most)))
