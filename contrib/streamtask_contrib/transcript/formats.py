"""A transcript or a translation as a file: plain text, JSON, SubRip (.srt) and WebVTT (.vtt). Pure.

Subtitles are cut so that they can be read: two lines of 42 characters, seven seconds, at words. What is heard of a
person is only text: markup in it is escaped, and a line break is a space.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamtask_contrib.events import Segment, TranslatedSegment, Word
from streamtask_contrib.languages import separator
from streamtask_contrib.transcript.stitching import Transcript, Translation

#: Characters of a subtitle's line, lines of a subtitle, and seconds that it is shown, at most.
LINE, LINES, SECONDS = 42, 2, 7.0
#: A silence that ends a subtitle, in seconds.
_PAUSE = 1.5
#: No subtitle is shorter than this, in seconds: a player would leave it out.
_SHORTEST = 0.001

_ARROW = re.compile("-{2,}>")

Document = Transcript | Translation


def as_text(document: Document) -> str:
    """A line a segment; the speaker's name before it where there are names."""
    lines = ((_name(document, segment.speaker), plain(segment.text)) for segment in document.segments)
    return "".join(f"{name}: {text}\n" if name else f"{text}\n" for name, text in lines if text)


def as_json(document: Document) -> str:
    """Everything, times in seconds to the millisecond."""
    facts: dict[str, Any] = {
        "language": document.language,
        "end": document.end,
        "is_complete": document.is_complete,
        "speakers": dict(document.speakers),
        "speaker_method": document.speaker_map.method,
        "missing": list(document.missing),
        "text": document.text,
        "segments": [segment.model_dump(mode="json") for segment in document.segments],
    }
    if isinstance(document, Transcript):
        facts["failed"] = [{"sequence": n, "message": message} for n, message in document.failed.items()]
    return json.dumps(_rounded(facts), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def as_srt(document: Document) -> str:
    """SubRip. It knows no escape: an arrow in the text, which would be taken for a time, is written shorter."""
    blocks = []
    for number, cue in enumerate(cues(document, names_in_text=True), 1):
        lines = _ARROW.sub("->", "\n".join(cue.lines))
        blocks.append(f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{lines}\n")
    return "\n".join(blocks)


def as_vtt(document: Document) -> str:
    """WebVTT, with a voice tag for each known speaker."""
    blocks = ["WEBVTT\n"]
    for cue in cues(document):
        text = "\n".join(map(_escaped, cue.lines))
        spoken = f"<v {_escaped(cue.speaker)}>{text}</v>" if cue.speaker else text
        blocks.append(f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{spoken}\n")
    return "\n".join(blocks)


#: By the ending of a file's name.
FORMATS: Mapping[str, Callable[[Document], str]] = {"txt": as_text, "json": as_json, "srt": as_srt, "vtt": as_vtt}


def plain(text: str) -> str:
    """Text in one line, without control characters."""
    return " ".join("".join(each for each in text if each.isspace() or unicodedata.category(each) != "Cc").split())


# ── subtitles ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle."""

    start: float
    end: float
    lines: tuple[str, ...]
    #: A name to show; empty where nobody knows.
    speaker: str


def cues(document: Document, *, names_in_text: bool = False) -> list[Cue]:
    """The subtitles of a document by their start. Those of one speaker do not overlap.

    `names_in_text`: a segment's text begins with its speaker's name.
    """
    space = separator(document.language)
    cut = []
    for segment in document.segments:
        speaker = _name(document, segment.speaker)
        words = _words(segment, space, prefix=f"{speaker}: " if names_in_text and speaker else "")
        cut += [Cue(part[0].start, part[-1].end, _lines(part), speaker) for part in _readable(words)]
    cut.sort(key=lambda cue: cue.start)
    return _fitted(cut)


def _fitted(cut: Sequence[Cue]) -> list[Cue]:
    """To the millisecond, long enough to be shown at all, not too long, and not into the next of the same speaker."""
    next_start: dict[str, float] = {}
    fitted = []
    for cue in reversed(cut):
        start = round(max(cue.start, 0.0), 3)
        end = round(min(cue.end, start + SECONDS, next_start.get(cue.speaker, math.inf)), 3)
        next_start[cue.speaker] = start
        fitted.append(Cue(start, max(end, start + _SHORTEST), cue.lines, cue.speaker))
    return fitted[::-1]


def _words(segment: Segment | TranslatedSegment, space: str, *, prefix: str) -> list[Word]:
    """The words of a segment, in pieces that fit a line. Where their times are unknown, by their length."""
    if isinstance(segment, Segment) and segment.words:
        words = [word.model_copy(update={"text": _spaced(word.text)}) for word in segment.words]
    else:
        words = list(_spread(segment, space))
    words = [word for word in words if word.text.strip()]
    if prefix and words:
        words[0] = words[0].model_copy(update={"text": prefix + words[0].text.strip()})
    return [piece for word in words for piece in _pieces(word)]


def _spread(segment: Segment | TranslatedSegment, space: str) -> Iterator[Word]:
    text = plain(segment.text)
    texts = [f" {word}" for word in text.split()] if space else list(text)
    step = (segment.end - segment.start) / max(sum(map(len, texts)), 1)
    start = segment.start
    for word in texts:
        yield Word(start=start, end=start + step * len(word), text=word)
        start += step * len(word)


def _pieces(word: Word) -> Iterator[Word]:
    """A word, cut where it is longer than a line."""
    if len(word.text.strip()) <= LINE:
        yield word
        return
    text = word.text.strip()
    step = (word.end - word.start) / len(text)
    for place in range(0, len(text), LINE):
        piece = text[place : place + LINE]
        start = word.start + step * place
        spaced = f" {piece}" if not place and word.text[0].isspace() else piece
        yield Word(start=start, end=start + step * len(piece), text=spaced)


def _readable(words: Iterable[Word]) -> Iterator[list[Word]]:
    """Words, a subtitle at a time."""
    taken: list[Word] = []
    for word in words:
        if taken and (
            word.end - taken[0].start > SECONDS
            or word.start - taken[-1].end > _PAUSE
            or len(_lines([*taken, word])) > LINES
        ):
            yield taken
            taken = []
        taken.append(word)
    if taken:
        yield taken


def _lines(words: Sequence[Word]) -> tuple[str, ...]:
    """Words in lines; each but the last as full as it gets."""
    lines = [""]
    for word in words:
        longer = (lines[-1] + word.text).strip()
        if len(longer) <= LINE:
            lines[-1] = longer
        else:
            lines.append(word.text.strip())
    return tuple(lines)


# ── details ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _name(document: Document, label: str | None) -> str:
    """A speaker's name, as one line of text; a label without a name is its own."""
    return plain(document.speakers.get(label, label)) if label else ""


def _spaced(text: str) -> str:
    """A word in one line, with the space before it if there is one."""
    return (" " if text[:1].isspace() else "") + plain(text)


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _rounded(value: Any) -> Any:
    """A JSON value with its numbers to three digits: milliseconds, and as much of a probability as means anything."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value
