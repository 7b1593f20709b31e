"""The shipped models do what their card says, with speech that is made here and lines that no training has seen."""

from __future__ import annotations

import io
import itertools
import json
import random
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import pytest
from streamtask_contrib import models
from training import card, parallel, voices
from training.scoring import score
from training.vocabulary import WORDS, utterance

from tests.chaos.workers import LONG

faster_whisper = pytest.importorskip("faster_whisper", reason="faster-whisper is not installed")
ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed")
np = pytest.importorskip("numpy", reason="numpy is not installed")

_ROOT = Path(models.__file__).parent
_DEMO = _ROOT.parent / "demo"
_RATE = 16_000
_SEED = 20

ESPEAK = shutil.which("espeak-ng")
needs_espeak = pytest.mark.skipif(ESPEAK is None, reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def recogniser():
    model = faster_whisper.WhisperModel(str(models.SPEECH), device="cpu", compute_type="int8", cpu_threads=1)
    # The first call starts a thread of tqdm's that stays: no test is to be blamed for it.
    list(model.transcribe(_pause(1))[0])
    return model


def _speak(text, voice, *, words_per_minute=165):
    """The sound of espeak-ng saying this, without the silence around it."""
    command = [ESPEAK, "-v", voice, "-s", str(words_per_minute), "--stdout", text]
    sound = subprocess.run(command, capture_output=True, check=True).stdout
    samples = faster_whisper.decode_audio(io.BytesIO(sound), _RATE)
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    return samples[loud[0] : loud[-1] + 1]


def _pause(seconds):
    return np.zeros(round(seconds * _RATE), np.float32)


def _hear(recogniser, samples):
    # One answer at one temperature: a model that has become bad fails a test, and does not make it wait.
    segments, _ = recogniser.transcribe(samples, beam_size=1, temperature=0.0, max_new_tokens=60)
    return "".join(segment.text for segment in segments).strip()


def test_both_models_are_under_three_megabytes():
    size = sum(file.stat().st_size for folder in (models.SPEECH, models.TRANSLATION) for file in folder.iterdir())

    assert 0 < size < 3_000_000


def test_asking_where_the_models_are_loads_no_library_of_speech():
    code = (
        "import sys, streamtask_contrib.models as models\n"
        "assert models.SPEECH.is_dir() and models.TRANSLATION.is_dir()\n"
        "print(*{'ctranslate2', 'faster_whisper', 'numpy', 'sentencepiece'} & set(sys.modules))"
    )
    heavy = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(_ROOT.parents[1])!r})\n{code}"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout

    assert heavy.split() == []


@needs_espeak
def test_voices_that_it_never_heard_are_understood(recogniser):
    rng = random.Random(_SEED)
    pairs = []
    for voice in voices.HELD_OUT * (4 if LONG else 2):
        text = utterance(rng)
        sound = _speak(text, f"en-us+{voice}", words_per_minute=rng.randint(130, 215))
        pairs.append((text, _hear(recogniser, np.concatenate([_pause(0.2), sound, _pause(0.4)]))))

    measured = score(pairs)
    print(f"MEASURED seed {_SEED}: {measured.errors} of {measured.words} words wrong, {measured.lines} utterances")  # noqa: T201
    assert measured.rate < 0.10, [pair for pair in pairs if pair[0] != pair[1]]


@needs_espeak
def test_turns_with_pauses_between_them_are_heard_in_one_window(recogniser):
    rng = random.Random(_SEED)
    pairs = []
    for _ in range(12 if LONG else 6):
        turns, texts = [_pause(0.3)], []
        while len(texts) < 3:
            text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 3)))
            sound = _speak(text, f"en-us+{rng.choice(voices.HELD_OUT)}")
            pause = _pause(rng.uniform(0.3, 1.2))
            if sum(map(len, turns)) + len(sound) + len(pause) > 8 * _RATE:
                break
            turns += [sound, pause]
            texts.append(text)
        pairs.append((" ".join(texts), _hear(recogniser, np.concatenate(turns))))

    measured = score(pairs)
    print(f"MEASURED seed {_SEED}: {measured.errors} of {measured.words} words wrong, {measured.lines} windows")  # noqa: T201
    assert measured.rate < 0.10, [pair for pair in pairs if pair[0] != pair[1]]


@pytest.mark.parametrize("seconds", [1, 4, 10])
@pytest.mark.parametrize("level", [0.0, 0.001, 0.01, 0.1])
def test_silence_and_noise_are_no_words(recogniser, seconds, level):
    noise = np.random.default_rng(_SEED).standard_normal(seconds * _RATE).astype(np.float32) * level

    assert _hear(recogniser, noise) == ""


@needs_espeak
@pytest.mark.parametrize("voice", voices.HELD_OUT)
def test_turns_and_words_have_times(recogniser, voice):
    first, second = _speak("hello team", f"en-us+{voice}"), _speak("seven", f"en-us+{voice}")
    sound = np.concatenate([_pause(0.5), first, _pause(0.7), second, _pause(0.5)])
    spoken = [(0.5, 0.5 + len(first) / _RATE), (1.2 + len(first) / _RATE, 1.2 + (len(first) + len(second)) / _RATE)]

    turns, _ = recogniser.transcribe(sound, temperature=0.0, max_new_tokens=60)
    timed, _ = recogniser.transcribe(sound, word_timestamps=True, temperature=0.0, max_new_tokens=60)
    words = [word for segment in timed for word in segment.words]

    assert [time for turn in turns for time in (turn.start, turn.end)] == pytest.approx(sum(spoken, ()), abs=0.15)
    assert [word.word for word in words] == [" hello", " team", " seven"]
    # "team" begins within its turn; a word after a pause may begin in that pause, and is over when its turn is.
    assert spoken[0][0] + 0.15 < words[1].start < spoken[0][1] - 0.1
    assert spoken[0][1] - 0.3 < words[2].start < spoken[1][0] + 0.15
    assert [word.end for word in words[1:]] == pytest.approx([end for _, end in spoken], abs=0.35)


@pytest.mark.parametrize("language", parallel.TAGS)
def test_lines_that_no_training_has_seen_are_translated(language):
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(models.TRANSLATION / "spm.model"))
    translator = ctranslate2.Translator(str(models.TRANSLATION), device="cpu", compute_type="int8", intra_threads=1)
    lines = parallel.unseen(100, seed=_SEED)

    asked = [[parallel.TAGS[language], *pieces.encode(line, out_type=str)] for line in lines]
    answers = [pieces.decode(answer.hypotheses[0]) for answer in translator.translate_batch(asked, max_batch_size=32)]

    wrong = [
        (line, answer)
        for line, answer in zip(lines, answers, strict=True)
        if answer != parallel.translate(line, language)
    ]
    print(f"MEASURED seed {_SEED}: {len(lines) - len(wrong)} of {len(lines)} lines exact in {language}")  # noqa: T201
    assert len(wrong) < 5, wrong


def test_the_manifest_names_tokens_and_files_that_are_there():
    manifest = json.loads((models.TRANSLATION / "streamtask-model.json").read_text())
    vocabulary = json.loads((models.TRANSLATION / "shared_vocabulary.json").read_text())

    assert manifest["family"] == "tagged"
    assert manifest["targets"] == dict(parallel.TAGS)
    assert set(manifest["targets"].values()) <= set(vocabulary)
    assert (models.TRANSLATION / manifest["tokenizer"]).is_file()


def test_the_card_shows_the_figures_that_were_measured():
    results = json.loads((_ROOT / card.RESULTS).read_text())

    assert (_ROOT / card.CARD).read_text() == card.render(results)


def test_the_demo_is_what_its_lines_say(recogniser):
    lines = json.loads((_DEMO / "meeting.json").read_text())
    samples = faster_whisper.decode_audio(str(_DEMO / "meeting.wav"), _RATE)

    pairs = []
    for line in lines:
        turn = samples[round((line["start"] - 0.2) * _RATE) : round((line["end"] + 0.2) * _RATE)]
        pairs.append((line["text"], _hear(recogniser, turn)))

    assert score(pairs).rate < 0.10, pairs
    assert {line["speaker"] for line in lines} == {"Ada", "Ben"}
    assert all(one["end"] < other["start"] for one, other in itertools.pairwise(lines))


def test_the_demo_in_stereo_has_a_speaker_on_each_channel():
    lines = json.loads((_DEMO / "meeting.json").read_text())
    with wave.open(str(_DEMO / "meeting-stereo.wav")) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())

    for line in lines[: len(lines) // 2]:
        energy = np.square(sound[round(line["start"] * _RATE) : round(line["end"] * _RATE)].astype(float)).sum(0)
        speaks = ["Ada", "Ben"].index(line["speaker"])
        assert energy[speaks] > 0
        assert energy[1 - speaks] == 0
