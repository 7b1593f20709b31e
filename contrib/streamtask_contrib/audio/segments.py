"""What was heard of turns → segments in the session's time, without what belongs to the neighbours. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from streamtask_contrib.audio import guards
from streamtask_contrib.audio.activity import Turn
from streamtask_contrib.audio.decoding import SAMPLE_RATE
from streamtask_contrib.audio.engine import HeardTurn
from streamtask_contrib.events import AudioChunkReceived, Segment, Word
from streamtask_contrib.transcript import edge_words, keep_own_words

#: Seconds without a word after which another segment begins.
PAUSE = 0.8


def as_segments(heard: HeardTurn, turn: Turn, chunk: AudioChunkReceived) -> list[Segment]:
    """What was heard of a turn of a chunk, divided at its pauses; what the model repeats in a loop is said once."""
    start = chunk.start + turn.start / SAMPLE_RATE
    end = chunk.start + turn.end / SAMPLE_RATE
    kept = [heard.words[place] for place in guards.without_loops([word.text for word in heard.words])]
    words = [
        Word(
            start=round(min(start + word.start, end), 3),
            end=round(min(start + word.end, end), 3),
            text=word.text,
            probability=round(word.probability, 4),
        )
        for word in kept
    ]
    pauses = [place for place in range(1, len(words)) if words[place].start - words[place - 1].end >= PAUSE]
    borders = [0, *pauses, len(words)]
    return [
        Segment(
            start=said[0].start,
            end=said[-1].end,
            text=written(said),
            words=said,
            average_log_probability=round(heard.average_log_probability, 4),
        )
        for first, last in pairwise(borders)
        if (said := words[first:last])
    ]


def own(segments: Iterable[Segment], chunk: AudioChunkReceived, end: float) -> list[Segment]:
    """The segments of a chunk that ends there, without the words of its neighbours' parts."""
    kept = []
    for segment in segments:
        words = keep_own_words(segment.words, **_part(chunk, end))
        if len(words) == len(segment.words):
            kept.append(segment)
        elif words:
            kept.append(with_words(segment, words))
    return kept


def edges(segments: Iterable[Segment], chunk: AudioChunkReceived, end: float) -> list[Word]:
    """The words of the neighbours' parts, by which the chunks are joined."""
    return edge_words([word for segment in segments for word in segment.words], **_part(chunk, end))


def _part(chunk: AudioChunkReceived, end: float) -> dict[str, Any]:
    return {
        "start": chunk.start,
        "end": end,
        "overlap": chunk.audio_config.overlap,
        "is_first": chunk.sequence == 0,
        "is_last": chunk.is_last,
    }


def with_words(segment: Segment, words: list[Word], **changes: object) -> Segment:
    """A part of a segment: some of its words."""
    part = {"words": words, "text": written(words), "start": words[0].start, "end": words[-1].end}
    return segment.model_copy(update=part | changes)


def written(words: Iterable[Word]) -> str:
    """Words as text."""
    return "".join(word.text for word in words).strip()


def joined(segments: Iterable[Segment]) -> str:
    """The text of segments."""
    return " ".join(segment.text for segment in segments)
