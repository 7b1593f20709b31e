"""What was heard of turns → segments in the session's time, without what belongs to the neighbours. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from streamtask_contrib.audio import guards
from streamtask_contrib.audio.activity import Turn
from streamtask_contrib.audio.decoding import SAMPLE_RATE
from streamtask_contrib.audio.engine import HeardTurn
from streamtask_contrib.events import AudioChunkReceived, Segment, Word
from streamtask_contrib.transcript import keep_own_words


def as_segment(heard: HeardTurn, turn: Turn, chunk: AudioChunkReceived) -> Segment:
    """A turn of a chunk as a segment; what the model repeats in a loop is said once."""
    start = chunk.start + turn.start / SAMPLE_RATE
    end = chunk.start + turn.end / SAMPLE_RATE
    words = [heard.words[place] for place in guards.without_loops([word.text for word in heard.words])]
    return Segment(
        start=round(start, 3),
        end=round(end, 3),
        text="".join(word.text for word in words).strip(),
        words=[
            Word(
                start=round(min(start + word.start, end), 3),
                end=round(min(start + word.end, end), 3),
                text=word.text,
                probability=round(word.probability, 4),
            )
            for word in words
        ],
        average_log_probability=round(heard.average_log_probability, 4),
    )


def own(segments: Iterable[Segment], chunk: AudioChunkReceived, end: float) -> list[Segment]:
    """The segments of a chunk that ends there, without the words of its neighbours' parts."""
    kept = []
    for segment in segments:
        words = keep_own_words(
            segment.words,
            start=chunk.start,
            end=end,
            overlap=chunk.audio_config.overlap,
            is_first=chunk.sequence == 0,
            is_last=chunk.is_last,
        )
        if len(words) == len(segment.words):
            kept.append(segment)
        elif words:
            text = "".join(word.text for word in words).strip()
            span = {"start": words[0].start, "end": words[-1].end}
            kept.append(segment.model_copy(update={"words": words, "text": text} | span))
    return kept


def joined(segments: Iterable[Segment]) -> str:
    """The text of segments."""
    return " ".join(segment.text for segment in segments)
