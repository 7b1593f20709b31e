"""Stitching: whatever becomes of the chunks on their way, the transcript is that of the whole."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamtask_contrib.events import (
    ProcessingFailed,
    Segment,
    SpeakerMap,
    TranscriptionCompleted,
    TranslatedSegment,
    TranslationCompleted,
    Word,
)
from streamtask_contrib.transcript import edge_words, keep_own_words, stitch, translated

# ── the promise ───────────────────────────────────────────────────────────────────────────────────────────────────

#: The conditions under which the stitched text must be the truth. A model places the bounds of a word up to JITTER away
#: from where they are, and hears no word wrong that lies in its chunk whole.
JITTER = 0.1
#: An overlap is longer than a word and the doubt about where it is: o >= LONGEST + 2 * JITTER. A word that is cut by a
#: chunk's edge, and may be heard as anything, is then beyond the border, where the other chunk is believed.
LONGEST = 0.6
OVERLAPS = st.floats(LONGEST + 2 * JITTER, 6.0)
#: Two equal words are further apart, middle to middle, than two readings of one and two more can be.
REPEATED_AFTER = 4 * JITTER
VOCABULARY = ["no", "go", "Yes", "seven", "six", "start", "meeting", "the", "team"]


@st.composite
def speech(draw: st.DrawFn) -> list[Word]:
    """What was said: words without order or sense, some right after each other, some said twice."""
    said: list[Word] = []
    at = draw(st.floats(0, 2))
    for text in draw(st.lists(st.sampled_from(VOCABULARY), max_size=60)):
        length = draw(st.floats(0.1, LONGEST))
        twice = [word for word in said[-3:] if word.text.strip() == text]
        if twice:
            at = max(at, (twice[-1].start + twice[-1].end) / 2 + REPEATED_AFTER - length / 2 + 0.01)
        said.append(Word(start=at, end=at + length, text=f" {text}"))
        at += length + draw(st.sampled_from([0.0, 0.0, 0.05, 0.4, 3.0]))
    return said


def heard(said: list[Word], start: float, end: float, chance: random.Random) -> list[Word]:
    """What a model hears in a part of it."""
    inside = [word for word in said if word.start >= start and word.end <= end]
    # Bounds in order, as a model gives them; sorting leaves each within the jitter.
    bounds = sorted(at + chance.uniform(-JITTER, JITTER) for word in inside for at in (word.start, word.end))
    whole = [
        Word(start=bounds[2 * n], end=bounds[2 * n + 1], text=word.text, probability=chance.random())
        for n, word in enumerate(inside)
    ]
    cut_first = [Word(start=start, end=word.end, text=" mmh") for word in said if word.start < start < word.end]
    cut_last = [Word(start=word.start, end=end, text=" hm") for word in said if word.start < end < word.end]
    return cut_first + whole + cut_last


def chunks(said: list[Word], overlap: float, length: float, chance: random.Random) -> list[TranscriptionCompleted]:
    """The results of a session's chunks of this length."""
    total = said[-1].end + 0.5 if said else 1.0
    starts = [0.0]
    while starts[-1] + length < total:
        starts.append(starts[-1] + length - overlap)
    results = []
    for sequence, start in enumerate(starts):
        last = sequence == len(starts) - 1
        end = total if last else start + length
        words = heard(said, start, end, chance)
        part = {"start": start, "end": end, "overlap": overlap, "is_first": sequence == 0, "is_last": last}
        own, edges = keep_own_words(words, **part), edge_words(words, **part)
        more = {"start": start, "end": end, "overlap": overlap, "is_last": last, "edges": edges}
        results.append(chunk(sequence, in_segments(own, chance), **more))
    return results


def in_segments(words: list[Word], chance: random.Random) -> list[Segment]:
    segments = []
    while words:
        count = chance.randint(1, 8)
        segments.append(segment(*words[:count]))
        words = words[count:]
    return segments


def segment(*words: Word, speaker: str | None = None) -> Segment:
    text = "".join(word.text for word in words).strip()
    return Segment(start=words[0].start, end=words[-1].end, text=text, words=list(words), speaker=speaker)


def chunk(sequence: int, segments: list[Segment], **more) -> TranscriptionCompleted:
    facts = {"language": "en", "start": 8.0 * sequence, "end": 8.0 * sequence + 8.0} | more
    return TranscriptionCompleted(
        session_id="s", chunk_id=f"s:{sequence}", sequence=sequence, segments=segments, **facts
    )


@given(speech(), OVERLAPS, st.floats(0.5, 20.0), st.randoms(use_true_random=False))
def test_chunks_that_come_late_twice_and_in_any_order_make_the_whole(
    said: list[Word], overlap: float, own: float, chance: random.Random
) -> None:
    results = chunks(said, overlap, 2 * overlap + own, chance)
    arriving = [*results, *chance.choices(results, k=len(results) // 2)]
    chance.shuffle(arriving)

    transcript = stitch(arriving)

    assert transcript.text.split() == [word.text.strip() for word in said]
    assert [word.text for word in transcript.words] == [word.text for word in said]
    assert transcript.is_complete
    assert transcript == stitch(results)


@given(speech(), OVERLAPS, st.floats(0.5, 20.0), st.randoms(use_true_random=False))
def test_at_every_moment_what_is_there_is_a_part_of_the_whole(
    said: list[Word], overlap: float, own: float, chance: random.Random
) -> None:
    results = chunks(said, overlap, 2 * overlap + own, chance)
    arrived = chance.sample(results, k=chance.randint(0, len(results)))

    transcript = stitch(arrived)

    truth = iter(word.text for word in said)
    assert all(word.text in truth for word in transcript.words)  # in this order, with gaps
    there = {result.sequence for result in arrived}
    assert not there & set(transcript.missing)
    assert transcript.is_complete == (len(there) == len(results))


# ── which result stands ───────────────────────────────────────────────────────────────────────────────────────────


def said(text: str, *, at: float = 0.0, speaker: str | None = None) -> Segment:
    """A segment of words of 0.4 s, one after the other."""
    parts = [
        Word(start=at + 0.4 * n, end=at + 0.4 * n + 0.4, text=f" {word}", speaker=speaker)
        for n, word in enumerate(text.split())
    ]
    return segment(*parts, speaker=speaker)


def test_no_results_are_an_empty_transcript_that_is_not_complete() -> None:
    nothing = stitch([])

    assert (nothing.text, nothing.segments, nothing.missing, nothing.is_complete) == ("", (), (), False)


def test_a_later_result_of_the_same_chunk_replaces_the_earlier() -> None:
    assert stitch([chunk(0, [said("first try")]), chunk(0, [said("second try")])]).text == "second try"


def test_a_partial_never_replaces_a_final() -> None:
    final, partial = chunk(0, [said("all of it")]), chunk(0, [said("all")], is_partial=True)

    assert stitch([final, partial]).text == "all of it"
    assert stitch([partial, final]).text == "all of it"


def test_the_latest_partial_is_shown_and_is_not_the_end() -> None:
    live = stitch([chunk(0, [said("all")], is_partial=True), chunk(0, [said("all of")], is_partial=True, is_last=True)])

    assert live.text == "all of"
    assert not live.is_complete


def test_a_chunk_that_is_not_there_yet_is_missing() -> None:
    transcript = stitch([chunk(0, [said("one")]), chunk(3, [said("four", at=24)], is_last=True)])

    assert transcript.missing == (1, 2)
    assert transcript.text == "one four"
    assert not transcript.is_complete


def failure(sequence: int, **more) -> ProcessingFailed:
    facts = {"stage": "transcription", "reason": "rejected", "message": "this is no audio"} | more
    return ProcessingFailed(session_id="s", chunk_id=f"s:{sequence}", sequence=sequence, **facts)


def test_a_chunk_that_failed_is_not_missing() -> None:
    transcript = stitch([chunk(0, [said("one")]), chunk(2, [], is_last=True)], [failure(1)])

    assert transcript.failed == {1: "this is no audio"}
    assert transcript.missing == ()
    assert transcript.is_complete


def test_a_session_whose_last_chunk_failed_is_complete() -> None:
    assert stitch([chunk(0, [said("one")])], [failure(1, is_last=True)]).is_complete


def test_a_chunk_that_failed_and_was_replayed_has_not_failed() -> None:
    transcript = stitch([chunk(0, [said("one")], is_last=True)], [failure(0)])

    assert (transcript.failed, transcript.text) == ({}, "one")


def test_a_chunk_that_failed_has_no_partial_that_would_look_like_its_words() -> None:
    transcript = stitch([chunk(0, [said("one")], is_partial=True)], [failure(0, is_last=True)])

    assert (transcript.text, transcript.is_complete) == ("", True)


@pytest.mark.parametrize("harmless", [{"stage": "translation", "target_language": "fr"}, {"is_partial": True}])
def test_a_failed_translation_or_partial_is_no_failed_chunk(harmless: dict) -> None:
    assert stitch([], [failure(0, **harmless)]).failed == {}


def test_silence_is_a_result_like_another() -> None:
    transcript = stitch([chunk(0, [said("one")]), chunk(1, [], language=""), chunk(2, [], language="", is_last=True)])

    assert (transcript.is_complete, transcript.language, transcript.end) == (True, "en", 24.0)
    assert transcript.spoken == {0}


def test_the_language_is_that_of_most_of_the_text() -> None:
    results = [chunk(0, [said("oui")], language="fr"), chunk(1, [said("now all together", at=8)]), chunk(2, [])]

    assert stitch(results).language == "en"


# ── seams ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_seam_doubled_is_there_once_and_its_sentence_is_one_segment() -> None:
    left = chunk(0, [said("now start the", at=6.8)], end=8.0, overlap=1.0)
    right = chunk(1, [said("the meeting", at=7.65)], start=7.0, end=15.0, overlap=1.0)

    [segment] = stitch([left, right]).segments

    assert segment.text == "now start the meeting"
    assert (segment.start, segment.end) == (6.8, pytest.approx(8.45))
    assert [word.text for word in segment.words] == [" now", " start", " the", " meeting"]


def test_a_segment_that_was_only_a_double_is_gone() -> None:
    left = chunk(0, [said("now.", at=7.4)], end=8.0, overlap=1.0)
    right = chunk(1, [said("Now", at=7.45), said("we start", at=9.0)], start=7.0, end=15.0, overlap=1.0)

    assert [segment.text for segment in stitch([left, right]).segments] == ["now.", "we start"]


def test_several_segments_that_were_only_doubles_are_gone() -> None:
    left = chunk(0, [said("go on.", at=7.0)], end=8.0, overlap=1.0)
    right = chunk(
        1, [said("Go", at=7.05), said("on now", at=7.45), said("we start", at=9.0)], start=7.0, end=15.0, overlap=1.0
    )

    assert [segment.text for segment in stitch([left, right]).segments] == ["go on.", "now", "we start"]

    right.segments[1] = said("on", at=7.45)
    assert [segment.text for segment in stitch([left, right]).segments] == ["go on.", "we start"]


def test_where_a_chunk_was_cut_in_a_silence_nothing_is_compared_and_nothing_joined() -> None:
    # The first is a little longer than it should be, as codecs fill up their last frame.
    left, right = chunk(0, [said("no", at=7.6)], end=8.1), chunk(1, [said("no", at=8.0)], start=8.0, end=16.0)

    assert [segment.text for segment in stitch([left, right]).segments] == ["no", "no"]


@pytest.mark.parametrize(
    "where",
    [
        {"start": 7.0, "end": 15.0, "overlap": 0.0},  # cut in a silence, it says
        {"start": 0.0, "end": 8.0, "overlap": 1.0},  # its producer did not count
        {"start": 9.0, "end": 17.0, "overlap": 1.0},  # it shares nothing
    ],
)
def test_nothing_is_dropped_because_a_chunk_says_wrongly_where_it_is(where: dict) -> None:
    results = [chunk(0, [said("no go", at=7.2)], end=8.0), chunk(1, [said("no go", at=7.3)], **where)]

    assert stitch(results).text == "no go no go"


def heard_as(*words: tuple[float, float, str], speaker: str | None = None) -> Segment:
    return segment(*[Word(start=start, end=end, text=f" {text}", speaker=speaker) for start, end, text in words])


def test_a_piece_of_a_word_at_the_end_of_a_chunk_is_not_taken_for_one() -> None:
    """Heard so by a small model, which is early: "yes" is the beginning of "next"."""
    left = chunk(0, [heard_as((6.1, 6.9, "two"), (6.9, 7.4, "goodbye"), (7.4, 7.5, "yes"))], end=8.0, overlap=1.0)
    right = chunk(
        1,
        [heard_as((7.5, 8.3, "next"), (8.3, 8.8, "thank"))],
        start=7.0,
        end=15.0,
        overlap=1.0,
        edges=heard_as((7.0, 7.5, "goodbye")).words,
    )

    assert [segment.text for segment in stitch([left, right]).segments] == ["two goodbye next thank"]


def test_a_piece_of_a_word_at_the_beginning_of_a_chunk_is_not_taken_for_one() -> None:
    left = chunk(
        0,
        [heard_as((6.6, 7.2, "three"), (7.2, 7.4, "team"))],
        end=8.0,
        overlap=1.0,
        edges=heard_as((7.5, 7.6, "now")).words,
    )
    right = chunk(
        1,
        [heard_as((7.3, 7.8, "team"), (7.8, 8.1, "nine"))],
        start=7.0,
        end=15.0,
        overlap=1.0,
        edges=heard_as((7.0, 7.3, "seem")).words,
    )

    assert [segment.text for segment in stitch([left, right]).segments] == ["three team nine"]


def test_a_word_that_each_side_places_at_the_other_is_there() -> None:
    left = chunk(0, [said("start the", at=6.6)], end=8.0, overlap=1.0, edges=said("meeting", at=7.35).words)
    right = chunk(1, [said("now", at=7.7)], start=7.0, end=15.0, overlap=1.0, edges=said("meeting", at=7.25).words)

    [whole] = stitch([left, right]).segments

    assert whole.text == "start the meeting now"
    assert whole.words[2].start == 7.35


def test_words_that_only_the_next_chunk_has_heard_well_are_its_to_tell() -> None:
    left = chunk(0, [said("now", at=6.8)], end=8.0, overlap=1.0)
    right = chunk(1, [said("start", at=7.6)], start=7.0, end=15.0, overlap=1.0, edges=said("now we", at=6.8).words)

    assert [segment.text for segment in stitch([left, right]).segments] == ["now we start"]


def test_what_was_heard_beyond_a_chunk_is_not_shown_where_its_neighbour_is_missing() -> None:
    left = chunk(0, [said("start the", at=6.6)], end=8.0, overlap=1.0, edges=said("meeting", at=7.5).words)
    right = chunk(2, [said("now", at=14.7)], start=14.0, end=22.0, overlap=1.0, edges=said("well", at=14.1).words)

    assert stitch([left, right]).text == "start the now"


def test_what_was_heard_beyond_a_chunk_has_the_speaker_of_its_sentence() -> None:
    left = chunk(0, [said("now.", at=6.9, speaker="A")], end=8.0, overlap=1.0, edges=said("we", at=7.35).words)
    right = chunk(1, [said("start", at=7.7, speaker="A")], start=7.0, overlap=1.0, edges=said("we", at=7.2).words)

    assert [(each.text, each.speaker) for each in stitch([left, right]).segments] == [("now.", "A"), ("we start", "A")]


@pytest.mark.parametrize(
    ("left", "right", "segments"),
    [
        (said("we are", at=6.8), said("done", at=7.6), ["we are done"]),
        (said("we are.", at=6.8), said("done", at=7.6), ["we are.", "done"]),
        (said("we are", at=6.8), said("done", at=8.3), ["we are", "done"]),
        (said("we are", at=6.8, speaker="A"), said("done", at=7.6, speaker="B"), ["we are", "done"]),
    ],
)
def test_only_what_a_seam_has_cut_is_joined(left: Segment, right: Segment, segments: list[str]) -> None:
    results = [chunk(0, [left], end=8.0, overlap=1.0), chunk(1, [right], start=7.0, end=15.0, overlap=1.0)]

    assert [each.text for each in stitch(results).segments] == segments


def test_a_joined_segment_does_not_grow_without_end() -> None:
    results = [
        chunk(n, [said(" ".join(["word"] * 19), at=7.0 * n)], start=7.0 * n, end=7.0 * n + 8.0, overlap=1.0)
        for n in range(20)
    ]

    assert max(each.end - each.start for each in stitch(results).segments) <= 30


def test_a_joined_segment_is_as_probable_as_its_words() -> None:
    left, right = said("we are", at=6.8), said("done", at=7.6)
    left.average_log_probability, right.average_log_probability = -0.1, -0.4
    results = [chunk(0, [left], end=8.0, overlap=1.0), chunk(1, [right], start=7.0, end=15.0, overlap=1.0)]

    assert stitch(results).segments[0].average_log_probability == pytest.approx(-0.2)


def test_a_language_without_spaces_is_joined_without_them() -> None:
    left = Segment(start=7, end=7.5, text="今日", words=[Word(start=7, end=7.5, text="今日")])
    right = Segment(start=7.5, end=8, text="は", words=[Word(start=7.5, end=8, text="は")])
    results = [
        chunk(0, [left], end=8.0, overlap=1.0, language="ja"),
        chunk(1, [right], start=7.0, overlap=1.0, language="ja"),
    ]

    assert stitch(results).text == "今日は"


def test_stitching_changes_no_result() -> None:
    results = [
        chunk(0, [said("now start the", at=6.8)], end=8.0, overlap=1.0),
        chunk(1, [said("the meeting", at=7.65)], start=7.0, end=15.0, overlap=1.0),
    ]
    before = [result.model_dump() for result in results]

    stitch(results)

    assert [result.model_dump() for result in results] == before


# ── speakers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def by_source(label: str, name: str) -> SpeakerMap:
    return SpeakerMap(method="source", confidence="exact", speakers={label: name})


def test_speakers_with_a_source_each_are_stitched_alone_and_take_turns() -> None:
    alice, bob = by_source("a", "Alice"), by_source("b", "Bob")
    results = [
        chunk(0, [said("no", at=0.5, speaker="a")], start=0, end=8, overlap=1.0, speaker_map=alice),
        chunk(1, [said("no", at=0.6, speaker="b")], start=0, end=8, overlap=1.0, speaker_map=bob),
        chunk(2, [said("no but", at=8.4, speaker="a")], start=7, end=15, overlap=1.0, speaker_map=alice),
        chunk(3, [said("yes", at=7.4, speaker="b")], start=7, end=15, overlap=1.0, speaker_map=bob),
    ]

    transcript = stitch(results)

    assert [(each.speaker, each.text) for each in transcript.segments] == [
        ("a", "no"),
        ("b", "no"),
        ("b", "yes"),
        ("a", "no but"),
    ]
    assert transcript.speakers == {"a": "Alice", "b": "Bob"}
    assert transcript.speaker_map.confidence == "exact"


def test_two_channels_that_say_the_same_at_a_seam_have_both_said_it() -> None:
    channels = SpeakerMap(method="channel", confidence="exact", speakers={"l": "Left", "r": "Right"})
    left = [said("yes", at=7.3, speaker="l")]
    right = [said("yes", at=7.35, speaker="r"), said("yes", at=7.36, speaker="l")]
    results = [
        chunk(0, left, end=8, overlap=1.0, speaker_map=channels),
        chunk(1, right, start=7, end=15, overlap=1.0, speaker_map=channels),
    ]

    assert [(each.speaker, each.text) for each in stitch(results).segments] == [("l", "yes"), ("r", "yes")]


def test_a_guess_about_the_speaker_does_not_double_a_word() -> None:
    guessed = SpeakerMap(method="pyannote", confidence="estimated", speakers={"1": "1", "2": "2"})
    results = [
        chunk(0, [said("so yes", at=6.8, speaker="1")], end=8, overlap=1.0, speaker_map=guessed),
        chunk(1, [said("yes well", at=7.35, speaker="2")], start=7, end=15, overlap=1.0, speaker_map=guessed),
    ]

    assert stitch(results).text == "so yes well"


def test_what_is_exact_in_some_chunks_only_is_an_estimate() -> None:
    guessed = SpeakerMap(method="pyannote", confidence="estimated", speakers={"1": "Somebody"})
    results = [chunk(0, [], speaker_map=by_source("a", "Alice")), chunk(1, [], speaker_map=guessed), chunk(2, [])]

    speaker_map = stitch(results).speaker_map

    assert speaker_map == SpeakerMap(
        method="pyannote", confidence="estimated", speakers={"a": "Alice", "1": "Somebody"}
    )


# ── translations ──────────────────────────────────────────────────────────────────────────────────────────────────


def in_french(sequence: int, *said: tuple[float, str], language: str = "fr", **more) -> TranslationCompleted:
    segments = [TranslatedSegment(start=at, end=at + 0.5, source_text="?", text=text) for at, text in said]
    facts = {"source_language": "en", "target_language": language, "segments": segments} | more
    return TranslationCompleted(session_id="s", chunk_id=f"s:{sequence}", sequence=sequence, **facts)


ENGLISH = stitch([chunk(0, [said("one")]), chunk(1, []), chunk(2, [said("three", at=16)], is_last=True)])


def test_a_translation_is_in_order_and_each_chunk_is_in_it_once() -> None:
    results = [
        in_french(2, (16, "trois")),
        in_french(0, (0, "uns")),
        in_french(2, (16, "trois")),
        in_french(0, (0, "un")),
    ]

    translation = translated(ENGLISH, results)

    assert (translation.text, translation.language, translation.is_complete) == ("un trois", "fr", True)


def test_what_is_not_translated_yet_is_missing_and_silence_is_not() -> None:
    translation = translated(ENGLISH, [in_french(0, (0, "un"))])

    assert translation.missing == (2,)
    assert not translation.is_complete


def test_a_segment_that_a_seam_has_doubled_is_translated_once() -> None:
    results = [in_french(0, (7.5, "oui")), in_french(1, (7.6, "Oui."), (9.0, "oui"))]

    assert [each.text for each in translated(ENGLISH, results).segments] == ["oui", "oui"]


def test_a_translation_is_into_one_language() -> None:
    results = [in_french(0, (0, "un")), in_french(0, (0, "eins"), language="de")]

    with pytest.raises(ValueError, match="de, fr"):
        translated(ENGLISH, results)
    assert translated(ENGLISH, results, language="de").text == "eins"
    assert translated(ENGLISH, results, language="it").missing == (0, 2)


def test_speakers_with_a_source_each_take_turns_in_a_translation_too() -> None:
    map_ = by_source("a", "Alice")
    results = [
        chunk(0, [said("one", at=5, speaker="a")], speaker_map=map_, end=8),
        chunk(1, [said("two", at=2, speaker="b")], start=0, end=8, speaker_map=by_source("b", "Bob"), is_last=True),
    ]
    french = [
        TranslatedSegment(start=5, end=5.4, source_text="one", text="un", speaker="a"),
        TranslatedSegment(start=2, end=2.4, source_text="two", text="deux", speaker="b"),
    ]
    answers = [in_french(n, segments=[segment]) for n, segment in enumerate(french)]

    assert [each.speaker for each in translated(stitch(results), answers).segments] == ["b", "a"]
