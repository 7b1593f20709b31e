"""The training learns, and the same seed learns the same."""

from __future__ import annotations

import ctypes.util
from statistics import mean

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; only the training needs it")
if ctypes.util.find_library("espeak-ng") is None:
    pytest.skip("espeak-ng's library is not installed", allow_module_level=True)

from training import corpus, speech, translation
from training.features import FULL_WINDOW
from training.network import Shape, Whisper
from training.tokens import Tokens

_PLAN = speech.Plan(steps=12, warm_up=3, batch_seconds=6)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus.build(folder, "training", 24, seed=1, processes=1)
    return corpus.Corpus(folder, "training")


def _same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_recogniser_learns_the_same_from_the_same_seed_and_from_a_checkpoint(clips, tmp_path):
    straight = speech.Trainer(clips, _PLAN)
    losses = [straight.learn()["tokens"] for _ in range(_PLAN.steps)]

    stopped = speech.Trainer(clips, _PLAN)
    while stopped.step < _PLAN.steps // 2:
        stopped.learn()
    stopped.keep(tmp_path / "speech.pt")
    resumed = speech.Trainer(clips, _PLAN)
    resumed.run(tmp_path / "speech.pt")

    assert mean(losses[-3:]) < mean(losses[:3])
    assert _same(straight.network.state_dict(), resumed.network.state_dict())
    assert _same(straight.network.state_dict(), speech.trained(tmp_path / "speech.pt", straight.tokens).state_dict())


def test_the_translator_learns_the_same_from_the_same_seed(tmp_path):
    pieces = translation.pieces(tmp_path / "spm.model", seed=1)
    trainers = [translation.Trainer(pieces, translation.Plan(steps=12, warm_up=3, lines=8)) for _ in range(2)]
    losses = [[trainer.learn() for _ in range(12)] for trainer in trainers]

    assert losses[0] == losses[1]
    assert mean(losses[0][-3:]) < mean(losses[0][:3])
    assert _same(*(trainer.network.state_dict() for trainer in trainers))


def test_a_short_batch_with_scattered_padding_stands_for_windows_of_thirty_seconds():
    torch.manual_seed(3)
    network = Whisper(Shape(Tokens().size)).eval()
    sound, counts = torch.randn(1, 80, 120), torch.tensor([120])

    def encode(frames, scatter=None):
        mel = torch.nn.functional.pad(sound, (0, frames - 120))
        with torch.no_grad():
            return network.encode(mel, counts, padding=0.0, scatter=scatter)[0][:, :60]

    truth = encode(FULL_WINDOW)
    scattered = torch.stack([encode(200, torch.Generator().manual_seed(seed)) for seed in range(8)]).mean(0)

    assert (scattered - truth).abs().mean() < (encode(200) - truth).abs().mean() / 2
