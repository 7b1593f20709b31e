"""Text → sentences, and a sentence that is too long → pieces. Pure: no model, no file, no clock.

Translation models are trained on sentences; of a paragraph they drop parts. The rules are few and bounded on purpose:
marks that end a sentence, what makes a full stop none (abbreviations, initials, numbers, a small letter behind it),
and quotations, which stay whole. Where they err, they err towards too few cuts: two sentences at once are translated
worse, half a sentence is translated wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

#: They end a sentence wherever they stand: they have no other use, and some scripts leave no space behind them.
_ALWAYS = "。！？｡؟۔।॥։።፧។៕။"  # noqa: RUF001 - each is meant
#: They end one only before a space or at the end of the text.
_BEFORE_SPACE = ".!?…"
#: What may stand between such a mark and the end of its sentence.
_CLOSERS = "\"'”’»›)]}」』）】》"  # noqa: RUF001 - as above
_END = re.compile(f"[{_ALWAYS}{_BEFORE_SPACE}]+[{re.escape(_CLOSERS)}]*")

#: Passages that stay whole, up to the next closing mark. An opening mark without one protects nothing.
_PAIRS = [tuple(pair) for pair in ("“”", '""', "„“", "«»", "»«", "「」", "『』", "()", "（）")]  # noqa: RUF001 - as above
_WHOLE = re.compile("|".join(f"{re.escape(a)}[^{re.escape(a + b)}]*{re.escape(b)}" for a, b in _PAIRS))
#: Characters above which such a passage is a speech, no quotation, and is split as other text is.
_LONGEST_WHOLE = 300

#: Words, in small letters, whose full stop ends no sentence.
_ABBREVIATIONS = frozenset(
    """
    mr mrs ms dr prof st jr sr vs approx dept inc ltd corp gen sgt lt capt rev e.g i.e
    z.b d.h u.a u.ä o.ä s.o s.u bzw usw evtl ca vgl str tel inkl exkl etc
    mme mlle cf av chap p.ex env
    sra srta ud uds ee.uu p.ej sig dott avv ing ecc
    dhr mevr bijv d.w.z enz т.е т.п г-н г-жа ул
    """.split()  # noqa: RUF001, SIM905 - Cyrillic is meant; a list of eighty quoted words reads worse
)
#: As above, but only before a number: "No. 5", and never "No. We cannot."
_BEFORE_NUMBER = frozenset("no nr vol fig p pp art abs núm pág pag n стр".split())  # noqa: SIM905 - as above
#: Where "3." is "third": a short number before a full stop ends no sentence.
_ORDINALS = frozenset("bs cs da de et fi fo hr hu is lb lv nn no pl sk sl sr tr".split())  # noqa: SIM905 - as above
#: Digits of such a number: days, months and floors. Years are longer, and end sentences.
_ORDINAL_DIGITS = 2

#: What a word stands behind.
_BEFORE_WORD = " ([{\"'“„«"
#: Characters that are looked at for the word before a full stop: no abbreviation is longer.
_LONGEST_WORD = 20
#: Where a sentence that is too long is cut, from the best place to the worst: clauses, words, characters.
_CUTS = (
    re.compile(r"(?<=[,;:—–])\s+|(?<=[，、；：])"),  # noqa: RUF001 - as above
    re.compile(r"\s+"),
    re.compile(r"(?<=\S)"),
)


def split(text: str, language: str = "en") -> list[str]:
    """The sentences of a text in its order, space between words as one. `language`: ISO 639-1."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [sentence for line in lines for sentence in _split_line(line, language) if sentence]


def cut(sentence: str, limit: int, *, measure: Callable[[str], int] = len) -> list[str]:
    """A sentence in pieces that each measure at most `limit`; as few as go, and one where it is short enough.

    It is cut at commas where that is enough, else at spaces, else between characters; a character is never cut.
    """
    if limit < 1:
        raise ValueError(f"limit is at least 1, got {limit}")
    return _cut(sentence.strip(), limit, measure, _CUTS)


def _split_line(line: str, language: str) -> list[str]:
    passages = [found.span() for found in _WHOLE.finditer(line) if len(found[0]) <= _LONGEST_WHOLE]
    inside = {place for start, end in passages for place in range(start + 1, end)}
    marks = _END.finditer(line)
    cuts = [mark.end() for mark in marks if mark.end() not in inside and _ends(line, mark, language)]
    return [line[start:end].strip() for start, end in pairwise([0, *cuts, len(line)])]


def _ends(line: str, mark: re.Match[str], language: str) -> bool:
    """Whether a sentence ends behind this mark."""
    signs = mark[0].rstrip(_CLOSERS)
    is_quoted = len(signs) < len(mark[0])
    space, following = line[mark.end() : mark.end() + 1], line[mark.end() + 1 : mark.end() + 2]
    if any(sign in _ALWAYS for sign in signs):
        return not (is_quoted and space.isalnum())  # 「はい。」と言った。
    if space != " ":
        return not space
    if signs[-1] in "!?":
        return not (is_quoted and following.islower())  # "Really?" she asked.
    if following.islower():
        return False
    before = line[max(0, mark.start() - _LONGEST_WORD) : mark.start()]
    return signs != "." or not _is_shortened(before, following, language)


def _is_shortened(before: str, following: str, language: str) -> bool:
    """Whether a full stop belongs to the last word before it; `following` is the first character behind it."""
    word = before[max((before.rfind(sign) for sign in _BEFORE_WORD), default=-1) + 1 :]
    if word.isdigit():
        return language in _ORDINALS and len(word) <= _ORDINAL_DIGITS
    if len(word) == 1 and word.isupper() and word != "I":
        return True  # an initial
    return word.lower() in _ABBREVIATIONS or (word.lower() in _BEFORE_NUMBER and following.isdigit())


def _cut(text: str, limit: int, measure: Callable[[str], int], patterns: tuple[re.Pattern[str], ...]) -> list[str]:
    """Pack what lies between the cuts of the first pattern; what is still too long, between those of the next."""
    if not patterns or measure(text) <= limit:
        return [text]
    pieces: list[str] = []
    begin = taken = 0
    for end in [*(found.end() for found in patterns[0].finditer(text)), len(text)]:
        if taken > begin and measure(text[begin:end].strip()) > limit:
            pieces.append(text[begin:taken])
            begin = taken
        taken = end
    pieces.append(text[begin:])
    return [
        smaller for piece in pieces if piece.strip() for smaller in _cut(piece.strip(), limit, measure, patterns[1:])
    ]
