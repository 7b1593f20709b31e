"""Who speaks: each way by itself, and that no guess is sold as a fact."""

from __future__ import annotations

import json
import sys
from difflib import SequenceMatcher
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import streamtask_contrib
from streamtask_contrib.audio import AudioSettings
from streamtask_contrib.audio.diarization import channels, labelled
from streamtask_contrib.audio.diarization.voices import SessionVoices, Span, speaker_at
from streamtask_contrib.events import ProcessingFlags, Segment, SpeakerMap, Word

from streamtask import App, BlobStores, ConfigurationError
from tests.chaos.conftest import Measured
from tests.contrib.audio.sounds import RATE, say, silence, speaks, turn, wav
from tests.contrib.audio.test_worker import WORDS, chunk, results_of

DEMO = Path(streamtask_contrib.__file__).parent / "demo"
DIARIZE = ProcessingFlags(diarize=True)


def stereo(*pieces: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Two channels from pieces of (left, right), each as long as the longer one."""
    left, right = [], []
    for one, other in pieces:
        length = max(len(one), len(other))
        left.append(np.pad(one, (0, length - len(one))))
        right.append(np.pad(other, (0, length - len(other))))
    return np.concatenate(left), np.concatenate(right)


# ── source ────────────────────────────────────────────────────────────────────────────────────────────────────────


@speaks
@pytest.mark.parametrize(
    ("fields", "speaker"),
    [
        ({"speaker": "Ada"}, "Ada"),
        ({"speaker": "Ada", "user_id": "u1", "processing_flags": DIARIZE}, "Ada"),
        # A user's microphone may hear a whole room, and a user's file a whole meeting.
        ({"user_id": "u1", "processing_flags": DIARIZE}, None),
        ({"user_id": "u1"}, None),
    ],
)
async def test_a_source_of_its_own_is_a_speaker(fields: dict[str, Any], speaker: str | None):
    [result] = await results_of(chunk(wav(turn(WORDS)), **fields))

    assert {word.speaker for segment in result.segments for word in segment.words} == {speaker}
    assert result.segments[0].speaker == speaker
    if speaker:
        assert result.speaker_map == SpeakerMap(method="source", confidence="exact", speakers={speaker: speaker})
    else:
        assert result.speaker_map == SpeakerMap(method="none", confidence="none")


# ── channels ──────────────────────────────────────────────────────────────────────────────────────────────────────


@speaks
async def test_each_channel_of_a_call_is_a_speaker():
    pause = (silence(0.6), silence(0.6))
    call = stereo(
        pause, (say(WORDS), silence(0)), pause, (silence(0), say("next slide please", voice="en-us+f2")), pause
    )

    [result] = await results_of(chunk(wav(*call), processing_flags=DIARIZE))

    assert [(segment.speaker, segment.text) for segment in result.segments] == [
        ("channel-1", WORDS),
        ("channel-2", "next slide please"),
    ]
    assert result.speaker_map.method == "channel"
    assert result.speaker_map.confidence == "exact"
    assert result.speaker_map.speakers == {"channel-1": "Channel 1", "channel-2": "Channel 2"}


@speaks
@pytest.mark.parametrize("right", [1.0, 0.7], ids=["the same twice", "a room"])
async def test_two_channels_of_one_sound_are_no_two_speakers(right: float):
    [result] = await results_of(chunk(wav(turn(WORDS), turn(WORDS) * right), processing_flags=DIARIZE))

    assert result.text == WORDS
    assert result.speaker_map == SpeakerMap(method="none", confidence="none")
    assert result.segments[0].speaker is None


def test_a_word_belongs_to_the_louder_channel_across_blocks():
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.1, (2, 10 * RATE)).astype(np.float32)
    sound[1, : 5 * RATE] *= 0.1
    sound[0, 5 * RATE :] *= 0.1
    spans = [(float(at), at + 0.9) for at in range(10)]

    found = channels.speakers(np.array_split(sound, 7, axis=1), spans)

    assert found == ["channel-1"] * 5 + ["channel-2"] * 5


def test_what_both_channels_have_alike_is_nobodys():
    sound = np.ones((2, 10 * RATE), np.float32)
    sound[1, : 9 * RATE] = 0.1

    found = channels.speakers([sound], [(float(at), at + 1.0) for at in range(10)])

    assert found == ["channel-1"] * 9 + [None]


# ── words and segments ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_segment_in_which_the_speaker_changes_becomes_several():
    words = [Word(start=at, end=at + 0.5, text=f" {name}") for at, name in enumerate(("yes", "no", "stop"))]
    segment = Segment(start=0, end=3, text="yes no stop", words=words, average_log_probability=-0.1)

    parts = labelled([segment], ["a", "b", "b"])

    assert [(part.speaker, part.text, part.start, part.end) for part in parts] == [
        ("a", "yes", 0.0, 0.5),
        ("b", "no stop", 1.0, 2.5),
    ]
    assert [word.speaker for part in parts for word in part.words] == ["a", "b", "b"]


@pytest.mark.parametrize(
    ("start", "end", "speaker"),
    [
        (0.1, 0.9, "a"),
        (0.8, 1.5, "b"),
        (0.5, 1.2, "a"),
        (2.1, 2.3, "b"),
        (2.6, 2.9, None),
    ],
)
def test_a_word_is_whose_it_is_for_most_of_its_time(start: float, end: float, speaker: str | None):
    assert speaker_at(start, end, [Span(0, 1, "a"), Span(1, 2, "b")]) == speaker


# ── voices of a session ───────────────────────────────────────────────────────────────────────────────────────────

ADA, BOB, EVE = np.eye(3, 8, dtype=np.float32)
SETTINGS = AudioSettings(threads=1)


def near(voice: np.ndarray, seed: int = 0) -> np.ndarray:
    """The same person another day."""
    return voice + np.random.default_rng(seed).normal(0, 0.1, voice.shape).astype(np.float32)


async def test_a_voice_keeps_its_name_in_every_chunk_of_a_session():
    async with App("test", broker="memory://") as app:
        first = SessionVoices(app.records, chunk(None, sequence=0), SETTINGS)
        second = SessionVoices(app.records, chunk(None, sequence=1), SETTINGS)
        other = SessionVoices(app.records, chunk(None, session_id="another"), SETTINGS)

        assert await first.names({"A", "B"}, {"A": ADA, "B": BOB}) == {"A": "speaker-1", "B": "speaker-2"}
        assert await second.names({"X", "Y"}, {"X": near(BOB), "Y": EVE}) == {"X": "speaker-2", "Y": "speaker-3"}
        assert await first.names({"A"}, {"A": near(EVE)}) == {"A": "speaker-3"}
        assert await other.names({"A"}, {"A": BOB}) == {"A": "speaker-1"}


async def test_two_workers_that_hear_two_strangers_at_once_give_two_names():
    async with App("test", broker="memory://") as app:
        one = SessionVoices(_Stale(app.records), chunk(None, sequence=0), SETTINGS)
        other = SessionVoices(_Stale(app.records), chunk(None, sequence=1), SETTINGS)

        assert await one.names({"A"}, {"A": ADA}) == {"A": "speaker-1"}
        # It has read the record before the first one wrote.
        assert await other.names({"A", "B"}, {"A": BOB, "B": near(ADA)}) == {"A": "speaker-2", "B": "speaker-1"}


class _Stale:
    """Records that were read before anybody wrote."""

    def __init__(self, records: Any) -> None:
        self.claim = records.claim

    async def read(self, key: str) -> dict[str, bytes]:
        return {}


@pytest.mark.parametrize("voice", [None, np.full(8, np.nan, np.float32), np.zeros(8, np.float32)], ids=str)
async def test_who_has_no_voice_is_nobody_else(voice: np.ndarray | None):
    async with App("test", broker="memory://") as app:
        voices = {} if voice is None else {"A": voice}
        names = [
            (await SessionVoices(app.records, chunk(None, sequence=n), SETTINGS).names({"A"}, voices))["A"]
            for n in (0, 1)
        ]

        assert len(set(names)) == 2
        assert await app.records.read("voices:x") == {}


# ── pyannote ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Annotation:
    """What pyannote answers with."""

    def __init__(self, spans: list[tuple[float, float, str]]) -> None:
        self._spans = spans

    def itertracks(self, *, yield_label: bool) -> list[tuple[Any, str, str]]:
        assert yield_label
        return [(SimpleNamespace(start=start, end=end), "_", label) for start, end, label in self._spans]

    def labels(self) -> list[str]:
        return sorted({label for _, _, label in self._spans})


class _Pipeline4:
    """Two voices, changing after three seconds, under names that change with every call."""

    loaded: ClassVar[list[dict[str, Any]]] = []
    calls = 0

    @classmethod
    def from_pretrained(cls, checkpoint: str, token: str | None = None) -> Any:
        cls.loaded.append({"checkpoint": checkpoint, "token": token})
        return None if checkpoint == "gated" else cls()

    def apply(self, file: Any) -> Any: ...

    def hear(self, file: dict[str, Any]) -> tuple[_Annotation, np.ndarray]:
        type(self).calls += 1
        assert file["sample_rate"] == RATE
        assert file["waveform"].shape[0] == 1
        one, other = ("S0", "S1") if self.calls % 2 else ("S1", "S0")
        voices = [ADA, BOB] if self.calls % 2 else [BOB, ADA]
        return _Annotation([(0.0, 3.0, one), (3.0, 99.0, other)]), np.stack(voices)

    def __call__(self, file: dict[str, Any]) -> Any:
        annotation, voices = self.hear(file)
        overlapping = _Annotation([(0.0, 99.0, "S0"), (0.0, 99.0, "S1")])
        return SimpleNamespace(
            speaker_diarization=overlapping, exclusive_speaker_diarization=annotation, speaker_embeddings=voices
        )


class _Pipeline3(_Pipeline4):
    """The same in version 3.1."""

    @classmethod
    def from_pretrained(cls, checkpoint: str, use_auth_token: str | None = None) -> Any:
        cls.loaded.append({"checkpoint": checkpoint, "use_auth_token": use_auth_token})
        return None if checkpoint == "gated" else cls()

    def apply(self, file: Any, return_embeddings: bool = False) -> Any: ...

    def __call__(self, file: dict[str, Any], *, return_embeddings: bool = False) -> Any:
        assert return_embeddings
        return self.hear(file)


@pytest.fixture(params=[_Pipeline4, _Pipeline3], ids=["version 4", "version 3.1"])
def pyannote(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """pyannote.audio as if it were installed."""
    package, audio, torch = ModuleType("pyannote"), ModuleType("pyannote.audio"), ModuleType("torch")
    audio.Pipeline = request.param
    torch.from_numpy = lambda array: array
    torch.cuda = SimpleNamespace(is_available=lambda: False)
    for name, module in {"pyannote": package, "pyannote.audio": audio, "torch": torch}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "streamtask_contrib.audio.diarization.hearing", raising=False)
    request.param.loaded, request.param.calls = [], 0
    yield request.param
    sys.modules.pop("streamtask_contrib.audio.diarization.hearing", None)


@speaks
async def test_pyannote_tells_voices_apart_and_calls_it_an_estimate(pyannote: Any):
    first = np.pad(turn(WORDS), (0, 2 * RATE))[: 3 * RATE]
    sound = wav([first, say("next slide please"), silence(0.5)])
    settings = AudioSettings(threads=1, diarization_model="owner/pipeline", diarization_token="secret")

    results = await results_of(
        *[chunk(sound, chunk_id=f"c{n}", sequence=n, processing_flags=DIARIZE) for n in range(2)], settings=settings
    )

    assert pyannote.loaded[0]["checkpoint"] == "owner/pipeline"
    assert "secret" in pyannote.loaded[0].values()
    for result in results:
        # Under whatever names the model has them in this chunk.
        assert [segment.text for segment in result.segments] == [WORDS, "next slide please"]
        assert (result.speaker_map.method, result.speaker_map.confidence) == ("pyannote", "estimated")
    assert [segment.speaker for segment in results[0].segments] == [segment.speaker for segment in results[1].segments]
    assert {segment.speaker for segment in results[0].segments} == {"speaker-1", "speaker-2"}


@pytest.mark.usefixtures("pyannote")
async def test_a_pipeline_that_the_hub_does_not_give_out_stops_the_worker_with_the_reason():
    with pytest.raises(ConfigurationError, match="terms"):
        await results_of(settings=AudioSettings(threads=1, diarization_model="gated"))


async def test_a_pipeline_without_pyannote_stops_the_worker_with_what_to_do():
    if "pyannote.audio" in sys.modules:
        pytest.skip("pyannote.audio is installed")

    with pytest.raises(ConfigurationError, match=r"pip install pyannote\.audio"):
        await results_of(settings=AudioSettings(threads=1, diarization_model="owner/pipeline"))


# ── the meeting that ships ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("recording", ["meeting.wav", "meeting-stereo.wav"])
async def test_the_meeting_that_ships_is_understood_and_its_channels_told_apart(recording: str, measured: Measured):
    [result] = await results_of(
        chunk(None, storage_uri=f"file://{DEMO / recording}", processing_flags=DIARIZE), blobs=BlobStores(folder=DEMO)
    )

    # The one with two channels is the first half.
    script = [line for line in json.loads((DEMO / "meeting.json").read_text()) if line["end"] <= result.end]
    said = " ".join(line["text"] for line in script).split()
    words = [word for segment in result.segments for word in segment.words]
    right = sum(block.size for block in SequenceMatcher(None, said, result.text.split()).get_matching_blocks())
    measured("words right", right / len(said))
    assert right / len(said) > 0.85
    if recording == "meeting.wav":
        assert result.speaker_map.method == "none"
        return
    assert result.speaker_map.method == "channel"
    channel = {"Ada": "channel-1", "Ben": "channel-2"}
    who = [channel[speaker_at((w.start + w.end) / 2, (w.start + w.end) / 2 + 0.01, spans(script))] for w in words]
    agree = sum(word.speaker == speaker for word, speaker in zip(words, who, strict=True))
    measured("words with the right speaker", agree / len(words))
    assert agree / len(words) > 0.95


def spans(script: list[dict[str, Any]]) -> list[Span]:
    return [Span(line["start"], line["end"], line["speaker"]) for line in script]
