"""The model: loaded once, in this process; turns in batches; what came out badly once more."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faster_whisper import BatchedInferencePipeline, WhisperModel
from streamtask_contrib.audio import engine as module
from streamtask_contrib.audio.engine import Utterance, WhisperEngine
from streamtask_contrib.audio.settings import AudioSettings
from tqdm import tqdm

from streamtask import ConfigurationError
from tests.contrib.audio.sounds import RATE, silence, speaks, turn

SETTINGS = AudioSettings(threads=1)
WORDS = ["start the meeting three seven one", "next slide please", "hello team", "no thank you"]


@pytest.fixture(scope="module")
def engine() -> WhisperEngine:
    made = WhisperEngine(SETTINGS)
    made.load()
    return made


@speaks
def test_a_batch_hears_what_each_turn_alone_says(engine: WhisperEngine):
    turns = [Utterance(turn(words)) for words in WORDS]

    together = engine.transcribe([*turns, Utterance(silence(1))])
    alone = [engine.transcribe([turn])[0] for turn in turns]

    assert [turn.text.strip() for turn in together[:4]] == WORDS
    assert [turn.text for turn in alone] == [turn.text for turn in together[:4]]
    for one, other in zip(alone, together, strict=False):
        assert one.average_log_probability == pytest.approx(other.average_log_probability, abs=0.02)
        assert [word.start for word in one.words] == pytest.approx([word.start for word in other.words], abs=0.05)
    assert {turn.batch_size for turn in together} == {5}


@speaks
def test_it_hears_what_faster_whisper_hears_by_itself(engine: WhisperEngine, monkeypatch: pytest.MonkeyPatch):
    # Its progress bar would start a thread that stays.
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    plain = BatchedInferencePipeline(WhisperModel(SETTINGS.model, device="cpu", compute_type="int8", cpu_threads=1))

    for words in WORDS:
        whole = [{"start": 0.0, "end": len(turn(words)) / RATE}]
        segments, _ = plain.transcribe(turn(words), clip_timestamps=whole, word_timestamps=True)
        [segment] = list(segments)
        [heard] = engine.transcribe([Utterance(turn(words))])

        assert heard.text == segment.text
        assert [word.text for word in heard.words] == [word.word for word in segment.words]
        assert [word.end for word in heard.words] == pytest.approx([word.end for word in segment.words], abs=0.1)
        assert heard.average_log_probability == pytest.approx(segment.avg_logprob, abs=0.01)
        assert heard.compression_ratio == pytest.approx(segment.compression_ratio, abs=0.1)


@speaks
def test_words_have_times_within_their_turn(engine: WhisperEngine):
    sound = turn(WORDS[0])

    [heard] = engine.transcribe([Utterance(sound)])

    assert "".join(word.text for word in heard.words) == heard.text
    assert all(0 <= word.start <= word.end <= len(sound) / RATE + 0.5 for word in heard.words)
    assert [word.start for word in heard.words] == sorted(word.start for word in heard.words)
    assert all(0 < word.probability <= 1 for word in heard.words)


def test_it_knows_what_it_is(engine: WhisperEngine):
    assert engine.name == "whisper-commands-en"
    assert engine.languages == {"en"}
    assert engine.window == 8.0
    assert WhisperEngine(AudioSettings(model="large-v3")).name == "large-v3"


@speaks
def test_an_idle_model_is_put_away_and_comes_back_when_it_is_needed():
    made = WhisperEngine(SETTINGS)
    made.load()
    model = weakref.ref(made._model)

    assert not made.unload_if_idle(3600)
    assert made.is_loaded
    assert made.unload_if_idle(0)

    gc.collect()
    assert not made.is_loaded
    assert model() is None
    assert made.languages == {"en"}
    assert made.transcribe([Utterance(turn(WORDS[1]))])[0].text.strip() == WORDS[1]
    assert made.is_loaded


def test_a_model_that_was_loaded_before_a_fork_is_refused_in_the_child():
    # In a process of its own: forking one that has threads is what is wrong here, and Python says so, too.
    script = """
import os, warnings
import numpy as np
from streamtask import ConfigurationError
from streamtask_contrib.audio.engine import Utterance, WhisperEngine
from streamtask_contrib.audio.settings import AudioSettings

warnings.simplefilter("ignore")
engine = WhisperEngine(AudioSettings(threads=1))
engine.load()
child = os.fork()
if not child:
    try:
        engine.transcribe([Utterance(np.zeros(16000, np.float32))])
    except ConfigurationError as error:
        print(error, flush=True)
        os._exit(7)
    os._exit(0)
print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)

    assert "child ended with 7" in done.stdout, done.stderr
    assert "is used in its fork" in done.stdout


@pytest.mark.parametrize("model", ["/nowhere", "no-such-model"])
def test_a_model_that_is_none_is_a_mistake_of_the_configuration(model: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigurationError, match="STREAMTASK_AUDIO_MODEL"):
        WhisperEngine(AudioSettings(model=model, is_offline=True)).load()


@pytest.mark.parametrize(
    ("wanted", "device", "supported", "chosen"),
    [
        ("auto", "cpu", {"int8", "int8_float32", "float32"}, "int8"),
        ("auto", "cuda", {"float16", "int8_float16", "float32"}, "float16"),
        # A card from before there were halves.
        ("auto", "cuda", {"int8", "int8_float32", "float32"}, "int8_float32"),
        ("float32", "cpu", {"int8"}, "float32"),
        ("default", "cuda", {"float16"}, "default"),
    ],
)
def test_a_gpu_is_used_where_there_is_one_with_what_it_can(
    wanted: str, device: str, supported: set[str], chosen: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module.ctranslate2, "get_cuda_device_count", lambda: int(device == "cuda"))
    monkeypatch.setattr(module.ctranslate2, "get_supported_compute_types", lambda *_: supported)
    given: dict[str, Any] = {}

    def make(name: str, **options: Any) -> Any:
        given.update(options)
        return FakeModel()

    WhisperEngine(AudioSettings(compute_type=wanted), make=make).load()

    assert (given["device"], given["compute_type"]) == (device, chosen)


# ── with a model that says what it is told to ─────────────────────────────────────────────────────────────────────

VOCABULARY = ["one", "two", "three", "bad"]
EOT = len(VOCABULARY)
SPECIAL = {
    f"<|{name}|>": EOT + place
    for place, name in enumerate(
        [
            "endoftext",
            "startoftranscript",
            "en",
            "fr",
            "translate",
            "transcribe",
            "startoflm",
            "startofprev",
            "nospeech",
            "notimestamps",
        ]
    )
}
NAMES = {token: name for name, token in SPECIAL.items()}


class FakeModel:
    """A multilingual model. The first sample of a turn, times ten, is the word that it says; 0.5 in the second: French.

    "bad" comes with a bad score at temperature 0 and becomes "one" when it is drawn.
    """

    frames_per_second = 100
    supported_languages = ("en", "fr")

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self.searches: list[tuple[list[str], float]] = []
        self.model = SimpleNamespace(
            is_multilingual=True, detect_language=self._detect, generate=self._generate, device="cpu"
        )
        self.feature_extractor = _Features()
        self.hf_tokenizer = SimpleNamespace(
            token_to_id=SPECIAL.get,
            encode=lambda text, **_: SimpleNamespace(ids=[0]),
            decode=lambda tokens: "".join(f" {VOCABULARY[token]}" for token in tokens),
        )

    def encode(self, features: np.ndarray) -> np.ndarray:
        self.encoded.append(len(features))
        return features

    def get_prompt(self, tokenizer: Any, previous: list[int], **_: Any) -> list[int]:
        return list(tokenizer.sot_sequence)

    def _detect(self, features: np.ndarray) -> list[list[tuple[str, float]]]:
        return [
            [("<|fr|>", 0.8), ("<|en|>", 0.2)] if one[0, 1] == 0.5 else [("<|en|>", 0.9), ("<|fr|>", 0.1)]
            for one in np.asarray(features)
        ]

    def _generate(
        self, features: np.ndarray, prompts: list[list[int]], *, sampling_temperature: float = 0.0, **_: Any
    ) -> list[Any]:
        languages = [NAMES[prompt[1]] for prompt in prompts]
        self.searches.append((languages, sampling_temperature))
        answers = []
        for one in np.asarray(features):
            word = round(float(one[0, 0]) * 10)
            is_bad = VOCABULARY[word] == "bad" and sampling_temperature < 0.4
            word = 0 if VOCABULARY[word] == "bad" and not is_bad else word
            answers.append(
                SimpleNamespace(sequences_ids=[[word]], scores=[-9.0 if is_bad else -0.2], no_speech_prob=0.0)
            )
        return answers

    def find_alignment(self, tokenizer: Any, texts: list[list[int]], *_: Any) -> list[list[dict[str, Any]]]:
        return [
            [{"word": f" {VOCABULARY[token]}", "tokens": [token], "start": 0.0, "end": 0.5, "probability": 0.9}]
            for tokens in texts
            for token in tokens
        ]


class _Features:
    chunk_length = 30

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        return samples[:3].reshape(1, 3)


def spoken(word: str, *, is_french: bool = False) -> np.ndarray:
    samples = np.zeros(RATE, np.float32)
    samples[0], samples[1] = VOCABULARY.index(word) / 10, 0.5 if is_french else 0.0
    return samples


@pytest.fixture
def fake() -> FakeModel:
    return FakeModel()


@pytest.fixture
def multilingual(fake: FakeModel) -> WhisperEngine:
    made = WhisperEngine(AudioSettings(), make=lambda *_, **__: fake)
    made.load()
    fake.encoded.clear()
    fake.searches.clear()
    return made


def test_the_language_is_found_where_it_is_not_given(multilingual: WhisperEngine, fake: FakeModel):
    turns = [
        Utterance(spoken("one")),
        Utterance(spoken("two", is_french=True)),
        Utterance(spoken("three", is_french=True), language="en"),
    ]

    heard = multilingual.transcribe(turns)

    assert [turn.text.strip() for turn in heard] == ["one", "two", "three"]
    assert [turn.language for turn in heard] == ["en", "fr", "en"]
    assert [turn.language_probability for turn in heard] == pytest.approx([0.9, 0.8, 1.0])


@pytest.mark.parametrize(("device", "encoded"), [("cuda", [3, 3]), ("cpu", [1] * 6)])
def test_turns_of_one_language_share_an_inference(
    multilingual: WhisperEngine, fake: FakeModel, device: str, encoded: list[int]
):
    fake.model.device = device
    multilingual.transcribe([Utterance(spoken("one"), "fr"), Utterance(spoken("two"), "en")] * 3)

    assert fake.searches == [(["<|fr|>"] * 3, 0.0), (["<|en|>"] * 3, 0.0)]
    # One by one in a processor's caches.
    assert fake.encoded == encoded


def test_bad_words_are_searched_again_by_themselves_until_they_are_good(multilingual: WhisperEngine, fake: FakeModel):
    heard = multilingual.transcribe([Utterance(spoken(word), "en") for word in ("two", "bad", "three")])

    assert [turn.text.strip() for turn in heard] == ["two", "one", "three"]
    assert fake.searches == [(["<|en|>"] * 3, 0.0), (["<|en|>"], 0.2), (["<|en|>"], 0.4)]


def test_of_words_that_stay_bad_the_best_are_kept(fake: FakeModel):
    made = WhisperEngine(AudioSettings(temperatures=(0.0, 0.1)), make=lambda *_, **__: fake)

    [turn] = made.transcribe([Utterance(spoken("bad"), "en")])

    assert turn.text.strip() == "bad"
    assert turn.average_log_probability == pytest.approx(-4.5)


def test_the_first_inference_is_over_when_it_is_loaded(fake: FakeModel):
    made: Callable[..., Any] = lambda *_, **__: fake  # noqa: E731 - one line
    WhisperEngine(AudioSettings(), make=made).load()

    assert fake.encoded == [1]
