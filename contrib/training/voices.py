"""Whose voices: espeak-ng's named ones, kept apart for training, development and the test, and others drawn at random.

A voice is a language and a variant, "en-us+f2". The named variants are few and much alike, and a recogniser trained on
them alone fails for one that is not: so most of the training speaks with variants that are drawn here, whose formants,
breath, tone and stress lie anywhere in the range that the named ones span.
"""

from __future__ import annotations

import random

LANGUAGES: tuple[str, ...] = (
    "en-us",
    "en",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-029",
    "en-us-nyc",
    "en-gb-x-gbcwmd",
)

#: The test's. Nothing is trained on them or chosen by them. (`edward2` and `AnxiousAndy` are their twins: unused.)
HELD_OUT: tuple[str, ...] = ("f5", "m8", "Andy", "Alicia", "steph3", "edward", "Nguyen", "benjamin")

#: Not trained either: checkpoints are judged by these.
DEVELOPMENT: tuple[str, ...] = ("aunty", "gustave", "miguel", "f4", "m5", "UniRobot", "marcelo", "klatt5")

TRAINING: tuple[str, ...] = (
    *("f1", "f2", "f3", "m1", "m2", "m3", "m4", "m6", "m7", "Alex", "Andrea", "Annie", "Denis", "Diogo", "Gene"),
    *("Gene2", "Henrique", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "Storm", "Tweaky", "adam"),
    *("anika", "antonio", "belinda", "boris", "caleb", "david", "ed", "grandma", "grandpa", "iven", "iven2", "iven3"),
    *("john", "kaukovalta", "klatt", "klatt2", "klatt3", "klatt4", "klatt6", "linda", "max", "michel", "norbert"),
    *("pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "steph2", "travis", "victor"),
    *("zac", "croak", "whisper"),
)


def draw(rng: random.Random) -> str:
    """Return the variant file of a voice that nobody has; its fields are those of espeak-ng's own variants."""
    low = rng.uniform(60, 220)
    lines = ["language variant", f"pitch {low:.0f} {low * rng.uniform(1.1, 1.7):.0f}"]
    if rng.random() < 0.35:
        lines.append(f"klatt {rng.randint(1, 6)}")
    lines += _formants(rng)
    lines += [f"flutter {rng.randint(0, 15)}", f"roughness {rng.randint(0, 2)}"]
    lines.append(f"voicing {rng.choice((100, 100, rng.randint(35, 200)))}")
    lines.append(f"consonants {rng.randint(60, 150)} {rng.randint(20, 150)}")
    lines += [line for chance, line in _ornaments(rng) if rng.random() < chance]
    return "\n".join(lines) + "\n"


def _formants(rng: random.Random) -> list[str]:
    """Frequency, height and width of each formant in per cent: one length of throat, and something of its own each."""
    throat = rng.uniform(0.82, 1.28)
    lines = [f"formant 0 {throat * 100:.0f} {rng.randint(80, 130)} {rng.randint(80, 150)}"]
    for number in range(1, 9):
        frequency = 100 * throat * rng.uniform(0.9, 1.12)
        missing = number > 2 and rng.random() < 0.08
        height = 0 if missing else rng.randint(60, 150)
        lines.append(f"formant {number} {frequency:.0f} {height} {rng.randint(70, 160)}")
    return lines


def _ornaments(rng: random.Random) -> list[tuple[float, str]]:
    """What only some voices have, with how many do."""

    def several(count: int, low: int, high: int) -> str:
        return " ".join(str(rng.randint(low, high)) for _ in range(count))

    tone = " ".join(f"{hertz} {rng.randint(20, 255)}" for hertz in (100, 600, 1200, 2400, 3600, 5400))
    return [
        (0.35, f"breath 0 {several(7, 0, 10)}"),
        (0.35, "breathw 150 150 200 200 400 400"),
        (0.4, f"tone {tone}"),
        (0.3, f"stressAdd {several(6, -10, 60)} {several(2, 0, 200)}"),
        (0.3, f"stressAmp {several(8, 12, 30)}"),
        (0.15, f"echo {rng.randint(10, 140)} {rng.randint(5, 40)}"),
        (0.3, f"intonation {rng.randint(1, 4)}"),
    ]
