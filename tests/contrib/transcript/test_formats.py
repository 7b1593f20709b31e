"""Files of a transcript: each is read back by a strict little parser of its format."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamtask_contrib.events import Segment, SpeakerMap, TranslatedSegment, Word
from streamtask_contrib.transcript import Transcript, Translation, formats

# ── parsers that forgive nothing ──────────────────────────────────────────────────────────────────────────────────


class Read(NamedTuple):
    start: float
    end: float
    lines: list[str]
    speaker: str = ""


def seconds(clock: str, mark: str) -> float:
    found = re.fullmatch(rf"(\d{{2,}}):([0-5]\d):([0-5]\d){re.escape(mark)}(\d{{3}})", clock)
    assert found, clock
    hours, minutes, whole, thousandths = map(int, found.groups())
    return (hours * 3_600_000 + minutes * 60_000 + whole * 1000 + thousandths) / 1000


def times(line: str, mark: str) -> tuple[float, float]:
    start, arrow, end = line.partition(" --> ")
    assert arrow, line
    assert seconds(start, mark) < seconds(end, mark)
    return seconds(start, mark), seconds(end, mark)


def read_srt(text: str) -> list[Read]:
    if not text:
        return []
    assert text.endswith("\n")
    cues = []
    for number, block in enumerate(text[:-1].split("\n\n"), 1):
        first, second, *lines = block.split("\n")
        assert first == str(number)
        assert lines
        assert all(lines)
        assert not any("-->" in line for line in lines)
        cues.append(Read(*times(second, ","), lines))
    return cues


def unescaped(text: str) -> str:
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", text), text
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def read_vtt(text: str) -> list[Read]:
    head, *blocks = text.rstrip("\n").split("\n\n")
    assert head == "WEBVTT"
    assert "\0" not in text
    cues = []
    for block in blocks:
        first, *lines = block.split("\n")
        spoken = re.fullmatch(r"(?:<v ([^<>\n]+)>)?([^<>]+)(</v>)?", "\n".join(lines))
        assert spoken, block
        assert bool(spoken[1]) == bool(spoken[3])
        cues.append(Read(*times(first, "."), unescaped(spoken[2]).split("\n"), unescaped(spoken[1] or "")))
    assert [cue.start for cue in cues] == sorted(cue.start for cue in cues)
    return cues


# ── documents ─────────────────────────────────────────────────────────────────────────────────────────────────────


def said(text: str, *, at: float = 0.0, step: float = 0.4, speaker: str | None = None) -> Segment:
    words = [
        Word(start=at + step * n, end=at + step * (n + 1), text=f" {word}", speaker=speaker)
        for n, word in enumerate(text.split(" "))
    ]
    return Segment(start=at, end=words[-1].end, text=text, words=words, speaker=speaker)


def transcript(*segments: Segment, language: str = "en", **speakers: str) -> Transcript:
    speaker_map = SpeakerMap(method="source", confidence="exact", speakers=speakers) if speakers else SpeakerMap()
    return Transcript(segments=segments, language=language, speaker_map=speaker_map, end=100.0)


def flat(cues: list[Read]) -> str:
    return " ".join(line for cue in cues for line in cue.lines)


def with_short_arrows(text: str) -> str:
    return re.sub("-+>", "->", text)


AWKWARD = [
    "a --> b",
    "---->",
    "-->",
    "<b>bold</b> & <v Nobody>",
    "&amp; &lt;",
    "x < y > z",
    "one\ntwo\n\nthree",
    "one\r\n\r\n2\r\n00:00:01,000 --> 00:00:02,000\r\nthree",
    "tabs\tand\u2028separators\u0085everywhere",
    "nul\0bell\x07",
    "שלום, עולם!",
    "مرحبا بالعالم 123",
    "mixed עברית and English",
    "\u202eoverride\u202c",
    "🎉 family 👨‍👩‍👧",
    "42",
    "NOTE this is no comment",
    "WEBVTT",
]


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("with_words", [True, False])
def test_awkward_text_comes_through(text: str, with_words: bool) -> None:
    segment = said(text, at=1.0)
    document = transcript(segment if with_words else segment.model_copy(update={"words": []}))
    shown = formats.plain(text)

    assert flat(read_vtt(formats.as_vtt(document))) == shown
    assert flat(read_srt(formats.as_srt(document))) == with_short_arrows(shown)
    assert formats.as_text(document) == f"{shown}\n"
    assert json.loads(formats.as_json(document))["segments"][0]["text"] == text


@pytest.mark.parametrize("name", ["Alice", "A <b> & C", "Two\nlines", "רות", "a-->b", "N" * 60])
def test_awkward_names_come_through(name: str) -> None:
    document = transcript(said("hello there", at=1.0, speaker="a"), a=name)
    shown = formats.plain(name)

    assert read_vtt(formats.as_vtt(document)) == [Read(1.0, 1.8, ["hello there"], shown)]
    read = flat(read_srt(formats.as_srt(document)))
    assert read.replace(" ", "") == f"{shown}: hello there".replace("-->", "->").replace(" ", "")
    assert formats.as_text(document) == f"{shown}: hello there\n"


def test_a_label_without_a_name_is_shown_itself() -> None:
    assert formats.as_text(transcript(said("hello", speaker="SPEAKER_00"))) == "SPEAKER_00: hello\n"


def test_nothing_said_is_a_valid_file() -> None:
    nothing = transcript(said(" "))

    assert read_srt(formats.as_srt(nothing)) == []
    assert read_vtt(formats.as_vtt(nothing)) == []
    assert formats.as_text(nothing) == ""
    assert json.loads(formats.as_json(transcript()))["segments"] == []


# ── times ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("at", "clock"),
    [
        (0.0, "00:00:00.000"),
        (0.0004, "00:00:00.000"),
        (0.9996, "00:00:01.000"),
        (59.9999, "00:01:00.000"),
        (61.001, "00:01:01.001"),
        (3599.9996, "01:00:00.000"),
        (86_399.999, "23:59:59.999"),
        (360_000.25, "100:00:00.250"),
        (-0.05, "00:00:00.000"),
    ],
)
def test_times_are_right_to_the_millisecond(at: float, clock: str) -> None:
    segment = Segment(start=at, end=at + 2, text="x", words=[Word(start=at, end=at + 2, text=" x")])

    assert formats.as_vtt(transcript(segment)).split("\n")[2].startswith(f"{clock} --> ")
    assert formats.as_srt(transcript(segment)).split("\n")[1].startswith(f"{clock.replace('.', ',')} --> ")


def test_a_subtitle_ends_with_its_last_word_and_before_the_next_of_its_speaker() -> None:
    for speaker in (None, "a"):
        document = transcript(said("one two", at=1.0, speaker=speaker), said("three", at=1.75, speaker=speaker))

        assert [(cue.start, cue.end) for cue in read_srt(formats.as_srt(document))] == [(1.0, 1.75), (1.75, 2.15)]


def test_two_speakers_may_be_shown_at_once() -> None:
    document = transcript(said("one two", at=1.0, speaker="a"), said("three", at=1.5, speaker="b"), a="A", b="B")

    assert read_vtt(formats.as_vtt(document)) == [Read(1.0, 1.8, ["one two"], "A"), Read(1.5, 1.9, ["three"], "B")]


def test_a_speaker_who_interrupts_is_shown_when_he_does() -> None:
    long = said(" ".join(["word"] * 60), at=1.0, speaker="a")
    cues = read_vtt(formats.as_vtt(transcript(long, said("what", at=5.0, speaker="b"), a="A", b="B")))

    assert [cue.speaker for cue in cues] == ["A", "B", "A", "A", "A"]
    assert all(one.end <= other.start for one, other in pairwise(cue for cue in cues if cue.speaker == "A"))


def test_a_word_without_length_is_shown() -> None:
    segment = Segment(start=1, end=1, text="x", words=[Word(start=1.0, end=1.0, text=" x")])

    assert read_srt(formats.as_srt(transcript(segment))) == [Read(1.0, 1.001, ["x"])]


def test_a_word_that_lasts_too_long_is_not_shown_for_ever() -> None:
    segment = Segment(start=1, end=60, text="so", words=[Word(start=1.0, end=60.0, text=" so")])

    assert read_srt(formats.as_srt(transcript(segment))) == [Read(1.0, 8.0, ["so"])]


def test_a_silence_ends_a_subtitle() -> None:
    words = [Word(start=1, end=1.4, text=" one"), Word(start=3, end=3.4, text=" two")]
    document = transcript(Segment(start=1, end=3.4, text="one two", words=words))

    assert read_srt(formats.as_srt(document)) == [Read(1.0, 1.4, ["one"]), Read(3.0, 3.4, ["two"])]


# ── lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_long_segment_becomes_subtitles_that_can_be_read() -> None:
    document = transcript(said("we meet again on monday and talk about the budget of next year", at=1.0, step=0.5))

    assert read_srt(formats.as_srt(document)) == [
        Read(1.0, 7.5, ["we meet again on monday and talk about the", "budget of next year"]),
    ]


TEXTS = st.text(st.sampled_from("ab é-&<>אب字 \n"), min_size=1, max_size=40)


@given(st.lists(TEXTS, min_size=1, max_size=60), st.floats(0.01, 3.0), st.booleans(), st.sampled_from(["en", "ja"]))
def test_every_subtitle_can_be_read_and_all_of_the_text_is_there(
    words: list[str], step: float, with_words: bool, language: str
) -> None:
    segment = said(" ".join(words), step=step)
    document = transcript(segment if with_words else segment.model_copy(update={"words": []}), language=language)

    shown = "".join(formats.plain(segment.text).split())
    srt, vtt = read_srt(formats.as_srt(document)), read_vtt(formats.as_vtt(document))

    assert "".join(flat(vtt).split()) == shown
    assert with_short_arrows("".join(flat(srt).split())) == with_short_arrows(shown)
    for cues in (srt, vtt):
        assert all(len(line) <= 42 for cue in cues for line in cue.lines)
        assert all(len(cue.lines) <= 2 for cue in cues)
        assert all(cue.end - cue.start <= 7.0011 for cue in cues)
        assert all(one.end <= other.start + 0.0011 for one, other in pairwise(cues))


def test_a_name_counts_as_part_of_a_line_where_it_is_part_of_the_text() -> None:
    document = transcript(said("we meet again on monday and talk about money", speaker="a"), a="Alice in Chains")

    assert read_srt(formats.as_srt(document))[0].lines == [
        "Alice in Chains: we meet again on monday",
        "and talk about money",
    ]


def test_words_without_times_of_their_own_get_theirs_by_length() -> None:
    text = "eins zwei drei vier fünf sechs sieben acht neun zehn"
    segment = TranslatedSegment(start=10.0, end=20.0, source_text="?", text=text)
    cues = read_srt(formats.as_srt(Translation(language="de", segments=(segment,))))

    assert flat(cues) == text
    assert cues[0].start == 10.0
    assert cues[-1].end == 20.0
    assert len(cues) == 2


def test_json_has_everything() -> None:
    document = Transcript(
        segments=(said("hello there", at=1.0, step=1 / 3, speaker="a"),),
        speaker_map=SpeakerMap(method="source", confidence="exact", speakers={"a": "Alice"}),
        language="en",
        missing=(2,),
        failed={1: "no audio"},
        end=9.0,
    )

    read = json.loads(formats.as_json(document))

    assert read | {"segments": []} == {
        "language": "en",
        "end": 9.0,
        "is_complete": False,
        "speakers": {"a": "Alice"},
        "speaker_method": "source",
        "missing": [2],
        "failed": [{"sequence": 1, "message": "no audio"}],
        "text": "hello there",
        "segments": [],
    }
    assert read["segments"][0]["words"][0] == {
        "start": 1.0,
        "end": 1.333,
        "text": " hello",
        "probability": 1.0,
        "speaker": "a",
    }


def test_json_of_a_translation_has_both_texts() -> None:
    segment = TranslatedSegment(start=1, end=2, source_text="yes", text="oui")

    read = json.loads(formats.as_json(Translation(language="fr", segments=(segment,))))

    assert (read["segments"][0]["source_text"], read["segments"][0]["text"]) == ("yes", "oui")
    assert "failed" not in read


def test_every_format_has_a_name() -> None:
    assert list(formats.FORMATS) == ["txt", "json", "srt", "vtt"]
