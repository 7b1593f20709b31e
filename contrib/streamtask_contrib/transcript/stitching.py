"""From the results of a session's chunks, in any order and however often, to one transcript. Pure.

A result stands for its sequence: one that comes again replaces the earlier one, except that a final is never replaced
by a partial. So late, doubled and shuffled chunks need no code of their own.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from streamtask_contrib.events import (
    ProcessingFailed,
    Segment,
    SpeakerMap,
    TranscriptionCompleted,
    TranslatedSegment,
    TranslationCompleted,
    Word,
)
from streamtask_contrib.languages import separator
from streamtask_contrib.transcript.seams import doubled, fit, middle

#: A sentence that a seam cuts is joined again if no longer silence than this lies in between, in seconds.
_BREATH = 0.5
#: But a segment does not grow beyond this, in seconds.
_LONGEST_SEGMENT = 30.0
#: A chunk may be longer than its neighbour thinks by so many seconds: codecs fill up their last frame.
_SLACK = 0.25
#: Seconds around the border between two chunks: segments that are further away are not compared.
_ZONE = 2.0
_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "؟", "।")  # noqa: RUF001 - other scripts' marks


class _Numbered(Protocol):
    @property
    def sequence(self) -> int: ...
    @property
    def is_partial(self) -> bool: ...


_N = TypeVar("_N", bound=_Numbered)
_S = TypeVar("_S", Segment, TranslatedSegment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What was said in a session, as far as it is known."""

    segments: tuple[Segment, ...] = ()
    speaker_map: SpeakerMap = field(default_factory=SpeakerMap)
    #: In which most of the words are; empty where nobody knows.
    language: str = ""
    #: Sequences in which somebody speaks.
    spoken: frozenset[int] = frozenset()
    #: Sequences without a result so far.
    missing: tuple[int, ...] = ()
    #: Sequences that will have no result, with the reason for people.
    failed: Mapping[int, str] = field(default_factory=dict)
    #: Nothing will be added: the last chunk is known, and of each there is a final result or a failure.
    is_complete: bool = False
    #: How far the session has been heard, in seconds.
    end: float = 0.0

    @property
    def speakers(self) -> Mapping[str, str]:
        """Label → name to show."""
        return self.speaker_map.speakers

    @property
    def words(self) -> list[Word]:
        """The words of all segments."""
        return [word for segment in self.segments for word in segment.words]

    @property
    def text(self) -> str:
        """The text of all segments."""
        return separator(self.language).join(segment.text for segment in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """What was said in a session, in another language."""

    language: str
    segments: tuple[TranslatedSegment, ...] = ()
    speaker_map: SpeakerMap = field(default_factory=SpeakerMap)
    #: Sequences with words that are not translated so far.
    missing: tuple[int, ...] = ()
    #: The transcript is complete, and so is this.
    is_complete: bool = False
    end: float = 0.0

    @property
    def speakers(self) -> Mapping[str, str]:
        """Label → name to show."""
        return self.speaker_map.speakers

    @property
    def text(self) -> str:
        """The text of all segments."""
        return separator(self.language).join(segment.text for segment in self.segments)


def stitch(results: Iterable[TranscriptionCompleted], failures: Iterable[ProcessingFailed] = ()) -> Transcript:
    """The transcript of a session, from what there is of it."""
    heard = _latest(results)
    finals = {sequence for sequence, result in heard.items() if not result.is_partial}
    given_up = _latest(each for each in failures if each.stage == "transcription" and not each.is_partial)
    failed = {sequence: failure for sequence, failure in given_up.items() if sequence not in finals}
    standing = {sequence: result for sequence, result in heard.items() if sequence not in failed}
    known = heard.keys() | failed.keys()
    ended: list[TranscriptionCompleted | ProcessingFailed] = [*standing.values(), *failed.values()]
    last = max((each.sequence for each in ended if each.is_last), default=None)
    expected = range((max(known, default=-1) if last is None else last) + 1)
    missing = tuple(sequence for sequence in expected if sequence not in known)
    language = _language(standing.values())
    return Transcript(
        segments=tuple(_stitched(standing.values(), separator(language))),
        speaker_map=_speaker_map(standing.values()),
        language=language,
        spoken=frozenset(n for n, result in standing.items() if result.segments),
        missing=missing,
        failed={sequence: failure.message for sequence, failure in failed.items()},
        is_complete=last is not None and not missing and not any(each.is_partial for each in standing.values()),
        end=max((result.end for result in standing.values()), default=0.0),
    )


def translated(
    transcript: Transcript, results: Iterable[TranslationCompleted], *, language: str | None = None
) -> Translation:
    """A transcript's translation, in order: into `language`, or into the one that all results are in.

    Raises ValueError where they are in several, and none is named.
    """
    results = list(results)
    languages = {result.target_language for result in results} if language is None else {language}
    if len(languages) > 1:
        raise ValueError(f"a translation is into one language, name it: {', '.join(sorted(languages))}")
    standing = _latest(result for result in results if result.target_language in languages)
    by_source = transcript.speaker_map.method == "source"
    lanes: dict[str | None, list[TranslatedSegment]] = defaultdict(list)
    for result in standing.values():
        for lane, segments in _by_lane(result.segments, by_source=by_source).items():
            lanes[lane] += segments[doubled(lanes[lane], segments) :]
    missing = tuple(sorted(transcript.spoken - standing.keys()))
    return Translation(
        language="".join(languages),
        segments=tuple(_interleaved(lanes.values())),
        speaker_map=transcript.speaker_map,
        missing=missing,
        is_complete=transcript.is_complete and not missing and not any(each.is_partial for each in standing.values()),
        end=transcript.end,
    )


def _latest(results: Iterable[_N]) -> dict[int, _N]:
    """Of each sequence the result that stands, in order."""
    standing: dict[int, _N] = {}
    for result in results:
        earlier = standing.get(result.sequence)
        if earlier is None or earlier.is_partial or not result.is_partial:
            standing[result.sequence] = result
    return dict(sorted(standing.items()))


def _language(results: Iterable[TranscriptionCompleted]) -> str:
    """The language of most characters; of silence, what was claimed of it."""
    weights: Counter[str] = Counter()
    for result in results:
        weights[result.language] += sum(len(segment.text) for segment in result.segments)
    spoken = [language for language, _ in weights.most_common() if language]
    return spoken[0] if spoken else ""


def _speaker_map(results: Iterable[TranscriptionCompleted]) -> SpeakerMap:
    """All speakers of a session; how we know is what is true of each chunk that has any."""
    maps = [result.speaker_map for result in results if result.speaker_map.method != "none"]
    if not maps:
        return SpeakerMap()
    speakers = {label: name for each in maps for label, name in each.speakers.items()}
    weakest = min(maps, key=lambda each: ("none", "estimated", "exact").index(each.confidence))
    return weakest.model_copy(update={"speakers": speakers})


# ── chunks to segments ────────────────────────────────────────────────────────────────────────────────────────────


def _stitched(results: Iterable[TranscriptionCompleted], space: str) -> Iterable[Segment]:
    """Speakers with a source of their own have chunks of their own: each is stitched alone, then they take turns."""
    lanes: dict[frozenset[str], list[TranscriptionCompleted]] = defaultdict(list)
    for result in results:
        by_source = result.speaker_map.method == "source"
        lanes[frozenset(result.speaker_map.speakers if by_source else ())].append(result)
    return _interleaved([_lane(chunks, space) for chunks in lanes.values()])


def _interleaved(lanes: Iterable[Sequence[_S]]) -> list[_S]:
    """Several speakers' segments by time; within one of them the order stays."""
    return list(heapq.merge(*lanes, key=lambda segment: segment.start))


def _by_lane(segments: Iterable[_S], *, by_source: bool) -> dict[str | None, list[_S]]:
    lanes: dict[str | None, list[_S]] = defaultdict(list)
    for segment in segments:
        lanes[segment.speaker if by_source else None].append(segment)
    return lanes


def _lane(results: Sequence[TranscriptionCompleted], space: str) -> list[Segment]:
    """The segments of chunks that follow each other."""
    joined: list[Segment] = []
    last: list[Segment] = []
    for before, result, behind in zip((None, *results), results, (*results[1:], None), strict=False):
        overlaps = before is not None and _is_seam(before, result)
        goes_on = behind is not None and _is_seam(result, behind)
        segments = _heard(result, with_head=overlaps, with_tail=goes_on, space=space)
        if overlaps:
            shared = (result.start, result.start + result.overlap)
            _fit(last, segments, shared, by_speaker=result.speaker_map.method == "channel")
            _rejoin(last, segments, space)
        joined += last
        last = segments
    return joined + last


def _is_seam(left: TranscriptionCompleted, right: TranscriptionCompleted) -> bool:
    """Whether two chunks share the sound that they say they do. Nothing is dropped because a position is wrong."""
    return right.overlap > 0 and 0 < left.end - right.start <= right.overlap + _SLACK


def _heard(result: TranscriptionCompleted, *, with_head: bool, with_tail: bool, space: str) -> list[Segment]:
    """The segments of a chunk, and what it has heard beyond them where there is something to compare it with."""
    inside = (result.start + result.end) / 2
    head = _of_edge([word for word in result.edges if with_head and middle(word) < inside])
    tail = _of_edge([word for word in result.edges if with_tail and middle(word) >= inside])
    own = list(result.segments)
    _rejoin(head, own, space)
    _rejoin(own, tail, space)
    return head + own + tail


def _of_edge(words: Sequence[Word]) -> list[Segment]:
    runs = [list(run) for _, run in itertools.groupby(words, key=lambda word: word.speaker)]
    return [_of_words(Segment(start=0.0, end=0.0, text="", speaker=run[0].speaker), run) for run in runs]


def _rejoin(left: list[Segment], right: list[Segment], space: str) -> None:
    """Put together what only a border has cut in two: the last on the left becomes part of the first on the right."""
    if left and right and _is_one_sentence(left[-1], right[0]):
        right[0] = _as_one(left.pop(), right[0], space)


def _is_one_sentence(left: Segment, right: Segment) -> bool:
    """Whether it was the seam only that cut a segment in two."""
    return (
        (left.speaker == right.speaker or None in (left.speaker, right.speaker))
        and right.start - left.end <= _BREATH
        and right.end - left.start <= _LONGEST_SEGMENT
        and not left.text.rstrip().endswith(_SENTENCE_ENDS)
    )


def _as_one(left: Segment, right: Segment, space: str) -> Segment:
    probabilities = [
        (each.average_log_probability, len(each.words) or 1)
        for each in (left, right)
        if each.average_log_probability is not None
    ]
    weight = sum(count for _, count in probabilities)
    return left.model_copy(
        update={
            "end": max(left.end, right.end),
            "text": f"{left.text.rstrip()}{space}{right.text.lstrip()}",
            "words": [*left.words, *right.words],
            "speaker": left.speaker or right.speaker,
            "average_log_probability": sum(mean * count for mean, count in probabilities) / weight if weight else None,
        }
    )


def _fit(left: list[Segment], right: list[Segment], shared: tuple[float, float], *, by_speaker: bool) -> None:
    """Drop from two lists of segments what one of them has to leave to the other, in the sound that they share.

    `by_speaker`: each speaker's words are compared alone.
    """
    start, end = shared
    border = (start + end) / 2
    heard_left, heard_right = _spots(left, since=border - _ZONE), _spots(right, until=border + _ZONE)
    voices = {spot.word.speaker if by_speaker else None for spot in (*heard_left, *heard_right)}
    gone_left, gone_right = set[_Place](), set[_Place]()
    for voice in voices:
        before = [spot for spot in heard_left if not by_speaker or spot.word.speaker == voice]
        after = [spot for spot in heard_right if not by_speaker or spot.word.speaker == voice]
        until, since = fit([spot.word for spot in before], [spot.word for spot in after], start=start, end=end)
        gone_left |= {spot.place for spot in before[until:]}
        gone_right |= {spot.place for spot in after[:since]}
    _drop(left, gone_left)
    _drop(right, gone_right)


#: Number of the segment, number of the word in it.
_Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Spot:
    place: _Place
    word: Word


def _spots(segments: Sequence[Segment], *, since: float = -math.inf, until: float = math.inf) -> list[_Spot]:
    near = [(n, segment) for n, segment in enumerate(segments) if segment.end >= since and segment.start <= until]
    return [_Spot((n, m), word) for n, segment in near for m, word in enumerate(segment.words)]


def _drop(segments: list[Segment], places: set[_Place]) -> None:
    """Take words out, and segments that have none left."""
    for number, dropped in itertools.groupby(sorted(places, reverse=True), key=lambda place: place[0]):
        gone = {word for _, word in dropped}
        words = [word for n, word in enumerate(segments[number].words) if n not in gone]
        segments[number : number + 1] = [_of_words(segments[number], words)] if words else []


def _of_words(segment: Segment, words: Sequence[Word]) -> Segment:
    text = "".join(word.text for word in words).strip()
    return segment.model_copy(
        update={"start": words[0].start, "end": words[-1].end, "text": text, "words": list(words)}
    )
