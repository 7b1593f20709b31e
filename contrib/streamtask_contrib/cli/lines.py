"""Utterances as they come, each with its translation, and how long after the speech each was there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

#: Characters of the columns: the time, the delays, and what words and their translation get at least.
_TIME, _DELAYS, _NARROWEST = 7, 16, 20

#: Seconds from the end of the speech, a position in seconds, to now, when this message of it has come.
Delay = Callable[[float, dict[str, Any]], float]


@dataclass(slots=True, kw_only=True)
class Line:
    """One utterance. Positions are seconds of the session; delays are counted from the end of the speech."""

    start: float
    end: float
    text: str
    speaker: str
    text_after: float
    translation: str = ""
    translation_after: float | None = None


class Lines:
    """What has come of a session."""

    def __init__(self, delay: Delay) -> None:
        self._delay = delay
        self._chunks: int | None = None
        self._answered: set[int] = set()
        self._lines: dict[int, Line] = {}

    def take_words(self, message: dict[str, Any]) -> None:
        """Take a final."""
        self._answered.add(message["sequence"])
        if message["is_last"]:
            self._chunks = message["sequence"] + 1
        segments = message["segments"]
        if segments:
            end = segments[-1]["end"]
            self._lines[message["sequence"]] = Line(
                start=segments[0]["start"],
                end=end,
                text=message["text"].strip(),
                speaker=message["speaker_map"]["speakers"].get(segments[0]["speaker"], ""),
                text_after=self._delay(end, message),
            )

    def take_translation(self, message: dict[str, Any]) -> Line | None:
        """Take a translation; the line that is complete by it."""
        line = self._lines.get(message["sequence"])
        if line is not None and not message["is_partial"]:
            line.translation = message["text"].strip()
            line.translation_after = self._delay(line.end, message)
            return line
        return None

    @property
    def complete(self) -> list[Line]:
        """Those that have their translation, in the order in which they were spoken."""
        found = [line for line in self._lines.values() if line.translation_after is not None]
        return sorted(found, key=lambda line: line.start)

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        is_heard = self._chunks is not None and len(self._answered) >= self._chunks
        return is_heard and len(self.complete) == len(self._lines)


def row(line: Line, width: int) -> Table:
    """When it was said, the words, the translation, and how long after the end of the speech each was there."""
    made = Table.grid(padding=(0, 2))
    text = max(_NARROWEST, (width - _TIME - _DELAYS - 6) // 2)
    made.add_column(width=_TIME, justify="right", style="dim")
    made.add_column(width=text)
    made.add_column(width=text, style="cyan")
    made.add_column(width=_DELAYS, style="dim", no_wrap=True)
    minutes, seconds = divmod(line.start, 60)
    who = f"{line.speaker}: " if line.speaker else ""
    delays = f"+{line.text_after:.2f} s +{line.translation_after or 0.0:.2f} s"
    made.add_row(f"{minutes:.0f}:{seconds:04.1f}", Text(who + line.text), Text(line.translation), delays)
    return made
